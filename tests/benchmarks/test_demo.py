"""The demo's judgement: what it takes for equal, what it complains about. The demo itself is `make demo`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.accounts import Accounts, accounts
from benchmarks.departures import Departure, Fleet, kill_one, unplug_one
from benchmarks.photographs import PHOTOGRAPHS, cached
from benchmarks.story import Comparison, Story, complaints
from coordinator.client import Client
from coordinator.errors import Failure
from tests.live import Cluster, cluster

NOTHING = Accounts(useful_s=1.0, lost_s=0.0, energy_modelled_j=1.0, leases=3, leases_lost=1)


def story(*departures: Departure) -> Story:
    return Story(start_s=1.0, done=(), departures=departures, nodes=(), accounts=NOTHING)


def left(leases: int) -> Departure:
    return Departure("car-0001", killed=False, leases=leases, stop_s=0.01, lost_s=0.1)


def compared(ties: Sequence[str] = (), wrong: Sequence[str] = ()) -> Comparison:
    return Comparison("model", "verdict", ties, wrong)


def test_a_demo_that_went_well_has_no_complaint() -> None:
    assert complaints(story(left(1), left(2)), [compared(), compared(ties=["one"])]) == []


def test_a_departure_without_a_live_lease_is_complained_of() -> None:
    assert complaints(story(left(1), left(0)), []) == ["car-0001 held no live lease when it left"]


def test_what_differs_is_complained_of_and_a_second_tie_too() -> None:
    assert complaints(story(), [compared(wrong=["item 3"])]) == ["model: item 3"]
    assert complaints(story(), [compared(ties=["one", "two"])]) == ["model: 2 answers hang by a thread; one may"]


def test_photographs_that_are_missing_or_changed_are_not_taken(tmp_path: Path) -> None:
    assert not cached(tmp_path)
    for name in PHOTOGRAPHS:
        (tmp_path / name).write_bytes(b"something else")
    assert not cached(tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_a_departure_takes_a_live_lease_away_and_its_cost_is_counted(killed: bool, tmp_path: Path) -> None:
    """On lots without torch that take their time."""

    async def play(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 3)
            items = [b"item %d" % index for index in range(8_000)]
            fleet = Fleet(tmp_path, client, live.coordinator.addresses["metrics"])
            job, _ = await client.submit("noop", items)
            departure = await (kill_one if killed else unplug_one)(fleet, ["car-0000"])
            assert departure.car != "car-0000"
            assert departure.killed is killed
            assert departure.leases >= 1
            results: list[bytes] = []
            failures: dict[int, Failure] = {}
            async for part in client.results(job.job_id):
                results.extend(part.payloads)
                failures.update(part.failures)
            assert (results, failures) == (items, {})
            counted = await asyncio.to_thread(accounts, fleet.metrics)
            assert counted.leases > counted.leases_lost >= int(killed)

    with cluster() as live:
        for number in range(3):
            live.add(f"lot-{number}", "--run-dir", str(tmp_path), first_index=number, module="tests.slow_lot")
        asyncio.run(play(live))
