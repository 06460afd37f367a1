"""The fit of days to sessions, end to end, on sessions of cars that live by a day which is known."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks import habits
from benchmarks.presence import lived, modelled, recorded
from node import plan
from node.day import Day
from node.plan import HOUR_S, Plan
from tests.benchmarks.running import measured, run, samples

MONDAY = datetime(2024, 1, 1)


def text_of(name: str) -> str:
    return (Path(plan.__file__).parent / "days" / f"{name}.toml").read_text("utf-8")


def made(path: Path, lives: Plan, cars: int = 40, weeks: int = 16) -> Path:
    """What such cars would leave in the books of a charging company."""
    stays = Day(lives, cars, 0, 3).stays(lives.start_s + weeks * 168 * HOUR_S)
    lines = ["user_id,plugin_time,plugout_time,energy_kwh"]
    for node, *ends_s in zip(stays.node.tolist(), stays.begin_s.tolist(), stays.end_s.tolist(), strict=True):
        begin, end = (MONDAY + timedelta(weeks=10, seconds=round(at_s)) for at_s in ends_s)
        lines.append(f"{node},{begin:%Y-%m-%dT%H:%M:%S},{end:%Y-%m-%dT%H:%M:%S},{5 + node % 7}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_fit_finds_the_day_that_cars_have_lived_also_for_cars_it_has_not_seen(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sessions, drawn = made(tmp_path / "sessions.csv", plan.load("home")), tmp_path / "fit.svg"
    document = measured(tmp_path, "fit", "--sessions", sessions, "--folds", 2, "--plot", drawn, "--write", tmp_path)
    for whose, points in (("all sessions", 3.0), ("unseen", 7.0)):
        (mean,) = samples(document, f"home, {whose}: plugged share by hour of week, mean gap")
        (most,) = samples(document, f"home, {whose}: plugged share, largest gap")
        assert 0 < mean < points
        assert mean < most
        for part in (5, 25, 50, 75, 95):
            (seen,) = samples(document, f"home, {whose}: windows p{part}, recorded")
            (model,) = samples(document, f"home, {whose}: windows p{part}, modelled")
            assert model == pytest.approx(seen, rel=0.35, abs=0.2)
        assert samples(document, f"home, {whose}: leaving in 1 h by hour and age, mean gap")[0] < 6
    assert drawn.read_text().startswith("<?xml")
    written = plan.parse((tmp_path / "home.toml").read_text("utf-8"))
    assert written.name == written.cohort == "home"


@pytest.mark.parametrize("name", ["home", "workplace"])
def test_the_spread_between_cars_and_the_hours_are_found_again(name: str) -> None:
    sessions, _ = lived(text_of(name), weeks=40)
    found, shape = habits.fit(sessions, habits.SHAPES[name]), plan.load(name).habits
    assert shape is not None
    assert found.hour_spread == pytest.approx(shape.hour_spread, abs=0.1)
    assert found.stay_spread == pytest.approx(shape.stay_spread, abs=0.08)
    shares = np.roll(found.arrivals[0], found.begins_h - round(shape.begins_s / HOUR_S))
    assert np.abs(shares - np.diff(shape.arrivals[0])).max() < 0.03
    chances = np.interp([0.1, 0.5, 0.9], shape.cars_part, shape.cars_chance)
    assert np.interp([0.1, 0.5, 0.9], habits.CARS_PART, found.cars) == pytest.approx(chances, abs=0.12)


def test_what_is_recorded_and_modelled_is_counted_alike() -> None:
    sessions, _ = lived(text_of("home"), weeks=40)
    seen, model = recorded(sessions), modelled(text_of("home"))
    assert np.abs(seen.plugged - model.plugged).mean() < 0.02
    assert model.plugged.mean() == pytest.approx(0.292, abs=0.01)
    assert (model.left <= model.cases).all()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["user_id,plugin_time,plugout_time", "1,2024-01-01T10:00:00,2024-01-01T12:00:00"], "no column energy_kwh"),
        (
            ["user_id,plugin_time,plugout_time,energy_kwh", "1,2024-01-01T10:00:00,2024-01-01T12:00:00,5"],
            "1 sessions are too few to fit a day to; give at least 240",
        ),
    ],
)
def test_too_little_to_fit_to_is_refused_in_a_sentence(tmp_path: Path, lines: list[str], told: str) -> None:
    path = tmp_path / "sessions.csv"
    path.write_text("\n".join(lines) + "\n")
    ended = run("fit", "--sessions", path)
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
