"""How far the core's policy is from the optimum: weeks of real stays, other policies and a clairvoyant bound."""

import json
from argparse import ArgumentTypeError
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.drawing import require_plotting
from benchmarks.figures import Report, count, file, parser, terminal
from benchmarks.machine import Machine
from benchmarks.policy.core import ABLATIONS
from benchmarks.policy.mix import CELLS, FEW_SEEDS, SEEDS
from benchmarks.policy.results import Results
from benchmarks.policy.runs import BLIND, BOUND, ORACLE, OURS, POLICIES, STRONG, Files, Run, run_all

_FOLDER = Path(".benchmarks/policy")
_DRAWING = "policy.svg"
_ONLY_A_LINE = Path()


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("policy", str(__doc__).partition("\n")[0], bare_json=_ONLY_A_LINE)
    options.add_argument("--sessions", type=Path, metavar="FILE", help="of cars at home, CSV (the committed fit)")
    options.add_argument(
        "--workplace", type=Path, metavar="FILE", help="of cars at work, CSV, times in UTC (the committed fit)"
    )
    options.add_argument("--requests", type=Path, metavar="FILE", help="a trace of requests, CSV (evenly random)")
    options.add_argument(
        "--cells", type=_among("cell", CELLS), default=tuple(CELLS), metavar="NAME,...", help=f"{', '.join(CELLS)}"
    )
    options.add_argument(
        "--policies", type=_among("policy", POLICIES), metavar="NAME,...", help=f"{', '.join(POLICIES)}"
    )
    options.add_argument(
        "--seeds", type=_seeds, default=len(SEEDS), metavar="N", help=f"the first N ({len(SEEDS)})"
    )
    options.add_argument("--processes", type=count, default=2, metavar="N", help="at once (2)")
    options.add_argument(
        "--cache", type=Path, default=_FOLDER, metavar="DIR", help=f"results, so that it resumes ({_FOLDER})"
    )
    options.add_argument(
        "--plot", type=_drawing, metavar="FILE", help=f"draw the values; into a folder: {_DRAWING}"
    )
    options.add_argument("--runs", action="store_true", help="print a line for each run")
    given = options.parse_args(arguments)
    if given.plot is not None:
        require_plotting(options)
    if find_spec("scipy") is None:
        options.error("the bound needs scipy, which is not installed; pip install 'carpool[benchmarks]'")
    files = Files(given.sessions, given.workplace, given.requests)
    policies: tuple[str, ...] = given.policies or tuple(POLICIES)
    runs = _runs(given.cells, policies, SEEDS[: given.seeds], everything=given.policies is not None)
    machine, console = Machine.here(), terminal()
    found: dict[Run, dict[str, Any]] = {}
    with console.status("running") as status:
        for run, result in run_all(runs, files, given.cache, given.processes):
            found[run] = result
            status.update(f"{len(found)} of {len(runs)} runs")
    results = Results(found, given.cells, policies)
    results.show(console)
    if given.runs:
        _tell(console, found)
    report = Report(
        "policy",
        f"weeks of 400 cars on virtual time, {'recorded stays' if files.sessions else 'stays from committed fits'}",
        {
            "sessions": given.sessions and given.sessions.name,
            "workplace": given.workplace and given.workplace.name,
            "requests": given.requests and given.requests.name,
            "cells": list(given.cells),
            "policies": list(policies),
            "seeds": list(SEEDS[: given.seeds]),
        },
        machine,
        results.figures(),
        _notes(files),
    )
    report.show(console)
    if given.plot is not None:
        results.plot(given.plot)
    if given.json is not None:
        if given.json != _ONLY_A_LINE:
            report.write(given.json)
        print(json.dumps({"value_over_bound": results.over_bound()}))
    return 0


def _runs(cells: Sequence[str], policies: Sequence[str], seeds: Sequence[int], *, everything: bool) -> list[Run]:
    """Seed by seed. Unless they are asked for, policies that no goal needs have few seeds, ablations one cell."""
    return [
        Run(cell, policy, seed)
        for seed in seeds
        for cell in cells
        for policy in (*policies, BOUND)
        if everything or policy == BOUND or _is_due(cell, policy, seed)
    ]


def _is_due(cell: str, policy: str, seed: int) -> bool:
    """Whether a run is part of the table that nobody narrowed."""
    if policy in ABLATIONS:
        return seed in FEW_SEEDS and cell == ABLATIONS[policy][0]
    needed = policy in (OURS, STRONG) or (policy in (BLIND, ORACLE) and CELLS[cell].suite.whole_items)
    return needed or seed in FEW_SEEDS


def _notes(files: Files) -> list[str]:
    """Where the stays come from, and what the words mean."""
    notes = [
        f"{what}: {path.name if path else 'no file; drawn from the committed fit'}"
        for what, path in (("cars at home", files.sessions), ("cars at work", files.workplace))
    ]
    notes.append(f"requests: {files.requests.name if files.requests else 'no file; evenly random'}")
    notes.append("weights: by the item; elsewhere a job counts when all of it is done by its deadline")
    return notes


def _tell(console: Console, found: dict[Run, dict[str, Any]]) -> None:
    """A line for each run, for whoever tunes."""
    for run, one in sorted(found.items(), key=lambda each: (each[0].cell, each[0].policy, each[0].seed)):
        if run.policy == BOUND:
            continue
        best = found[Run(run.cell, BOUND, run.seed)]
        account = one["account"]
        spent_s = sum(account.values())
        parts = " ".join(f"{name[:-2]} {seconds / spent_s:.2%}" for name, seconds in account.items())
        console.print(
            f"{run.cell} {run.policy} {run.seed}: value {one['value'] / best['value']:.4f} items"
            f" {one['item_value'] / best['value']:.4f}, bound {best['value'] / one['offered']:.3f} of offered"
            f" in {best['processor_s']:.0f} s; on time {one['on_time']}/{one['jobs']}; {parts}"
            f" late {one['late_s'] / spent_s:.2%} of {spent_s / 3600:,.0f} h; {one['slices']} slices"
            f" {one['yields']} yields {one['stops']} stops;"
            f" requests {one['answered'] / max(1, one['requests']):.4f} p99 {one['wait_p99_s']:.1f} s;"
            f" {one['processor_s']:.1f} s,"
            f" {1e6 * one['policy_s'] / max(1, one['calls']):.0f} us a call",
            highlight=False,
            soft_wrap=True,
        )


def _among(what: str, known: Collection[str]) -> Any:
    """Names with commas between them, for argparse."""

    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for name in chosen:
            if name not in known:
                raise ArgumentTypeError(f"there is no {what} {name!r}; choose of {', '.join(known)}")
        return chosen

    return names


def _seeds(text: str) -> int:
    """How many seeds, for argparse."""
    if count(text) > len(SEEDS):
        raise ArgumentTypeError(f"there are {len(SEEDS)} seeds, chosen once; {text} is too many")
    return count(text)


def _drawing(text: str) -> Path:
    """A file, or a folder to put it in, for argparse."""
    return Path(text) / _DRAWING if Path(text).is_dir() else file(text)
