"""Storms meet many cars at once, on top of their days, and are the same for the same seed."""

import numpy as np
import pytest

from node import plan, storm
from node.day import Day
from node.plan import DAY_S, HOUR_S


def parked(text: str, cars: int = 50, seed: int = 1) -> Day:
    return Day(plan.load("parked"), cars, 0, seed, storm.parse(text))


def test_an_update_takes_each_car_away_for_half_an_hour_within_three_hours() -> None:
    cars = parked("update@2")
    assert cars.advance(0.0).came.size == 50
    away_s = np.zeros(50)
    most = 0
    for now_s in np.arange(0.0, 6 * HOUR_S, 60.0):
        cars.advance(float(now_s))
        away_s += np.where(cars.plugged, 0.0, 60.0)
        most = max(most, int((~cars.plugged).sum()))
        assert cars.plugged.all() or 2 * HOUR_S <= now_s <= 5.5 * HOUR_S
    assert away_s == pytest.approx(np.full(50, 1800.0), abs=60.0)
    assert 2 <= most <= 25


def test_a_power_cut_takes_all_cars_at_once_and_ends_no_stay() -> None:
    cars = parked("power-cut@1")
    cars.advance(0.0)
    assert cars.next_change_s() == HOUR_S
    assert cars.advance(HOUR_S).left.size == 50
    assert cars.next_change_s() == 2 * HOUR_S
    back = cars.advance(2 * HOUR_S)
    assert back.came.size == 50
    assert not back.used_kwh.any()  # nobody drove
    assert cars.age_s(back.came, 2 * HOUR_S).tolist() == [2 * HOUR_S] * 50
    assert cars.next_change_s() == np.inf


def test_who_slept_through_a_storm_is_told_of_leaving_and_coming() -> None:
    cars = parked("power-cut@1")
    cars.advance(0.0)
    changes = cars.advance(DAY_S)
    assert changes.left.size == changes.came.size == 50


def test_a_hand_that_plugs_a_car_in_ends_the_storm_for_it() -> None:
    cars = parked("power-cut@1", 2)
    cars.advance(0.0)
    cars.advance(HOUR_S)
    cars.plug(np.array([0]), HOUR_S + 60.0, None)
    assert cars.plugged.tolist() == [True, False]
    assert cars.advance(HOUR_S + 120.0).left.tolist() == []
    assert cars.advance(2 * HOUR_S).came.tolist() == [1]


@pytest.mark.parametrize(("name", "ordinary", "festive"), [("workplace", 0.1, 0.03), ("van", 0.3, 0.8)])
def test_on_a_holiday_nobody_comes_to_work_and_vans_stay_in(name: str, ordinary: float, festive: float) -> None:
    def share_at_noon(storms: str) -> float:
        lived = plan.load(name)
        cars = Day(lived, 300, 0, 1, storm.parse(storms))
        noon_s = (np.floor(lived.start_s / DAY_S) + 1.45) * DAY_S
        cars.advance(noon_s)
        return float(cars.plugged.mean())

    at_h = 24 - plan.load(name).start_s % DAY_S / HOUR_S + 8
    plain, holiday = share_at_noon(""), share_at_noon(f"holiday@{at_h}")
    if festive < ordinary:
        assert holiday < festive < ordinary < plain
    else:
        assert plain < ordinary < festive < holiday


def test_a_storm_is_a_function_of_the_seed_and_the_vehicle() -> None:
    one, same, other = parked("update"), parked("update"), parked("update", seed=2)
    alone = Day(plan.load("parked"), 1, 7, 1, storm.parse("update"))
    for cars in (one, same, other, alone):
        cars.advance(2.5 * HOUR_S)
    assert one.plugged.tolist() == same.plugged.tolist() != other.plugged.tolist()
    assert alone.plugged[0] == one.plugged[7]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("flood", "there is no storm 'flood'; choose one of holiday, power-cut, update"),
        ("update@soon", "storm 'update@soon' has no hour; write it like update@2.5"),
        ("update@-1", "has no hour"),
        ("update@nan", "has no hour"),
    ],
)
def test_a_storm_that_cannot_be_is_refused_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        storm.parse(text)
