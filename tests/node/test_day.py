"""Days look like the data they are fitted to, and do not depend on who asks when."""

import numpy as np
import pytest

from node import plan
from node.battery import Battery
from node.day import Day
from node.plan import DAY_S, HOUR_S
from node.profile import load

PRESENCE = {  # derived_hourly_presence of the data: day of the week, hour -> share of cars connected
    (0, 14): 0.13,
    (3, 3): 0.43,
}


def fleet(cars: int = 2000, seed: int = 3) -> Day:
    return Day(plan.load("home"), cars, 0, seed)


def test_parked_cars_are_there_from_the_start_until_a_hand_unplugs_them() -> None:
    parked = Day(plan.load("parked"), 3, 0, 1)
    assert parked.advance(0.0).came.tolist() == [0, 1, 2]
    assert parked.next_change_s() == np.inf
    parked.unplug(np.array([1]), 100.0)
    changes = parked.advance(1e9)
    assert not changes.came.size
    assert not changes.left.size
    assert parked.plugged.tolist() == [True, False, True]
    assert parked.remaining_s(np.array([0]), 5000.0).tolist() == [11.4 * HOUR_S]


def test_a_window_told_by_the_driver_is_kept_and_closes() -> None:
    parked = Day(plan.load("parked"), 2, 0, 1)
    parked.advance(0.0)
    parked.plug(np.array([0]), 10.0, 60.0)
    assert parked.next_change_s() == 70.0
    assert parked.remaining_s(np.array([0]), 30.0).tolist() == [60.0]  # never less than a minute is expected
    assert parked.advance(70.0).left.tolist() == [0]


def test_home_cars_are_connected_as_long_and_as_often_as_the_data_says() -> None:
    cars = fleet(1000)
    hours = np.arange(0, 14 * 24, 0.25)
    start_s = cars.start_s
    present = np.zeros(168)
    stays: list[float] = []
    since: dict[int, float] = {}
    for hour in hours:
        now_s = start_s + hour * HOUR_S
        changes = cars.advance(now_s)
        stays += [now_s - since[node] for node in changes.left.tolist() if node in since]
        since.update(dict.fromkeys(changes.came.tolist(), now_s))
        present[int(now_s // HOUR_S) % 168] += cars.plugged.mean() / 8
    assert present.mean() == pytest.approx(0.287, abs=0.02)
    for (weekday, hour), share in PRESENCE.items():
        assert present[weekday * 24 + hour] == pytest.approx(share, abs=0.07)
    quartiles = np.quantile(stays, [0.25, 0.5, 0.75]) / HOUR_S
    assert quartiles.tolist() == pytest.approx([3.7, 11.4, 15.8], abs=1.1)


def test_a_cars_day_does_not_depend_on_how_often_one_asks_nor_on_its_neighbours() -> None:
    often, seldom, alone = fleet(20), fleet(20), Day(plan.load("home"), 1, 7, 3)
    end_s = often.start_s + 3 * DAY_S
    for now_s in np.arange(often.start_s, end_s + 1.0, 900.0):
        often.advance(float(now_s))
    seldom.advance(end_s)
    alone.advance(end_s)
    assert often.plugged.tolist() == seldom.plugged.tolist()
    assert often.next_change_s() == seldom.next_change_s()
    assert alone.plugged[0] == seldom.plugged[7]


def test_another_seed_is_another_day() -> None:
    first, second = fleet(100, seed=1), fleet(100, seed=2)
    first.advance(first.start_s)
    second.advance(second.start_s)
    assert first.plugged.tolist() != second.plugged.tolist()


def test_a_car_in_the_evening_is_expected_to_stay_the_night() -> None:
    cars = fleet()
    now_s = cars.start_s + 4 * HOUR_S  # Thursday 22:00
    cars.advance(now_s)
    expected_h = cars.remaining_s(np.flatnonzero(cars.plugged), now_s) / HOUR_S
    assert 6.0 < float(np.median(expected_h)) < 14.0
    assert expected_h.min() > 0.0


def test_an_unplugged_home_car_comes_back_another_time() -> None:
    cars = fleet(50)
    now_s = cars.start_s
    cars.advance(now_s)
    here = np.flatnonzero(cars.plugged)
    cars.unplug(here, now_s)
    assert not cars.plugged.any()
    assert now_s < cars.next_change_s() < np.inf
    assert cars.advance(now_s + 20 * DAY_S).came.size


def test_an_unknown_day_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"there is no day 'sunday'; choose one of .*home, .*parked, .*workplace"):
        plan.load("sunday")


def test_a_battery_charges_to_its_limit_and_pays_for_trips_and_compute() -> None:
    profiles = [load("hw4"), load("ai5"), load("hw4")]
    battery = Battery(profiles, np.full(3, 0.5))
    plugged = np.array([True, True, False])
    battery.advance(HOUR_S, plugged, np.array([False, True, False]))
    first, second, third = battery.state_of_charge.tolist()
    assert first == pytest.approx(0.5 + (11.5 - 0.215) / 75)
    assert second == pytest.approx(0.5 + (11.5 - 0.215 - 0.8) / 75)
    assert third == 0.5
    battery.advance(24 * HOUR_S, plugged, np.zeros(3, np.bool_))
    assert battery.state_of_charge.tolist()[:2] == [0.8, 0.8]
    battery.arrive(np.array([0, 1]), np.array([7.5, 500.0]))
    assert battery.state_of_charge.tolist()[:2] == pytest.approx([0.7, 0.05])
