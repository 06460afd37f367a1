"""Days look like the data they are fitted to, and do not depend on who asks when."""

from importlib import resources

import numpy as np
import pytest

from coordinator import cohorts
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


COMING_AND_GOING = [name for name in plan.names() if plan.load(name).habits is not None]


@pytest.mark.parametrize(
    ("name", "shares"),
    [  # what is plugged in on a Wednesday at 03:00 and at 12:00, and on a Sunday at noon: no more and no less
        ("robotaxi", [(0.8, 1.0), (0.0, 0.2), (0.0, 0.2)]),
        ("van", [(0.85, 1.0), (0.0, 0.15), (0.8, 1.0)]),
        ("workplace", [(0.0, 0.02), (0.08, 0.25), (0.0, 0.05)]),
        ("optimus", [(0.9, 1.0), (0.0, 0.3), (0.85, 1.0)]),
        ("dealer", [(0.6, 0.9), (0.6, 0.9), (0.5, 0.9)]),
        ("home-no-commute", [(0.4, 0.65), (0.35, 0.6), (0.35, 0.6)]),
    ],
)
def test_each_kind_of_vehicle_is_there_when_it_should_be(name: str, shares: list[tuple[float, float]]) -> None:
    cars = Day(plan.load(name), 400, 0, 5)
    for hour, (least, most) in zip((51, 60, 156), shares, strict=True):
        cars.advance((hour + 168) * HOUR_S)
        assert least <= cars.plugged.mean() <= most, f"hour {hour}"


@pytest.mark.parametrize("name", COMING_AND_GOING)
def test_stays_of_a_car_follow_each_other_and_most_last_longer_than_a_minute(name: str) -> None:
    cars = Day(plan.load(name), 50, 0, 5)
    stays = cars.stays(cars.start_s + 21 * DAY_S)
    for car in range(50):
        of = np.flatnonzero(stays.node == car)
        of = of[np.argsort(stays.begin_s[of])]
        assert (stays.end_s[of] > stays.begin_s[of]).all()
        assert (stays.begin_s[of][1:] > stays.end_s[of][:-1]).all()
    assert np.mean(stays.end_s - stays.begin_s > 120.0) > 0.97


@pytest.mark.parametrize("name", plan.names())
def test_a_plan_names_a_cohort_that_the_coordinator_knows_and_when_it_starts_some_car_is_there(name: str) -> None:
    lived = plan.load(name)
    assert lived.name == name
    assert lived.cohort in {cohort.name for cohort in cohorts.load()}
    cars = Day(lived, 100, 0, 1)
    assert cars.advance(cars.start_s).came.size >= 10


def test_a_car_is_like_itself_and_all_cars_together_are_as_fitted() -> None:
    cars = Day(plan.load("workplace"), 300, 0, 9)
    habits = plan.load("workplace").habits
    assert habits is not None
    stays = cars.stays(cars.start_s + 70 * DAY_S)
    hour = stays.begin_s % DAY_S / HOUR_S
    usual = np.array([np.median(hour[stays.node == car]) for car in range(300)])
    within = np.median(np.abs(hour - usual[stays.node]))
    assert within < 0.6 * np.median(np.abs(hour - np.median(hour)))
    counts = np.bincount(stays.node, minlength=300)
    assert np.quantile(counts, 0.9) > 2 * np.quantile(counts, 0.1)
    length_h = (stays.end_s - stays.begin_s) / HOUR_S
    assert np.quantile(length_h, [0.25, 0.5, 0.75]).tolist() == pytest.approx([2.13, 2.82, 3.57], abs=0.15)


def test_a_car_that_is_known_to_stay_long_is_expected_to() -> None:
    cars = fleet()
    cars.advance(cars.start_s)
    now_s = cars.start_s + 4 * HOUR_S
    cars.advance(now_s)
    here = np.flatnonzero(cars.plugged)
    expected_s = cars.remaining_s(here, now_s)
    stays = fleet().stays(now_s)
    ends_s = np.zeros(2000)
    np.maximum.at(ends_s, stays.node, stays.end_s)
    remaining_s = ends_s[here] - now_s
    assert np.corrcoef(np.log(expected_s), np.log(np.maximum(remaining_s, 60.0)))[0, 1] > 0.2
    assert 0.4 < np.mean(remaining_s < expected_s) < 0.6  # the median


def test_a_mix_lives_as_each_of_its_days_by_one_clock() -> None:
    days = plan.assign("van:3,rack:2", 5)
    assert days == ("van",) * 3 + ("rack",) * 2
    assert plan.assign(plan.mix(days), 5) == days
    mixed = Day(plan.lived_together(days, "van"), 5, 0, 4)
    vans = Day(plan.load("van"), 3, 0, 4)
    for hour in range(0, 100, 3):
        mixed.advance(mixed.start_s + hour * HOUR_S)
        vans.advance(vans.start_s + hour * HOUR_S)
        assert mixed.plugged.tolist() == [*vans.plugged.tolist(), True, True]


@pytest.mark.parametrize(
    ("mix", "why"),
    [
        ("home:2,van", "'van' is no name with a count; write it like van:2"),
        ("home:2,van:2", "--day home:2,van:2 names 4 vehicles and there are 5; make them equal"),
        ("home:2,car:3", "there is no day 'car'"),
    ],
)
def test_a_mix_that_does_not_fit_is_refused_in_a_sentence(mix: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plan.assign(mix, 5)


def test_a_day_that_leaves_out_an_hour_is_refused() -> None:
    text = (resources.files("node") / "days" / "van.toml").read_text("utf-8")
    with pytest.raises(ValueError, match="day van leaves out a day of the week or an hour"):
        plan.parse(text.replace("until_hour = 24", "until_hour = 23"))
    with pytest.raises(ValueError, match="day van has cars that never plug in"):
        plan.parse(text.replace("chance = [0.8, 0.93, 1]", "chance = [0, 0.93, 1]"))
