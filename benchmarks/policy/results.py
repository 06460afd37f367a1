"""What the runs add up to: values over the bound, what was lost, goals; as figures, a table and a plot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.drawing import plotting
from benchmarks.figures import Figure, Goal
from benchmarks.policy.core import ABLATIONS
from benchmarks.policy.mix import CELLS
from benchmarks.policy.runs import BLIND, BOUND, ORACLE, OURS, Run

VALUE_GOALS = {
    "base:0.6": 0.99,
    "base:0.9": 0.955,
    "base:1.2": 0.90,
    "weights:0.9": 0.975,
    "weights:1.2": 0.95,
}
GAP_GOAL = 0.25
LOST_GOAL, SPILT_GOAL = 0.3, 2.0
"""Per cent of the compute: lost to departures; the same with loads and with hedges that came second."""

Found = Mapping[Run, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Results:
    """All runs of some cells, policies and seeds; what no goal needs has fewer seeds."""

    found: Found
    cells: Sequence[str]
    policies: Sequence[str]

    def seeds(self, cell: str, policy: str) -> list[int]:
        """Those that were run, in order."""
        return sorted(run.seed for run in self.found if (run.cell, run.policy) == (cell, policy))

    def samples(self, cell: str, policy: str, what: str) -> list[float]:
        """A quantity of `_QUANTITIES`, a sample for each seed."""
        of = _QUANTITIES[what]
        return [
            of(self.found[Run(cell, policy, seed)], self.found[Run(cell, BOUND, seed)])
            for seed in self.seeds(cell, policy)
        ]

    def score(self, cell: str, policy: str) -> list[float]:
        """Value over the bound as the suite counts it."""
        return self.samples(cell, policy, "items" if CELLS[cell].suite.by_item else "value")

    def lead(self, cell: str, policy: str) -> float | None:
        """By how much a policy's score is above that of the core's, over the seeds that both have."""
        ours, its = (dict(zip(self.seeds(cell, one), self.score(cell, one), strict=True)) for one in (OURS, policy))
        both = ours.keys() & its.keys()
        return mean(its[seed] - ours[seed] for seed in both) if both else None

    def gap_closed(self, cell: str) -> float | None:
        """How far the forecast gets from knowing nothing of departures to knowing all, over all seeds."""
        seeds = self.seeds(cell, OURS)
        if not seeds or seeds != self.seeds(cell, BLIND) or seeds != self.seeds(cell, ORACLE):
            return None
        blind, ours, oracle = (mean(self.score(cell, policy)) for policy in (BLIND, OURS, ORACLE))
        return (ours - blind) / (oracle - blind) if oracle > blind else None

    def over_bound(self) -> dict[str, dict[str, float]]:
        """The mean score of the core's policy, by suite and load."""
        told: dict[str, dict[str, float]] = {}
        for cell in self.cells:
            if self.seeds(cell, OURS):
                suite, _, load = cell.partition(":")
                told.setdefault(suite, {})[load] = round(mean(self.score(cell, OURS)), 4)
        return told

    def figures(self) -> list[Figure]:
        """What has a goal, and what the other policies reach."""
        figures: list[Figure] = []
        for cell in self.cells:
            for policy in self.policies:
                if self.seeds(cell, policy):
                    least = VALUE_GOALS.get(cell) if policy == OURS else None
                    goal = None if least is None else Goal(at_least=least)
                    figures.append(Figure(f"{cell}: {policy}, {_score(cell)}", "", self.score(cell, policy), goal))
            closed = self.gap_closed(cell)
            if closed is not None:
                goal = Goal(at_least=GAP_GOAL) if CELLS[cell].suite.whole_items else None
                figures.append(Figure(f"{cell}: part of the gap to the oracle closed", "", [closed], goal))
            if self.seeds(cell, OURS):
                is_base = CELLS[cell].suite.name == "base"
                for what, most in (("lost", LOST_GOAL), ("spilt", SPILT_GOAL)):
                    goal = Goal(at_most=most) if is_base else None
                    samples = self.samples(cell, OURS, what)
                    figures.append(Figure(f"{cell}: {OURS}, {_PHRASES[what]}", "%", samples, goal))
        return figures

    def show(self, console: Console) -> None:
        """Tables of a row for each policy and a column for each cell."""
        for what, digits in (("value", 3), ("items", 3), ("lost", 2), ("spilt", 2), ("late", 1), ("answered", 2)):
            self._show(console, what, digits)
        self._compare(console)

    def _compare(self, console: Console) -> None:
        console.print(f"score less that of {OURS}, points of 100: mean over the same seeds", highlight=False)
        table = Table()
        table.add_column("policy")
        for cell in self.cells:
            table.add_column(cell, justify="right")
        for policy in self.policies:
            row = [self.lead(cell, policy) for cell in self.cells]
            if policy != OURS and any(lead is not None for lead in row):
                table.add_row(policy, *("" if lead is None else f"{100 * lead:+.1f}" for lead in row))
        console.print(table)

    def _show(self, console: Console, what: str, digits: int) -> None:
        unit = ", %" if what in _PER_CENT else ""
        console.print(
            f"{_PHRASES[what]}{unit}: mean ± standard deviation over seeds; without ±, one seed", highlight=False
        )
        table = Table()
        table.add_column("policy")
        for cell in self.cells:
            table.add_column(cell, justify="right")
        for policy in self.policies:
            row = [self.samples(cell, policy, what) for cell in self.cells]
            if any(row):
                table.add_row(policy, *(_told(values, digits) for values in row))
        console.print(table)

    def plot(self, path: Path) -> None:
        """Draw the scores: a group of bars for each cell, a bar for each policy."""
        plt = plotting()
        policies = [policy for policy in self.policies if policy not in ABLATIONS]
        figure, axes = plt.subplots(figsize=(11, 4.5), layout="constrained")
        width = 0.8 / len(policies)
        for at, policy in enumerate(policies):
            drawn = [(place, self.score(cell, policy)) for place, cell in enumerate(self.cells)]
            drawn = [(place, scores) for place, scores in drawn if scores]
            axes.bar(
                [place + (at + 0.5) * width - 0.4 for place, _ in drawn],
                [mean(scores) for _, scores in drawn],
                width,
                yerr=[_spread(scores) for _, scores in drawn],
                label=policy,
            )
        goals = [(place, VALUE_GOALS[cell]) for place, cell in enumerate(self.cells) if cell in VALUE_GOALS]
        for place, goal in goals:
            axes.hlines(goal, place - 0.4, place + 0.4, color="black", linewidth=1)
        axes.set_xticks(range(len(self.cells)), self.cells)
        axes.set(ylabel="value on time over the bound", ylim=(0, 1.02), title="Black: goals of the core's policy")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(ncols=len(policies), loc="lower center", fontsize="small")
        figure.savefig(path)
        plt.close(figure)


def _spent_s(one: dict[str, Any]) -> float:
    return max(1e-9, float(sum(one["account"].values())))


_QUANTITIES: dict[str, Callable[[dict[str, Any], dict[str, Any]], float]] = {
    "value": lambda one, best: one["value"] / best["value"],
    "items": lambda one, best: one["item_value"] / best["value"],
    "lost": lambda one, _: 100 * one["account"]["lost_s"] / _spent_s(one),
    "spilt": lambda one, _: 100 * (1 - one["account"]["useful_s"] / _spent_s(one)),
    "late": lambda one, _: 100 * one["late_s"] / _spent_s(one),
    "answered": lambda one, _: 100 * one["answered"] / max(1, one["requests"]),
}
_PHRASES = {
    "value": "whole jobs on time over the bound",
    "items": "items on time over the bound",
    "lost": "compute lost to departures",
    "spilt": "lost, loading, stopped or done twice",
    "late": "spent on jobs that came late",
    "answered": "requests answered within 60 s",
}
_PER_CENT = ("lost", "spilt", "late", "answered")


def _score(cell: str) -> str:
    return _PHRASES["items" if CELLS[cell].suite.by_item else "value"]


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _told(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    return f"{mean(values):.{digits}f}" + (f" ±{stdev(values):.{digits}f}" if len(values) > 1 else "")
