"""`carpool day` shows how modelled vehicles live, and refuses what cannot be in one sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from node import storm
from node.commands.day import day, live

app = typer.Typer()
app.command()(day)


def invoked(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(one) for one in arguments])


def test_a_week_of_a_car_shows_shares_windows_and_charge() -> None:
    done = invoked("hw4", "van", "--seed", 3)
    assert done.exit_code == 0
    assert done.output.splitlines()[2].startswith("monday ")
    assert re.search(r"^1 car: \d windows? ended of .* h \(quartiles\)", done.output, re.MULTILINE)
    assert re.search(r"^mon \d\d:\d\d  tue \d\d:\d\d +\d+\.\d +\d+% +\d+%$", done.output, re.MULTILINE)
    assert done.output == invoked("hw4", "van", "--seed", 3).output


def test_windows_shares_and_charge_tell_the_same_story() -> None:
    seen = live(["hw4"] * 20, ["robotaxi"] * 20, storm.parse("power-cut@30"), 3, 1)
    steps = np.zeros_like(seen.plugged)
    for car, begin_s, end_s, then, later in seen.windows:
        steps[:, car] |= (begin_s <= seen.at_s) & (seen.at_s < end_s)
        assert 0.05 <= then <= later <= 0.8
    assert (steps == seen.plugged).all()
    assert not seen.plugged[30 * 4 : 31 * 4].any()
    assert seen.plugged.any(axis=0).all()


def test_a_mix_is_counted_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "week.png"
    done = invoked("hw4:2,ai5:1", "home:2,rack:1", "--storm", "update@3,holiday", "--days", 2, "--plot", drawn)
    assert done.exit_code == 0
    assert "3 cars: " in done.output
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_rack_stands_beside_cars_and_is_always_full() -> None:
    done = invoked("rack:1,hw4:1", "rack:1,home:1", "--days", 2)
    assert done.exit_code == 0
    assert "100%" in done.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("hw9", "home"), "there is no profile 'hw9'"),
        (("hw4", "sunday"), "there is no day 'sunday'"),
        (
            ("hw4:1,rack:1", "rack:1,home:1"),
            "'rack' is no vehicle, it has no battery, and on --day home they drive",
        ),
        (("hw4:2", "home:3"), "--day home:3 names 3 vehicles and there are 2"),
        (("hw4", "home", "--storm", "flood"), "there is no storm 'flood'"),
        (("hw4", "home", "--plot", "/nowhere/week.png"), "--plot /nowhere/week.png cannot be drawn"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(arguments: tuple[str, ...], why: str) -> None:
    done = invoked(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("carpool: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
