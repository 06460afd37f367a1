"""`python -m benchmarks world`: worlds, one after the other, over all cores, until so many events have happened."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from itertools import count
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from time import perf_counter
from traceback import format_exception

from rich.console import Console
from rich.table import Table

from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, file, parser, terminal
from benchmarks.figures import count as whole
from benchmarks.machine import Machine
from benchmarks.world.faults import COUNTED
from benchmarks.world.paths import PATHS
from benchmarks.world.world import STORM_EVENTS, Plan, World

_GOAL = Goal(at_least=2000)
_AHEAD = 4  # worlds that wait for a process, for each process

_CASE = """
from benchmarks.world.world import Plan, World


def test_world_{seed}() -> None:
    World(Plan.of({seed})).run({storm})
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one world."""

    seed: int
    events: int
    hours: float
    digest: str
    faults: Counter[str]
    reached: Counter[str]
    violation: str  # empty: none


@dataclass(slots=True)
class Progress:
    """What became of all worlds until now; kept in a file, it is gone on with."""

    seed: int  # of the first
    storm: int  # events in each storm
    worlds: int = 0
    events: int = 0
    hours: float = 0.0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)

    def add(self, told: Told) -> None:
        """One more world is over."""
        self.worlds += 1
        self.events += told.events
        self.hours += told.hours
        self.faults += told.faults
        self.reached += told.reached

    @classmethod
    def read(cls, path: Path) -> "Progress":
        """What a file says. Raises BenchmarkFailed."""
        try:
            kept = json.loads(path.read_text())
            return cls(**{**kept, "faults": Counter(kept["faults"]), "reached": Counter(kept["reached"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BenchmarkFailed(f"{path} is no progress of worlds ({error}); remove it to begin anew") from None

    def write(self, path: Path) -> None:
        """Keep it, whole or not at all."""
        beside = path.with_name(path.name + ".new")
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        beside.write_text(json.dumps(kept) + "\n")
        beside.replace(path)


def run(seed: int, storm: int) -> Told:
    """One world from its beginning to its end, or to the first promise that is broken."""
    world = World(Plan.of(seed))
    violation = ""
    try:
        world.run(storm)
    except Exception as error:
        violation = f"at event {world.events}: " + "".join(format_exception(error)[-3:])
    trace = world.trace
    return Told(seed, world.events, world.hours, trace.digest, trace.faults, trace.reached, violation)


def main(arguments: Sequence[str]) -> int:
    """Run worlds; the exit code."""
    options = _options(arguments)
    progress = Progress(options.seed, options.storm)
    if options.resume is not None and options.resume.exists():
        progress = Progress.read(options.resume)
        if (progress.seed, progress.storm) != (options.seed, options.storm):
            kept = f"--seed {progress.seed} --storm {progress.storm}"
            raise BenchmarkFailed(f"{options.resume} was begun with {kept}; give the same, or another file")
    console, machine = terminal(), Machine.here()
    began_s, before_s = perf_counter(), progress.seconds
    for told in _worlds(progress, options.events, options.processes):
        if told.violation:
            print(f"seed {told.seed}, {told.violation}", file=sys.stderr)
            case = _CASE.format(seed=told.seed, storm=options.storm)
            print(f"{told.events} events until then; as a test case:\n{case}")
            return 1
        progress.add(told)
        progress.seconds = before_s + perf_counter() - began_s
        if options.digests:
            print(told.seed, told.digest)
        if options.resume is not None:
            progress.write(options.resume)
    _show(console, progress)
    report = _report(progress, options.processes, machine)
    report.publish(console, options.json)
    return 0


def _worlds(progress: Progress, events: int, processes: int) -> Iterator[Told]:
    """Worlds in the order of their seeds, until there were enough events."""
    seeds = count(progress.seed + progress.worlds)
    if processes == 1:
        while progress.events < events:
            yield run(next(seeds), progress.storm)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        waiting: list[Future[Told]] = []
        try:
            while progress.events < events:
                while len(waiting) < _AHEAD * processes:
                    waiting.append(pool.submit(run, next(seeds), progress.storm))
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)


def _show(console: Console, progress: Progress) -> None:
    """Faults by kind, and which ways of recovering were gone."""
    for title, kinds, found in (("faults", COUNTED, progress.faults), ("sometimes", PATHS, progress.reached)):
        table = Table("times", "in 10^7 events", title, title_justify="left")
        for kind in kinds:
            often = found[kind] / max(progress.events, 1) * 1e7
            table.add_row(f"{found[kind]:,}", f"{often:,.0f}", kind if found[kind] else f"[bold]never: {kind}")
        console.print(table)


def _report(progress: Progress, processes: int, machine: Machine) -> Report:
    figures = (
        Figure("events a second, over the cores", "/s", [progress.events / max(progress.seconds, 1e-9)], _GOAL),
        Figure("events", "", [progress.events]),
        Figure("simulated time", "hours", [progress.hours]),
        Figure("faults", "", [progress.faults.total()]),
        Figure("worlds", "", [progress.worlds]),
    )
    settings = {"seed": progress.seed, "storm": progress.storm, "processes": processes}
    counts = {"faults": dict(progress.faults), "reached": dict(progress.reached)}
    return Report("world", "no promise was broken", {**settings, **counts}, machine, figures)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser("world", __doc__ or "")
    made.add_argument("--events", type=whole, default=100_000, metavar="N", help="events altogether, at least")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the first world; the next has the next")
    made.add_argument(
        "--storm", type=whole, default=STORM_EVENTS, metavar="N", help="events among faults in a world"
    )
    made.add_argument("--processes", type=whole, default=cpu_count() or 1, metavar="N")
    made.add_argument("--resume", type=file, metavar="FILE", help="keep the progress in it, and go on from there")
    made.add_argument("--digests", action="store_true", help="print the hash of each world's trace")
    return made.parse_args(arguments)
