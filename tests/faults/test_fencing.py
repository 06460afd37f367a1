"""Zombies and survivors: a result that comes too late changes nothing, work that outlives its coordinator counts.

A stopped process is the worst kind of late: it believes in its lease, and what it sends is right.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from coordinator.client import Client, Job
from tests.faults.durable import Handed, check_recorded_once, collect, kill, metric, start_again, submit
from tests.live import Cluster, cluster, until

SLOW = "tests.slow_lot"
COUNTING = "tests.faults.counting_lot"
QUICK = "[scheduling]\nheartbeat_s = 0.2\nsilent_after_s = 0.8\n"
"""Silence ends all leases, and the stream: what the lot still holds is dropped when it greets again."""
PATIENT = "[scheduling]\nheartbeat_s = 0.2\nsilent_after_s = 50.0\nlease_least_s = 0.5\nlease_factor = 1.0\n"
"""The lease runs out while the stream is open: what the lot says of it later is under a token that is not live."""


async def begun(client: Client, job: Job) -> Job:
    """The job, once some of it is done and some is being done."""

    async def look() -> Job | None:
        now = await client.job(job.job_id)
        return now if now.items_done and now.items_leased else None

    return await until(look)


def stop_until_others_are_done(folder: Path, settings: str, metric_of_it: str) -> None:
    """A lot is stopped at work, another one does all, the first goes on: this metric tells of it."""
    config, state = folder / "config.toml", folder / "state"
    config.write_text(settings)
    handed = Handed("fenced", 3000)

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            live.add("zombie", module=SLOW)
            await live.parked(client, 1)
            job = await submit(client, handed)
            await begun(client, job)
            await client.cordon(["car-0000"])  # until it is silent it would be lent more
            live.signal("zombie", signal.SIGSTOP)
            live.add("other", module=SLOW, first_index=1)
            results, failures, job = await collect(client, job.job_id)
            assert (results, failures, job.items_done) == (handed.items, {}, handed.count)
            assert sum(node.items_done for node in await client.nodes()) == handed.count
            live.signal("zombie", signal.SIGCONT)

            async def fenced() -> bool | None:
                return await metric(live, metric_of_it) > 0 or None

            await until(fenced)
            await client.cordon(["car-0000"], cordoned=False)
            await live.parked(client, 2)
            again, failures, job = await collect(client, job.job_id)
            assert (again, failures, job.items_done) == (handed.items, {}, handed.count)
            assert sum(node.items_done for node in await client.nodes()) == handed.count, "none counts twice"
        kill(live)
        check_recorded_once(state, 1)

    with cluster("--config", str(config), "--state", str(state)) as live:
        asyncio.run(work(live))


def test_a_lot_that_was_stopped_past_its_lease_goes_on_without_it(tmp_path: Path) -> None:
    stop_until_others_are_done(tmp_path, PATIENT, "carpool_leases_expired_total")


def test_a_lot_that_was_stopped_past_its_silence_comes_back_without_its_leases(tmp_path: Path) -> None:
    stop_until_others_are_done(tmp_path, QUICK, "carpool_node_departures_total")


def test_work_that_outlives_its_coordinator_is_taken_over_and_not_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, state = tmp_path / "ran", tmp_path / "state"
    monkeypatch.setenv("RAN", str(ran))
    handed = Handed("adopted", 5000)

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            live.add("lot", module=COUNTING, vehicles=2)
            await live.parked(client, 2)
            job = await submit(client, handed)
            await begun(client, job)
            await asyncio.to_thread(kill, live)
            await asyncio.to_thread(start_again, live, "--state", str(state))
            results, failures, job = await collect(client, job.job_id)
            assert (results, failures, job.items_done) == (handed.items, {}, handed.count)
        assert sorted(ran.read_bytes().split(b"\n")[:-1]) == sorted(handed.items), "each was computed once"
        assert await metric(live, "carpool_boot_epoch") == 2
        kill(live)
        check_recorded_once(state, 1)

    with cluster("--state", str(state)) as live:
        asyncio.run(work(live))
