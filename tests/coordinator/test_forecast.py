"""How long a node stays: what holds of every forecast, and what it learns."""

from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coordinator import cohorts
from coordinator.core.events import Rows
from coordinator.core.forecast import HOUR_S, SHAPE, WEEK_H, Cohort, Floats, Forecast

DAY_S = 24 * HOUR_S
HORIZONS_S = np.array([0.0, 60.0, 900.0, HOUR_S, 4 * HOUR_S, DAY_S, 100 * DAY_S, np.inf])


def even(per_h: float = 0.1) -> Cohort:
    """Nodes that leave at any hour."""
    watched_h = np.full(SHAPE, 20.0)
    return Cohort("even", per_h * watched_h, watched_h)


def rows(count: int) -> Rows:
    """The first so many."""
    return np.arange(count, dtype=np.int32)


def live(forecast: Forecast, stays_h: list[tuple[float, float]], row: int = 0, remaining_s: float = np.nan) -> None:
    """A node of the first cohort comes and goes, in hours since a Monday 00:00."""
    one = np.array([row], np.int32)
    for begin_h, end_h in stays_h:
        forecast.plugged_in(
            one, np.array([0]), np.array([begin_h % WEEK_H]), begin_h * HOUR_S, remaining_s=remaining_s
        )
        forecast.left(one, end_h * HOUR_S)


def chance(forecast: Forecast, row: int, begin_h: float, horizon_h: float) -> float:
    """That this node, plugged in at begin_h, stays so long."""
    one = np.array([row], np.int32)
    forecast.plugged_in(one, np.array([0]), np.array([begin_h % WEEK_H]), begin_h * HOUR_S)
    return float(forecast.stays(one, np.array([horizon_h * HOUR_S]), begin_h * HOUR_S)[0, 0])


@settings(deadline=None)
@given(
    departures=arrays.arrays(np.float64, SHAPE, elements=st.floats(0, 1_000)),
    watched_h=arrays.arrays(np.float64, SHAPE, elements=st.floats(0.01, 10_000)),
    hour_of_week=arrays.arrays(np.float64, 5, elements=st.floats(0, WEEK_H)),
    age_h=arrays.arrays(np.float64, 5, elements=st.floats(0, 100)),
    remaining_h=arrays.arrays(np.float64, 5, elements=st.floats(-10, 100) | st.just(np.nan)),
    pace=st.floats(0.5, 60),
    watched_for_s=st.floats(0, 1e5),
)
def test_a_chance_is_within_0_and_1_and_falls_with_the_horizon(
    departures: Floats,
    watched_h: Floats,
    hour_of_week: Floats,
    age_h: Floats,
    remaining_h: Floats,
    pace: float,
    watched_for_s: float,
) -> None:
    departures[0, 0, 0] += 1.0
    forecast = Forecast([Cohort("any", departures, watched_h), even()])
    for now_s in (7.0, 7.0 + watched_for_s):
        forecast.plugged_in(
            rows(5),
            np.array([0, 1, 0, 1, 0]),
            hour_of_week,
            now_s,
            age_s=age_h * HOUR_S,
            remaining_s=remaining_h * HOUR_S / pace,
            pace=pace,
        )
        chances = forecast.stays(rows(5), HORIZONS_S, now_s)
        assert chances.shape == (5, len(HORIZONS_S))
        assert ((chances >= 0) & (chances <= 1)).all()
        assert (np.diff(chances) <= 1e-12).all()
        assert (chances[:, 0] > 1 - 1e-9).all()
        forecast.left(rows(4), now_s + watched_for_s / 2)
        assert (forecast.stays(rows(4), HORIZONS_S, now_s) == 0).all()
        present = forecast.present(rows(5), HORIZONS_S, now_s + watched_for_s)
        assert ((present >= 0) & (present <= 1)).all()


def test_an_even_rate_gives_the_exponential() -> None:
    forecast = Forecast([even(0.1)])
    forecast.plugged_in(rows(1), np.array([0]), np.array([20.3]), 5.0)
    expected = np.exp(-0.1 * HORIZONS_S[:6] / HOUR_S)
    assert forecast.stays(rows(1), HORIZONS_S[:6], 5.0)[0] == pytest.approx(expected, rel=1e-6)


def test_many_at_once_are_answered_as_one_by_one() -> None:
    chosen = np.random.default_rng(0)
    together, apart = Forecast(cohorts.load()), Forecast(cohorts.load())
    which, hours = chosen.integers(0, 3, 50), chosen.uniform(0, WEEK_H, 50)
    horizons_s = chosen.uniform(0, DAY_S, (50, 3))
    together.plugged_in(rows(50), which, hours, 9.0)
    for row in rows(50):
        apart.plugged_in(row[None], which[row][None], hours[row][None], 9.0)
    answers = together.stays(rows(50), horizons_s, 3_600.0)
    for row in rows(50):
        alone = apart.stays(row[None], horizons_s[row], 3_600.0)
        assert alone[0] == pytest.approx(answers[row], rel=1e-12)


def test_what_leaves_together_teaches_the_cohort_what_it_would_alone() -> None:
    together, apart = Forecast([even()]), Forecast([even()])
    hours = np.linspace(0, 160, 20)
    for forecast in (together, apart):
        forecast.plugged_in(rows(20), np.zeros(20, np.intp), hours, 0.0, age_s=1_000.0)
    together.left(rows(20), 9 * HOUR_S)
    for row in rows(20):
        apart.left(row[None], 9 * HOUR_S)
    assert together.learnt()[0].departures == pytest.approx(apart.learnt()[0].departures)
    assert together.learnt()[0].watched_h == pytest.approx(apart.learnt()[0].watched_h)
    assert together.learnt()[0].watched_h.sum() == pytest.approx(20.0 * np.prod(SHAPE) + 20 * 9.0)


def test_regular_departures_make_a_node_sharper_than_its_cohort() -> None:
    forecast = Forecast([cohort for cohort in cohorts.load() if cohort.name == "home"])
    regular = [(24.0 * day + 18.0, 24.0 * day + 31.5) for day in range(56) if day % 7 < 4]
    live(forecast, regular, row=0)
    monday_h = 8 * WEEK_H + 18.0
    assert chance(forecast, 0, monday_h, 12.0) > chance(forecast, 1, monday_h, 12.0) + 0.1
    assert chance(forecast, 0, monday_h, 15.0) < chance(forecast, 1, monday_h, 15.0) - 0.1


def test_a_node_out_of_sight_has_not_departed() -> None:
    lost, gone = Forecast([even()]), Forecast([even()])
    for _ in range(20):
        for forecast, departed in ((lost, False), (gone, True)):
            forecast.plugged_in(rows(1), np.array([0]), np.array([10.0]), 0.0)
            forecast.left(rows(1), 2 * HOUR_S, departed=departed)
    assert chance(lost, 0, 10.0, 2.0) > np.exp(-0.2) > chance(gone, 0, 10.0, 2.0)


def test_a_compressed_clock_shortens_every_horizon() -> None:
    real, fast = Forecast([even()]), Forecast([even()])
    real.plugged_in(rows(1), np.array([0]), np.array([10.0]), 0.0)
    fast.plugged_in(rows(1), np.array([0]), np.array([10.0]), 0.0, pace=60.0)
    assert fast.stays(rows(1), HORIZONS_S[:5] / 60, 30.0) == pytest.approx(
        real.stays(rows(1), HORIZONS_S[:5], 1_800.0)
    )


@pytest.mark.parametrize(("leaves_after_h", "trusted"), [(8.1, True), (2.0, False)])
def test_a_declared_end_counts_for_as_much_as_it_was_kept(leaves_after_h: float, trusted: bool) -> None:
    """It is evidence, not truth: the same word of an owner who broke it is worth less."""
    forecast = Forecast([even()])
    forecast.plugged_in(rows(1), np.array([0]), np.array([8.0]), 0.0, remaining_s=8 * HOUR_S)
    before, after = forecast.stays(rows(1), np.array([7.5, 12.0]) * HOUR_S, 0.0)[0]
    assert before > np.exp(-0.75)
    assert after < np.exp(-1.2)
    live(
        forecast,
        [(24.0 * day + 8.0, 24.0 * day + 8.0 + leaves_after_h) for day in range(20)],
        remaining_s=8 * HOUR_S,
    )
    # At hours at which it never left.
    forecast.plugged_in(rows(1), np.array([0]), np.array([20.0]), 0.0, remaining_s=8 * HOUR_S)
    later = forecast.stays(rows(1), np.array([7.5 * HOUR_S]), 0.0)[0, 0]
    assert bool(later > before) is trusted


def test_a_cohort_changes_its_ways_even_after_a_long_past() -> None:
    watched_h = np.full(SHAPE, 1e6)
    forecast = Forecast([Cohort("steady", watched_h / 100, watched_h)])
    live(forecast, [(10.0 + WEEK_H * week, 10.5 + WEEK_H * week) for week in range(1_500)])
    assert chance(forecast, 1, 10.0, 0.5) < 0.85 < np.exp(-0.005)


def test_what_ships_tells_cars_at_home_from_a_rack() -> None:
    known = cohorts.load()
    assert [cohort.name for cohort in known] == ["depot", "home", "rack", "unknown", "workplace"]
    forecast = Forecast(known)
    forecast.plugged_in(rows(5), np.arange(5), np.full(5, 18.0), 0.0)
    depot, home, rack, unknown, workplace = forecast.stays(rows(5), np.array([12 * HOUR_S]), 0.0)[:, 0]
    assert workplace < depot < 0.1 < unknown < home < 0.9 < rack


def test_figures_survive_their_file() -> None:
    learnt = cohorts.load()[1]
    again = cohorts.parse(cohorts.text(learnt, ("made",)))
    assert (again.name, again.departures.tolist()) == (learnt.name, learnt.departures.tolist())
    assert again.presence.tolist() == learnt.presence.tolist()
    with pytest.raises(ValueError, match="has ages from"):
        cohorts.parse(cohorts.text(learnt, ()).replace("from_h = 2", "from_h = 3"))


def test_a_departure_costs_little_whatever_the_fleet() -> None:
    """Of a hundred thousand nodes; 5 ms is a hundredth of a second's work for two departures a second."""
    forecast = Forecast(cohorts.load())
    everyone = rows(100_000)
    forecast.plugged_in(everyone, np.zeros(len(everyone), np.intp), np.full(len(everyone), 18.0), 0.0)
    begun_s = process_time()
    for row in range(100):
        forecast.left(everyone[row : row + 1], 12 * HOUR_S)
    assert (process_time() - begun_s) / 100 < 0.005


def commute(forecast: Forecast, cars: int, days: int, ask_h: float, horizons_h: Floats) -> tuple[Floats, Floats]:
    """Cars that come at about 18:00 on four days of five and leave at about 8:00, as the forecast is told up to an
    hour; how many it then expects to be here after each horizon, and how many are."""
    chosen = np.random.default_rng(1)
    came = np.arange(days) * 24.0 + 18.0 + chosen.normal(0, 1.0, (cars, days))
    left = np.arange(1, days + 1) * 24.0 + 8.0 + chosen.normal(0, 1.0, (cars, days))
    parked = chosen.random((cars, days)) < 0.8
    stays = np.stack([came, left], axis=-1)[parked]
    owner = np.repeat(rows(cars), parked.sum(1))
    events = [(float(hour), kind, at) for at, stay in enumerate(stays) for kind, hour in enumerate(stay)]
    for hour, kind, at in sorted(events):
        if hour > ask_h:
            break
        one = owner[at : at + 1]
        if kind == 0:
            forecast.plugged_in(one, np.array([0]), np.array([hour % WEEK_H]), hour * HOUR_S)
        else:
            forecast.left(one, hour * HOUR_S)
    expected = forecast.present(rows(cars), horizons_h * HOUR_S, ask_h * HOUR_S).sum(0)
    then_h = ask_h + horizons_h
    return expected, ((stays[:, :1] <= then_h) & (then_h < stays[:, 1:])).sum(0).astype(np.float64)


@pytest.mark.parametrize("hour", [3.0, 8.5, 13.0, 18.5])
def test_the_expected_number_of_cars_here_follows_their_daily_habit(hour: float) -> None:
    cars = 300
    horizons_h = np.arange(1.0, 25.0)
    expected, seen = commute(Forecast([even()]), cars, 44, 40 * 24.0 + hour, horizons_h)
    assert np.abs(expected - seen).max() < 0.1 * cars
    full = seen > 0.5 * cars
    assert expected[full] == pytest.approx(seen[full], rel=0.1)


def test_whoever_is_here_is_present_as_long_as_it_stays_and_may_come_back() -> None:
    forecast = Forecast([even(0.5)])
    forecast.plugged_in(rows(2), np.zeros(2, np.intp), np.full(2, 10.0), 0.0)
    forecast.left(rows(1), HOUR_S)
    horizons_s = np.array([0.0, 1.0, 8.0, 200.0]) * HOUR_S
    here = forecast.present(rows(3), horizons_s, HOUR_S)
    stays = forecast.stays(rows(3), horizons_s, HOUR_S)
    assert here[:, 0] == pytest.approx([0.0, 1.0, 0.0])
    assert (here >= stays).all()
    assert here[0, 1] > 0.1
    assert here[1, 2] > stays[1, 2] + 0.2
    assert here[:, 3] == pytest.approx([0.5, 0.5, 0.0], abs=0.1)


def test_a_car_that_has_missed_many_returns_is_not_expected_any_more() -> None:
    forecast = Forecast([even()])
    live(forecast, [(24.0 * day + 8.0, 24.0 * day + 20.0) for day in range(30)])
    soon, late = (
        forecast.present(rows(1), np.array([12 * HOUR_S]), (30 * 24.0 + hours) * HOUR_S)[0, 0]
        for hours in (0.0, 60 * 24.0)
    )
    assert soon > 0.3
    assert late < 0.01


def test_presence_of_two_thousand_cars_at_sixty_horizons_is_cheap() -> None:
    forecast = Forecast(cohorts.load())
    everyone = rows(2_000)
    forecast.plugged_in(everyone, everyone % 5, np.full(2_000, 18.0), 0.0)
    forecast.left(everyone[:500], 12 * HOUR_S)
    begun_s = process_time()
    for _ in range(5):
        forecast.present(everyone, np.linspace(0, DAY_S, 60), 14 * HOUR_S)
    assert (process_time() - begun_s) / 5 < 0.1  # 25 ms, with room for a busy machine
