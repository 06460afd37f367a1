"""The core alone: an event that places a job, and a round in which a million nodes change.

One thread, no clock and no network: `Scheduler.handle` is called with facts, as the runtime calls it.
"""

from collections.abc import Iterable, Sequence
from itertools import count as numbers
from math import inf
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, ratio, terminal
from benchmarks.machine import Machine
from coordinator import cohorts
from coordinator.core.effects import Effects, Grant
from coordinator.core.events import (
    Habits,
    JobId,
    JobSpec,
    JobsSaved,
    JobsSubmitted,
    LeaseEnd,
    LotId,
    LotJoined,
    ModelSpeed,
    NodesOffered,
    Progressed,
    SpeedsMeasured,
)
from coordinator.core.events import (
    Report as LeaseReport,
)
from coordinator.core.forecast import HOUR_S, WEEK_H, Forecast
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings

MODELS = ("minilm", "smollm2", "efficientnet-lite0", "noop")
LOT = 2_500
"""Vehicles of a lot."""
JOBS, ITEMS = 1_000, 1_000_000
SMALL, LARGE, ROUND = 10_000, 100_000, 1_000_000


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("core", str(__doc__).partition("\n")[0])
    options.add_argument("--events", type=count, default=2_000, metavar="N", help="of each kind (2,000)")
    options.add_argument("--repetitions", type=count, default=5, metavar="N", help="interleaved (5)")
    options.add_argument("--nodes", type=count, nargs=2, default=(SMALL, LARGE), metavar=("N", "M"))
    options.add_argument(
        "--round", type=count, default=ROUND, metavar="N", help="nodes that all change (1,000,000)"
    )
    given = options.parse_args(arguments)
    machine, console = Machine.here(), terminal()
    with console.status("filling two fleets") as status:
        small, large = (_Fleet(nodes) for nodes in given.nodes)
        placed: dict[_Fleet, list[float]] = {small: [], large: []}
        asked: dict[_Fleet, list[float]] = {small: [], large: []}
        plans: dict[_Fleet, list[float]] = {small: [], large: []}
        for repetition in range(given.repetitions):
            status.update(f"repetition {repetition + 1} of {given.repetitions}")
            for fleet in (small, large) if repetition % 2 else (large, small):
                placed[fleet].append(_median_us(fleet.finish_one() for _ in range(given.events)))
                asked[fleet].append(_median_us(fleet.ask_one() for _ in range(given.events)))
                plans[fleet].append(1e3 * fleet.plan())
        status.update(f"a round over {given.round:,} nodes")
        rounds = _Fleet(given.round, jobs=0)
        all_change = [rounds.all_change() for _ in range(given.repetitions)]
    few, many = (f"{nodes:,} nodes" for nodes in given.nodes)
    report = Report(
        "core",
        f"Scheduler.handle in one thread, {JOBS:,} jobs, half with deadlines; forecast and plan on",
        {
            "events": given.events,
            "repetitions": given.repetitions,
            "nodes": list(given.nodes),
            "round": given.round,
        },
        machine,
        [
            Figure(f"a slice ends, the next is placed, {few}", "us", placed[small], Goal(at_most=300)),
            Figure(f"  {many}", "us", placed[large]),
            ratio("  the larger fleet ÷ the smaller", placed[large], placed[small], Goal(at_most=2)),
            Figure(f"a request comes and is placed, {few}", "us", asked[small], Goal(at_most=300)),
            Figure(f"  {many}", "us", asked[large]),
            ratio("  the larger fleet ÷ the smaller", asked[large], asked[small], Goal(at_most=2)),
            Figure(f"the plan is made, {JOBS // 2:,} deadlines, {few}", "ms", plans[small]),
            Figure(f"  {many}", "ms", plans[large]),
            Figure(f"{given.round:,} nodes change in one event", "s", all_change, Goal(at_most=1)),
        ],
    )
    report.publish(console, given.json)
    return 0


def _median_us(seconds: Iterable[float]) -> float:
    return 1e6 * median(seconds)


class _Fleet:
    """A scheduler with so many nodes, all at work on the jobs as far as these go."""

    def __init__(self, nodes: int, jobs: int = JOBS) -> None:
        self.nodes, self._now_s = nodes, 1000.0
        self._settings = SchedulingSettings(silent_after_s=inf, lease_least_s=1e9)
        self._scheduler = Scheduler(self._settings, 1, Forecast(cohorts.load()))
        self._numbers, self._sequences = numbers(1), numbers(1)
        self._held: list[Grant] = []
        self._long = False
        self._next = 0
        self._habits = Habits(
            cohort=np.arange(nodes) % len(cohorts.load()),
            hour_of_week=np.arange(nodes, dtype=np.float64) % WEEK_H,
            age_s=np.full(nodes, HOUR_S),
            pace=np.ones(nodes),
            declared=np.zeros(nodes, np.bool_),
        )
        for lot, first in enumerate(range(0, nodes, LOT)):
            rows = np.arange(first, min(first + LOT, nodes), dtype=np.int32)
            speeds = {model: ModelSpeed(50.0 * (1 + lot % 4), 0.0, 8) for model in MODELS}
            self._handle(
                LotJoined(LotId(lot), 1, rows, ("hw4",) * len(rows), np.full(len(rows), 160.0), ()),
                SpeedsMeasured(LotId(lot), speeds),
            )
        if jobs:
            specs = tuple(self._spec(at, ITEMS, interactive=False) for at in range(jobs))
            self._handle(JobsSubmitted(specs))
            self._handle(JobsSaved(tuple(spec.job for spec in specs)))
        self.all_change()

    def all_change(self) -> float:
        """Every node offers a window that is four times as long as its last, or a quarter of it: seconds."""
        rows = np.arange(self.nodes, dtype=np.int32)
        self._now_s += 60.0
        self._long = not self._long
        windows = self._now_s + 3600.0 * (1 + (rows * 7919 % 4096) / 256.0) * (4 if self._long else 1)
        begun_s = perf_counter()
        self._handle(NodesOffered(rows, windows, np.full(self.nodes, 1.0), self._habits))
        return perf_counter() - begun_s

    def plan(self) -> float:
        """The plan is made anew, with the forecast asked: seconds."""
        self._now_s += max(self._settings.plan_every_s, self._settings.foresee_every_s)
        begun_s = perf_counter()
        self._handle()
        return perf_counter() - begun_s

    def finish_one(self) -> float:
        """A lot reports a slice done, and gets the next: seconds."""
        grant = self._held[self._next]
        items = sum(size for _, size in grant.ranges)
        done = LeaseReport(grant.token, 0, done=(1 << items) - 1, ended=LeaseEnd.FINISHED, useful_s=1.0)
        self._now_s += 0.001
        begun_s = perf_counter()
        effects = self._scheduler.handle((Progressed(grant.lot, next(self._sequences), (done,)),), self._now_s)
        elapsed_s = perf_counter() - begun_s
        fresh = [order for order in effects.send if isinstance(order, Grant)]
        if len(fresh) != 1:
            raise BenchmarkFailed(f"a slice ended and {len(fresh)} were placed")
        self._held[self._next] = fresh[0]
        self._next = (self._next + 7919) % len(self._held)
        return elapsed_s

    def ask_one(self) -> float:
        """A request of one item comes, is placed and answered: seconds of its coming."""
        spec = self._spec(0, 1, interactive=True)
        self._now_s += 0.001
        begun_s = perf_counter()
        effects = self._scheduler.handle((JobsSubmitted((spec,)),), self._now_s)
        elapsed_s = perf_counter() - begun_s
        (grant,) = (order for order in effects.send if isinstance(order, Grant))
        done = LeaseReport(grant.token, 0, done=1, ended=LeaseEnd.FINISHED)
        self._scheduler.handle((Progressed(grant.lot, next(self._sequences), (done,)),), self._now_s)
        return elapsed_s

    def _spec(self, at: int, items: int, *, interactive: bool) -> JobSpec:
        job = JobId(next(self._numbers))
        deadline_s = inf if interactive or at % 2 else self._now_s + HOUR_S * (1 + at % 24)
        return JobSpec(
            job, "local", "grpc", MODELS[at // 2 % len(MODELS)], items, 200, interactive, deadline_s, float(items)
        )

    def _handle(self, *events: object) -> Effects:
        effects = self._scheduler.handle(events, self._now_s)  # type: ignore[arg-type]
        self._held.extend(order for order in effects.send if isinstance(order, Grant))
        return effects
