"""The durable store: what it costs a submission beside memory and raw SQLite, a restart, a job of a million items.

Two coordinators of the same make, one with `--state DIR` and one with `--state :memory:`, each with a lot of one
car that echoes. All clients but `carpool run` are in this process.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from benchmarks.accounts import scraped
from benchmarks.cluster import ECHO, Cluster
from benchmarks.drawing import require_plotting
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, file, parser, ratio, seconds, terminal
from benchmarks.file_run import file_run
from benchmarks.machine import Machine
from benchmarks.payloads import BYTES
from benchmarks.process import Process
from benchmarks.recovery import Recovery, plot, recovery
from benchmarks.submitting import closed_loop, drain, open_loop, submitted, through
from coordinator.config import MEMORY
from coordinator.store.segments import RECORD_BYTES

LIVE_JOBS = (1_000, 10_000, 100_000)
LARGE = 1_000_000
RAW_S = 60.0  # what a commit of raw SQLite may take
_COMMITS = "carpool_store_commit_duration_seconds_bucket"


@dataclass(slots=True)
class _Samples:
    """What was measured, a sample for every pair."""

    durable_per_s: list[float] = field(default_factory=list)
    memory_per_s: list[float] = field(default_factory=list)
    durable_still_per_s: list[float] = field(default_factory=list)  # while the lot is paused and runs nothing
    memory_still_per_s: list[float] = field(default_factory=list)
    half_per_s: list[float] = field(default_factory=list)
    commit_p99_ms: list[float] = field(default_factory=list)
    answer_p99_ms: list[float] = field(default_factory=list)
    ours_per_s: list[float] = field(default_factory=list)
    records_per_s: list[float] = field(default_factory=list)  # raw SQLite, a row for each of our records
    rows_per_s: list[float] = field(default_factory=list)  # raw SQLite, a row for each item


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("store", str(__doc__).partition("\n")[0])
    options.add_argument("--pairs", type=count, default=5, metavar="N", help="interleaved repetitions (5)")
    options.add_argument("--seconds", type=seconds, default=3.0, metavar="S", help="of each measurement (3)")
    options.add_argument("--clients", type=count, default=256, metavar="N", help="that submit at a time (256)")
    options.add_argument("--items", type=count, default=100_000, metavar="N", help="of one submission (100,000)")
    options.add_argument("--live", type=count, nargs="+", default=LIVE_JOBS, metavar="N", help="jobs at a restart")
    options.add_argument("--large", action="store_true", help=f"a restart with {LARGE:,} live jobs, too")
    options.add_argument("--restarts", type=count, default=5, metavar="N", help="with each number of jobs (5)")
    options.add_argument(
        "--small-items", type=count, default=1_000_000, metavar="N", help="of 16 bytes (1,000,000)"
    )
    options.add_argument("--plot", type=file, metavar="FILE", help="draw the restarts: .png, .svg or .pdf")
    given = options.parse_args(arguments)
    if given.plot is not None:
        require_plotting(options)
    machine = Machine.here()
    console = terminal()
    with TemporaryDirectory(prefix="carpool-") as name, console.status("starting two coordinators") as status:
        folder = Path(name)
        samples = _Samples()
        with (
            _cluster(folder / "memory", MEMORY) as memory,
            _cluster(folder / "durable", folder / "durable" / "state") as durable,
            Process.python("raw-sqlite", "benchmarks.raw_sqlite", folder, folder=folder) as raw,
        ):
            for pair in range(given.pairs):
                status.update(f"pair {pair + 1} of {given.pairs}")
                _pair(samples, durable, memory, pair, given.clients, given.seconds)
                _bulk(samples, durable, raw, pair, given.items)
        status.update(f"a job of {given.small_items:,} items")
        with _cluster(folder / "large", folder / "large" / "state") as large:
            before_mb = large.coordinator.peak_resident_bytes / 1e6
            through_s = asyncio.run(through(large.target, given.small_items))
            peak_mb = large.coordinator.peak_resident_bytes / 1e6
            status.update(f"carpool run of {given.small_items:,} items")
            ran = file_run(large.target, given.small_items, folder)
        recoveries = []
        for jobs in (*given.live, *((LARGE,) if given.large else ())):
            status.update(f"restarts with {jobs:,} live jobs")
            recoveries.append(recovery(jobs, given.restarts, folder))
    figures = [
        *_figures(samples, given.clients, given.items),
        *_restarts(recoveries),
        Figure(f"peak memory, {given.small_items:,} small items", "MB", [peak_mb], Goal(at_most=300)),
        Figure("  peak memory before", "MB", [before_mb]),
        Figure("  that job, in and out", "s", [through_s]),
        Figure(
            f"peak memory of carpool run, {given.small_items:,} items",
            "MB",
            [ran.peak_bytes / 1e6],
            Goal(at_most=300),
        ),
        Figure("  that run, file to file", "s", [ran.elapsed_s]),
    ]
    if given.plot is not None:
        plot(recoveries, given.plot)
    report = Report(
        "store",
        f"{BYTES}-byte payloads, one client process, two coordinators with a lot of one car each",
        {key: getattr(given, key) for key in ("pairs", "seconds", "clients", "items", "restarts", "small_items")}
        | {"live": [one.jobs for one in recoveries]},
        machine,
        figures,
        (
            "the store's own part: the coordinator's carpool_store_commit_duration_seconds, handing in of a"
            " commit's oldest record to the end of COMMIT, read off its buckets",
            "raw SQLite: the same bytes in one commit, as ours are; in as many rows as we have records, of"
            f" {RECORD_BYTES >> 10} KiB, or in a row an item",
        ),
    )
    report.publish(console, given.json)
    return 0


def _cluster(folder: Path, state: Path | str) -> Cluster:
    folder.mkdir()
    return Cluster((1,), ECHO, folder, state)


def _figures(samples: _Samples, clients: int, items: int) -> list[Figure]:
    ours = samples.ours_per_s
    return [
        ratio(
            f"jobs of one item, {clients} clients, ÷ memory",
            samples.durable_per_s,
            samples.memory_per_s,
            Goal(at_least=0.8),
        ),
        ratio("  the same while the lots are paused", samples.durable_still_per_s, samples.memory_still_per_s),
        Figure("p99 of the store's own part, half rate", "ms", samples.commit_p99_ms, Goal(at_most=20)),
        ratio(f"{items:,} items in one job ÷ raw SQLite", ours, samples.records_per_s, Goal(at_least=0.5)),
        ratio("  ÷ raw SQLite, a row an item", ours, samples.rows_per_s),
        Figure(f"jobs of one item, {clients} clients", "/s", samples.durable_per_s),
        Figure("  with the memory store", "/s", samples.memory_per_s),
        Figure("  paused", "/s", samples.durable_still_per_s),
        Figure("  paused, with the memory store", "/s", samples.memory_still_per_s),
        Figure("submissions at half rate, open loop", "/s", samples.half_per_s),
        Figure("p99 of their answers", "ms", samples.answer_p99_ms),
        Figure(f"{items:,} items in one job", "items/s", ours),
        Figure("  raw SQLite", "items/s", samples.records_per_s),
        Figure("  raw SQLite, a row an item", "items/s", samples.rows_per_s),
    ]


def _restarts(recoveries: Sequence[Recovery]) -> list[Figure]:
    figures = []
    for one in recoveries:
        goal = Goal(at_most=2) if one.jobs == LIVE_JOBS[-1] else None
        figures.append(Figure(f"exec to ready, {one.jobs:,} live jobs", "s", one.ready_s, goal))
        figures.append(Figure(f"  of it reading {one.jobs:,} jobs", "s", one.restored_s))
    return figures


def _pair(samples: _Samples, durable: Cluster, memory: Cluster, pair: int, clients: int, seconds: float) -> None:
    """Both stores in turn, with their lots at work and paused; then the durable one at half its rate."""
    sides = [
        (samples.durable_per_s, samples.durable_still_per_s, durable),
        (samples.memory_per_s, samples.memory_still_per_s, memory),
    ]
    for per_s, _, cluster in sides if pair % 2 else sides[::-1]:
        per_s.append(asyncio.run(closed_loop(cluster.target, clients, seconds)))
        asyncio.run(drain(cluster.target))
    for _, still_per_s, cluster in sides if pair % 2 else sides[::-1]:
        cluster.lots[0].pause()
        still_per_s.append(asyncio.run(closed_loop(cluster.target, clients, seconds)))
        cluster.lots[0].resume()
        asyncio.run(drain(cluster.target))
    half_per_s = samples.durable_per_s[-1] / 2
    before = commits(durable.metrics)
    took_ms = asyncio.run(open_loop(durable.target, half_per_s, seconds, seed=pair))
    samples.commit_p99_ms.append(1e3 * quantile(before, commits(durable.metrics), 0.99))
    asyncio.run(drain(durable.target))
    samples.half_per_s.append(len(took_ms) / seconds)
    samples.answer_p99_ms.append(quantiles(took_ms, n=100)[98])


def _bulk(samples: _Samples, durable: Cluster, raw: Process, pair: int, items: int) -> None:
    """One large submission, and raw SQLite with the same bytes in both shapes."""
    if pair % 2:
        samples.ours_per_s.append(asyncio.run(submitted(durable.target, items)))
    for per_s, each in ((samples.records_per_s, RECORD_BYTES // BYTES), (samples.rows_per_s, 1)):
        raw.say(f"{items} {each}")
        per_s.append(items / float(raw.line(RAW_S)))
    if not pair % 2:
        samples.ours_per_s.append(asyncio.run(submitted(durable.target, items)))


def commits(metrics: str) -> dict[float, float]:
    """By upper bound, seconds: commits so far that took no longer."""
    return {float(one.labels["le"]): one.value for one in scraped(metrics) if one.name == _COMMITS}


def quantile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Of what came between two readings of cumulative buckets; straight lines inside of a bucket."""
    grown = [(bound, after[bound] - before[bound]) for bound in sorted(after)]
    wanted = share * grown[-1][1]
    if not wanted:
        raise BenchmarkFailed("nothing was committed while it was measured")
    low_s, low = 0.0, 0.0
    for bound_s, total in grown:
        if total >= wanted:
            if bound_s == inf:
                break
            return low_s + (bound_s - low_s) * (wanted - low) / (total - low)
        low_s, low = bound_s, total
    raise BenchmarkFailed(f"more than one commit in a hundred took over {low_s:g} s")
