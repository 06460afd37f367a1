"""What the forecast said against what came of it: every forecast is judged once, and none that nobody can judge."""

from math import inf

import numpy as np
import pytest

from coordinator.core.calibration import HORIZONS, Calibration
from coordinator.core.events import Rows
from coordinator.core.forecast import HOUR_S, Floats, Forecast
from coordinator.core.tally import Tally
from tests.coordinator.test_forecast import even


class Sure(Forecast):
    """It says the same of everybody."""

    def stays(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        return np.full((len(rows), len(HORIZONS)), 0.72)


def one_car(pace: float = 1.0) -> tuple[Calibration, Tally]:
    """A car that came at second 0, and was asked about then."""
    tally = Tally()
    calibration = Calibration(Sure([even()]), tally)
    calibration.came(np.array([7], np.int32), np.array([pace]), 0.0)
    calibration.ask(0.0)
    return calibration, tally


def counts(tally: Tally) -> dict[str, tuple[int, int]]:
    """Forecasts that were judged, by horizon: stayed, left."""
    outcomes = tally.forecast_outcomes.items()
    stayed, left = (
        [
            sum(count for (of, _, kept), count in outcomes if of == horizon and kept is whether)
            for horizon in HORIZONS
        ]
        for whether in (True, False)
    )
    return dict(zip(HORIZONS, zip(stayed, left, strict=True), strict=True))


def test_every_forecast_is_judged_when_its_car_departs() -> None:
    calibration, tally = one_car()
    for half in range(1, 5):
        calibration.ask(half * HOUR_S / 2)
    calibration.left(7, 2.1 * HOUR_S, departed=True)
    assert counts(tally) == {"15m": (4, 1), "1h": (3, 2), "4h": (0, 5)}
    assert {tenth for _, tenth, _ in tally.forecast_outcomes} == {7}
    assert tally.forecast_chances["1h", 7] == pytest.approx(5 * 0.72)


def test_of_a_car_out_of_sight_only_what_was_due_is_judged() -> None:
    calibration, tally = one_car()
    calibration.left(7, 1.1 * HOUR_S, departed=False)
    assert counts(tally) == {"15m": (1, 0), "1h": (1, 0), "4h": (0, 0)}
    calibration.ask(9 * HOUR_S)
    calibration.left(7, 9 * HOUR_S, departed=True)
    assert sum(tally.forecast_outcomes.values()) == 2


def test_horizons_are_of_the_cars_clock() -> None:
    calibration, tally = one_car(pace=60.0)
    calibration.ask(29.0)
    assert counts(tally)["15m"] == (0, 0)
    calibration.ask(30.0)
    calibration.left(7, 61.0, departed=True)
    assert counts(tally) == {"15m": (2, 0), "1h": (1, 1), "4h": (0, 2)}


def test_of_a_city_a_few_hundred_cars_are_sampled() -> None:
    tally = Tally()
    calibration = Calibration(Sure([even()]), tally)
    everyone = np.arange(1_000_000, dtype=np.int32)
    for some in np.split(everyone, 10):
        calibration.came(some, np.ones(len(some)), 0.0)
        calibration.ask(0.0)
    for row in everyone[::1000].tolist() + everyone[:-1:1024].tolist():
        calibration.left(row, inf, departed=True)
    assert 200 < tally.forecast_outcomes["1h", 7, True] <= 512


def test_a_good_forecast_is_found_good() -> None:
    forecast, tally = Forecast([even(0.3)]), Tally()
    calibration = Calibration(forecast, tally)
    rows = np.arange(512, dtype=np.int32)
    forecast.plugged_in(rows, np.zeros(512, np.intp), np.full(512, 10.0), 0.0)
    calibration.came(rows, np.ones(512), 0.0)
    leaves_s = np.random.default_rng(2).exponential(HOUR_S / 0.3, 512)
    calibration.ask(0.0)
    for row in np.argsort(leaves_s).tolist():
        calibration.left(row, float(leaves_s[row]), departed=True)
    for horizon, hours in HORIZONS.items():
        stayed, left = counts(tally)[horizon]
        assert stayed / (stayed + left) == pytest.approx(np.exp(-0.3 * hours), abs=0.06)
        said = sum(total for (of, _), total in tally.forecast_chances.items() if of == horizon)
        assert said / (stayed + left) == pytest.approx(np.exp(-0.3 * hours), abs=0.01)
