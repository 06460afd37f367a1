"""Figures: medians, spread, goals, and what is written of them."""

import io
import json
from pathlib import Path

from rich.console import Console

from benchmarks.figures import Figure, Goal, Report, percentile, ratio
from benchmarks.machine import Machine
from tests.benchmarks.running import run

NAMES = (
    "batch, core, dispatch, fit, fleet-size, forecast, fronts, handover, interactive, living, owner-stop, policy, "
    "roofline, seams, serve, store, traffic, weights-fetch, world"
)


def report(*figures: Figure) -> Report:
    """Of a benchmark that ran nothing."""
    return Report("none", "nothing ran", {"pairs": 5}, Machine.here(), figures)


def shown(given: Report) -> str:
    """Its table as text."""
    text = io.StringIO()
    given.show(Console(file=text, width=140))
    return text.getvalue()


def test_a_figure_is_the_median_of_its_samples_with_their_quartiles() -> None:
    figure = Figure("rate", "/s", [5.0, 1.0, 2.0, 4.0, 3.0])
    assert figure.median == 3.0
    assert figure.quartiles == (2.0, 4.0)


def test_few_samples_are_shown_with_their_range() -> None:
    assert Figure("rate", "/s", [3.0, 1.0]).quartiles == (1.0, 3.0)


def test_a_percentile_is_a_sample_that_so_many_do_not_exceed() -> None:
    assert percentile([float(number) for number in range(200, 0, -1)], 99) == 198.0
    assert percentile([2.0, 1.0], 99) == 2.0


def test_a_ratio_is_taken_within_each_pair() -> None:
    """The machine was four times slower during the second pair."""
    assert ratio("ours ÷ theirs", [80.0, 20.0], [100.0, 25.0]).samples == [0.8, 0.8]


def test_a_missed_goal_is_said_and_a_met_one_is_not() -> None:
    text = shown(
        report(
            Figure("fast enough", "x", [0.7], Goal(at_least=0.6)),
            Figure("too slow", "s", [2.5], Goal(at_most=2.0)),
        )
    )
    assert "missed: too slow is 2.5 s; the goal is at most 2" in text
    assert "missed: fast enough" not in text


def test_the_file_holds_every_sample_and_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    report(Figure("rate", "/s", [1.0, 2.0], Goal(at_least=3.0))).write(file)
    document = json.loads(file.read_text())
    (figure,) = document["figures"]
    assert (figure["samples"], figure["median"], figure["met"]) == ([1.0, 2.0], 1.5, False)
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["packages"]["grpcio"]


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "figures.json"
    ended = run("dispatch", "--json", file)
    assert ended.returncode == 2
    assert f"{file} cannot be written" in ended.stderr


def test_every_benchmark_is_listed_on_one_line() -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines] == NAMES.split(", ")


def test_an_unknown_benchmark_is_refused_with_those_that_are_there() -> None:
    ended = run("speed")
    assert ended.returncode == 2
    assert ended.stderr == f"benchmarks: there is no 'speed'; choose one of {NAMES}\n"
