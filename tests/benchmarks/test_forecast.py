"""The forecast benchmark, end to end, on sessions made here."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.forecast import NAMES, Asked
from coordinator import cohorts
from tests.benchmarks.running import measured, run, samples


def made(path: Path, users: int = 6, weeks: int = 8) -> Path:
    """Sessions of commuters: away from about 07:30 to 17:30 on every weekday, each with an hour of its own."""
    chosen = np.random.default_rng(0)
    lines = ["user_id,plugin_time,plugout_time"]
    for user in range(users):
        for day in range(7 * weeks):
            begin = datetime(2024, 1, 1, 17) + timedelta(days=day, hours=chosen.uniform(0, 1))
            end = datetime(2024, 1, 2, 6) + timedelta(days=day, hours=0.5 * user + chosen.uniform(0, 0.2))
            lines.append(f"{user},{begin:%Y-%m-%dT%H:%M:%S},{end:%Y-%m-%dT%H:%M:%S}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_later_weeks_and_unseen_users_are_forecast_drawn_and_learnt(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sessions, drawn = made(tmp_path / "sessions.csv"), tmp_path / "reliability.svg"
    files = ("--sessions", sessions, "--workplace", sessions, "--plot", drawn, "--cohorts", tmp_path)
    document = measured(tmp_path, "forecast", *files, "--date", "2024-02-05", "--until", "2024-02-20", "--folds", 2)
    for whose in ("home, later weeks", "home, unseen users", "workplace, later weeks"):
        for name in NAMES:
            assert 0 < samples(document, f"{whose}: Brier skill at {name}")[0] < 1
            assert 0 <= samples(document, f"{whose}: reliability gap at {name}")[0] < 100
    assert drawn.read_text().startswith("<?xml")
    home = cohorts.parse((tmp_path / "home.toml").read_text())
    assert home.departures.sum() == pytest.approx(6 * 49 + 1, rel=0.01)
    assert home.watched_h[:, 10:17].sum() < 4 < 100 < home.watched_h[:, :6].sum()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("user_id,plugin_time,plugout_time\n1,2024-01-01T10:00:00,later\n", "line 2: no session of a user"),
        ("user_id,plugin_time\n1,2024-01-01T10:00:00\n", "line 2: no session of a user"),
        ("user_id,plugin_time,plugout_time\n", "holds no sessions"),
    ],
)
def test_a_file_without_sessions_is_refused_with_its_line(tmp_path: Path, lines: str, told: str) -> None:
    path = tmp_path / "sessions.csv"
    path.write_text(lines)
    ended = run("forecast", "--sessions", path)
    assert ended.returncode == 1
    assert told in ended.stderr


def test_skill_is_over_the_mean_stay_rate_and_small_bins_make_no_gap() -> None:
    chance = np.array([[0.8]] * 500 + [[0.4]] * 500 + [[0.1]] * 5)
    stayed = np.array([[True]] * 400 + [[False]] * 100 + [[True]] * 250 + [[False]] * 250 + [[True]] * 5)
    asked = Asked(chance, stayed)
    mean = 655 / 1005
    brier = (400 * 0.2**2 + 100 * 0.8**2 + 250 * 0.6**2 + 250 * 0.4**2 + 5 * 0.9**2) / 1005
    assert asked.skill(0) == pytest.approx(1 - brier / (mean * (1 - mean)))
    assert asked.gap_points(0) == pytest.approx(10.0)
    assert asked.curve(0)[0].tolist() == pytest.approx([0.1, 1.0, 5 / 1005])
