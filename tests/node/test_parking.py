"""Off its charger a car drives or stands; one whose owner lends it while it stands works from its battery."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.audit import audit
from node import client, plan
from node.day import Day
from node.plan import DAY_S, HOUR_S
from node.terms import WILLING
from protos import link_pb2
from tests.node.test_agent import grant, running

LENT_PARKED = replace(WILLING, parked=True, least_charge=0.1, cellular_gb_a_month=1.0)
SPEED = 60.0


def test_cars_drive_a_few_per_cent_of_their_time_and_stand_by_their_chargers_most_of_it() -> None:
    cars = Day(plan.load("home"), 400, 0, 1)
    drives, parked, by_charger = [], [], []
    for step in range(7 * 24 * 4):
        cars.advance(cars.start_s + step * 900.0)
        assert not (cars.plugged & cars.parked).any()
        drives.append(1.0 - (cars.plugged | cars.parked).mean())
        parked.append(cars.parked.mean())
        by_charger.append((cars.parked & cars.by_charger).mean())
    assert np.mean(drives) == pytest.approx(0.04, abs=0.015)  # RAC
    assert np.mean(parked) == pytest.approx(1 - 0.29 - 0.04, abs=0.03)
    assert np.mean(by_charger) == pytest.approx(0.73 - 0.29, abs=0.08)  # RAC: parked at home, less plugged in


@pytest.mark.parametrize("name", [name for name in plan.names() if plan.load(name).away is not None])
def test_where_a_car_stands_does_not_depend_on_how_often_one_asks(name: str) -> None:
    often, seldom = Day(plan.load(name), 60, 0, 3), Day(plan.load(name), 60, 0, 3)
    end_s = often.start_s + 3 * DAY_S
    used = np.zeros((2, 60))
    for now_s in np.arange(often.start_s, end_s + 1.0, 900.0):
        changes = often.advance(float(now_s))
        used[0, changes.travelled] += changes.used_kwh
    seldom.advance(end_s)
    assert often.parked.tolist() == seldom.parked.tolist()
    assert often.age_s(np.arange(60), end_s).tolist() == seldom.age_s(np.arange(60), end_s).tolist()


def test_a_trip_is_paid_for_once_when_the_car_first_stops() -> None:
    cars = Day(plan.load("home"), 200, 0, 2)
    cars.advance(cars.start_s)
    absences, paid = np.zeros(200, np.int64), np.zeros(200, np.int64)
    for step in range(1, 5 * 24 * 20):
        changes = cars.advance(cars.start_s + step * 180.0)
        absences[changes.left] += 1
        paid[changes.travelled] += 1
    away = ~cars.plugged & ~cars.parked
    assert (np.abs(absences - paid) <= 1).all()
    assert (paid[~away] >= absences[~away]).all()


def test_a_car_that_does_not_stand_by_its_charger_drives_before_it_is_plugged_in() -> None:
    cars = Day(plan.load("home"), 200, 0, 2)
    moved, stayed = 0, 0
    for step in range(5 * 24 * 20):
        before, by_charger = cars.parked.copy(), cars.by_charger.copy()
        changes = cars.advance(cars.start_s + step * 180.0)
        came, drove = np.zeros(200, np.bool_), np.zeros(200, np.bool_)
        came[changes.came], drove[changes.drove] = True, True
        assert (drove | by_charger)[came & before].all()
        moved += int((drove & came).sum())
        stayed += int((came & before & ~drove).sum())
    assert stayed > 10 * moved, "a drive lasts longer than a look"


def first_parked(by_charger: bool) -> tuple[int, float]:
    """A seed with which the first of two home cars stands off its charger for an hour from the start, and the
    seconds that it will."""
    for seed in range(1000):
        cars = Day(plan.load("home"), 2, 4, seed)
        cars.advance(cars.start_s)
        if cars.parked[0] and bool(cars.by_charger[0]) == by_charger:
            stands_s = next(
                (step * 60.0 for step in range(24 * 60) if 0 in cars.advance(cars.start_s + step * 60.0).drove), 0.0
            )
            if HOUR_S < stands_s < 4 * HOUR_S:
                return seed, stands_s
    raise AssertionError("no such seed")


def test_a_parked_car_whose_owner_lends_it_works_until_it_drives(tmp_path: Path) -> None:
    seed, stands_s = first_parked(by_charger=False)
    folder = tmp_path / "facts"

    async def scene() -> None:
        lent = {"day": "home", "seed": seed, "speed": stands_s / 4.0, "terms": (LENT_PARKED, WILLING)}
        async with running(tmp_path, facts=folder, **lent) as lot:
            offers = (await lot.coordinator.until(lambda m: any(o.node == 0 for o in m.offers))).offers
            (offer,) = [offer for offer in offers if offer.node == 0]
            assert (offer.cohort, offer.share > 0) == ("parked", True)
            cars = {car.name: car for car in await asyncio.to_thread(client.parked, tmp_path)}
            assert (cars["car-0004"].plugged_in, cars["car-0004"].parked) == (False, True)
            await lot.coordinator.to_say.put(grant(1, 0, [b""], deferred=(0,)))
            left = await lot.coordinator.until(lambda m: any(one.node == 0 for one in m.departures))
            ends = [report.cause for report in left.reports if report.ended]
            assert ends == [link_pb2.END_CAUSE_UNPLUGGED]

    asyncio.run(scene())
    found = audit(folder)
    assert (found.leases, found.violations) == (1, [])


def test_a_parked_car_that_is_plugged_in_keeps_its_lease(tmp_path: Path) -> None:
    seed, _ = first_parked(by_charger=True)

    async def scene() -> None:
        lent = {"day": "home", "seed": seed, "speed": SPEED, "terms": (LENT_PARKED, WILLING)}
        async with running(tmp_path, **lent) as lot:
            lot.coordinator.inputs[0] = b"large"
            await lot.coordinator.to_say.put(grant(1, 0, [b""], deferred=(0,)))
            await lot.coordinator.fetching.wait()
            await asyncio.to_thread(client.plug, tmp_path, ["car-0004"], 600.0)
            lot.coordinator.inputs_ready.set()
            assert await lot.coordinator.results(1) == [b"large"]

    asyncio.run(scene())


def test_an_owner_who_lends_a_parked_car_no_more_has_it_at_once(tmp_path: Path) -> None:
    seed, _ = first_parked(by_charger=True)

    async def scene() -> None:
        lent = {"day": "home", "seed": seed, "speed": SPEED, "terms": (WILLING, WILLING)}
        async with running(tmp_path, **lent) as lot:
            await asyncio.to_thread(client.terms, tmp_path, ["car-0004"], {"parked": True})
            await lot.coordinator.until(lambda m: any(o.node == 0 and o.share > 0 for o in m.offers))
            await asyncio.to_thread(client.terms, tmp_path, ["car-0004"], {"parked": False})
            left = await lot.coordinator.until(lambda m: bool(m.departures))
            assert [departure.node for departure in left.departures] == [0]

    asyncio.run(scene())
