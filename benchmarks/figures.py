"""Figures of a benchmark: samples and their spread, goals, a table for people, a file for programs.

A figure is quoted as the median of its samples with their quartiles. What is compared is measured in one run, in
interleaved pairs, and the ratio is taken within each pair: a machine that is twice as fast in the afternoon
changes neither.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, inf
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine


class BenchmarkFailed(Exception):
    """Something was wrong: an answer, a process, the surroundings. The message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a median should reach. One of the two is given."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        """Whether a median reaches it."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: its samples, one for each repetition, in the order of measuring."""

    name: str
    unit: str  # "x" for a ratio
    samples: Sequence[float]
    goal: Goal | None = None

    @property
    def median(self) -> float:
        """The middle sample."""
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the samples; of fewer than four, all of them."""
        if len(self.samples) < 4:
            return min(self.samples), max(self.samples)
        first, _, third = quantiles(self.samples, n=4, method="inclusive")
        return first, third

    @property
    def met(self) -> bool:
        """Whether the goal is reached; True without one."""
        return self.goal is None or self.goal.met_by(self.median)


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], goal: Goal | None = None) -> Figure:
    """Ours by theirs, pair by pair."""
    return Figure(name, "x", [one / other for one, other in zip(ours, theirs, strict=True)], goal)


def percentile(samples: Sequence[float], per_cent: float) -> float:
    """The smallest sample that so many per cent of all do not exceed."""
    return sorted(samples)[ceil(per_cent / 100.0 * len(samples)) - 1]


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark found out, on which machine and with which settings."""

    benchmark: str
    layout: str  # one sentence: which processes ran
    settings: dict[str, Any]
    machine: Machine
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default=())

    def show(self, console: Console) -> None:
        """Print the table, and below it every goal that was missed."""
        table = Table(title=f"{self.benchmark}: {self.layout}", title_justify="left")
        for heading in ("figure", "median", "quartiles", "of", "goal", ""):
            table.add_column(heading, justify="left" if heading in ("figure", "goal", "") else "right")
        for figure in self.figures:
            low, high = figure.quartiles
            verdict = "" if figure.goal is None else "met" if figure.met else "[bold]missed"
            table.add_row(
                figure.name,
                f"{_shown(figure.median)} {figure.unit}",
                f"{_shown(low)} - {_shown(high)}",
                str(len(figure.samples)),
                str(figure.goal or ""),
                verdict,
            )
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False)
        for figure in self.figures:
            if not figure.met:
                text = f"missed: {figure.name} is {_shown(figure.median)} {figure.unit}; the goal is {figure.goal}"
                console.print(text, highlight=False)
        console.print(self.machine.summary, highlight=False)

    def publish(self, console: Console, path: Path | None) -> None:
        """Print it, and write it where --json says so."""
        self.show(console)
        if path is not None:
            self.write(path)

    def write(self, path: Path) -> None:
        """Write everything as one JSON object."""
        document = {
            "benchmark": self.benchmark,
            "layout": self.layout,
            "settings": self.settings,
            "machine": asdict(self.machine),
            "figures": [_document(figure) for figure in self.figures],
            "notes": list(self.notes),
        }
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def terminal() -> Console:
    """Where tables go: as wide as the terminal, and wide enough where there is none."""
    return Console(width=None if Console().is_terminal else 120)


def parser(name: str, description: str, bare_json: Path | None = None) -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark has. `bare_json` is what --json without a file means."""
    made = argparse.ArgumentParser(f"python -m benchmarks {name}", description=description, allow_abbrev=False)
    text = "write the figures and the machine to it"
    if bare_json is None:
        made.add_argument("--json", type=file, metavar="FILE", help=text)
    else:
        text += "; with a file or none, the last line printed is JSON"
        made.add_argument("--json", type=file, metavar="FILE", help=text, nargs="?", const=bare_json)
    return made


def count(text: str) -> int:
    """A whole number over 0, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number over 0")
    return int(text)


def seconds(text: str) -> float:
    """A time over 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, over 0")
    return value


def file(text: str) -> Path:
    """Where a file can be written: found out before the measuring, not after."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written; name a file in a folder that is there")
    return path


def _document(figure: Figure) -> dict[str, Any]:
    goal = figure.goal
    return {
        "name": figure.name,
        "unit": figure.unit,
        "median": figure.median,
        "quartiles": figure.quartiles,
        "samples": list(figure.samples),
        "goal": None if goal is None else {"at_least": goal.at_least, "at_most": goal.at_most},
        "met": figure.met,
    }


def _shown(value: float) -> str:
    """Three significant digits; whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
