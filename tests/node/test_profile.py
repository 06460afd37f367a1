"""Profiles are files; a mix of them is checked where it enters."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from node import profile
from node.battery import Battery
from node.commands.profiles import profiles

HERE = """
name = "one"
title = "One"
[compute]
int8_tops = 10
[source]
int8_tops = "assumed"
"""


def test_every_profile_file_can_be_read() -> None:
    every = {name: profile.load(name) for name in profile.names()}
    assert {"ai5", "b200", "dojo_d1", "gb200", "groq_lpu", "h100", "hw3", "hw4", "optimus", "rack"} <= every.keys()
    assert all(name == found.name for name, found in every.items())
    hw4, ai5 = every["hw4"], every["ai5"]
    assert (hw4.board_w, hw4.int8_tops, hw4.half_tops) == (160.0, 250.0, None)
    assert (ai5.board_w, ai5.int8_tops) == (800.0, 2000.0)
    assert hw4.spread["int8_tops"] == (50.0, 500.0)
    assert (hw4.wake_j, hw4.cabin_k_per_kw, hw4.pack_h) == (12900.0, 12.0, 10.0)
    assert hw4.source["wake_j"].startswith("assumed")
    assert (every["rack"].wake_j, every["rack"].cabin_k_per_kw, every["rack"].throttle_to_c) == (0.0, 0.0, 70.0)
    assert {name for name, found in every.items() if found.battery} == {"ai5", "hw3", "hw4", "optimus"}


def test_a_rack_is_the_sum_of_its_boards() -> None:
    rack, board = profile.load("rack"), profile.load("hw4")
    for key in ("int8_tops", "memory_gb", "bandwidth_gb_per_s", "board_w"):
        assert rack.figures[key] == 40 * board.figures[key]


def test_what_has_no_battery_is_full_and_drives_nowhere() -> None:
    kinds = [profile.load("rack"), profile.load("optimus"), profile.load("hw4")]
    battery = Battery(kinds, np.full(3, 0.5))
    battery.advance(3600.0, np.array([True, True, False]), np.array([True, True, True]))
    rack, robot, car = battery.state_of_charge.tolist()
    assert (rack, car) == (1.0, 0.5)
    assert robot == pytest.approx(0.8)  # 1.3 kW into 2.3 kWh, up to its limit
    profile.require_vehicles(["hw4", "optimus"], "they drive")
    with pytest.raises(
        ValueError, match="'rack' is no vehicle, it has no battery, and they drive; choose one of ai5"
    ):
        profile.require_vehicles(["hw4", "rack"], "they drive")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("[power]\nboard_w = 5", r"give each figure its line in \[source\].*: board_w"),
        ("[power]\nint8_tops = 5", r"\[power\] has no figure 'int8_tops'"),
        ("[spread]\nint8_tops = [1, 9]", "the spread of int8_tops, 1 to 9, lacks its figure"),
        ("[spread]\nboard_w = [1, 9]", "the spread of board_w, 1 to 9, lacks its figure"),
    ],
)
def test_a_figure_without_its_source_or_outside_its_spread_is_refused(more: str, why: str) -> None:
    assert profile.parse(HERE).figures == {"int8_tops": 10.0}
    with pytest.raises(ValueError, match=why):
        profile.parse(f"{HERE}\n{more}")


def told(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(profiles)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, " ".join(result.output.split())


def test_the_command_lists_all_and_tells_one_with_spread_and_source() -> None:
    code, said = told()
    assert code == 0
    assert all(name in said for name in profile.names())
    assert "(50 - 500)" in said
    code, said = told("hw4")
    assert code == 0
    assert "a vehicle" in said
    assert "half_tops unknown" in said
    assert "board_w 160 W 80 - 160 assumed: sources give 80-100 (unanswered.io) to 160, none official" in said
    assert "no vehicle: it has no battery" in told("h100")[1]
    code, said = told("hw9")
    assert code == 2
    assert "there is no profile 'hw9'; choose one of ai5" in said


def test_a_mix_names_each_vehicles_profile_in_order() -> None:
    assert profile.assign("hw4:2,ai5:1", None) == ("hw4", "hw4", "ai5")
    assert profile.assign("ai5", 3) == ("ai5",) * 3


@pytest.mark.parametrize(
    ("mix", "vehicles", "why"),
    [
        ("hw9", None, "there is no profile 'hw9'; choose one of ai5, b200"),
        ("hw4:2,hw9:1", None, "there is no profile 'hw9'"),
        ("hw4:2,ai5", None, "'ai5' is no name with a count; write it like ai5:2"),
        ("hw4:x", None, "'hw4:x' is no name with a count"),
        ("hw4:2,ai5:2", 6, "names 4 vehicles and there are 6; make them equal"),
    ],
)
def test_a_wrong_mix_is_refused_in_one_sentence(mix: str, vehicles: int | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        profile.assign(mix, vehicles)
