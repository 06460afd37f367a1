"""Restarts of a coordinator that has live jobs and a large fleet at work on them: a SIGKILL, an exec, all are back.

The lots' echo takes its time (`slow_lot`), so every vehicle holds leases at the kill. A lease is taken over when
the new coordinator holds it and has not lent it itself.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.accounts import scraped
from benchmarks.cluster import ECHO, READY, START_S, Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal
from benchmarks.recovery import make_live_jobs
from node.client import parked

LEAST_HELD = 0.999  # of the leases that were lent: a few are on their way at any time
LEAST_TAKEN_OVER = 0.98  # of the leases: a few end between the last look and the kill, or before their lot is back
_MORE_JOBS = 1_000  # than are asked for: some end before the last restart
_POLL_S = 0.02


@dataclass(slots=True)
class TakeOver:
    """Restarts under load, a sample each."""

    ready_s: list[float] = field(default_factory=list)  # from exec
    restored_s: list[float] = field(default_factory=list)  # of it, reading the jobs, as the coordinator measured it
    back_s: list[float] = field(default_factory=list)  # from exec until lots, vehicles and leases are back
    leases: list[float] = field(default_factory=list)  # that lots held at the kill
    taken_over: list[float] = field(default_factory=list)  # of them

    def figures(self, jobs: int) -> list[Figure]:
        """For the table."""
        return [
            Figure(f"exec to ready, {jobs:,} live jobs, all at work", "s", self.ready_s, Goal(at_most=2)),
            Figure(f"  of it reading {jobs:,} jobs", "s", self.restored_s),
            Figure("exec to all lots back, leases taken over", "s", self.back_s),
            Figure("leases held at the kill", "", self.leases),
            Figure("  taken over", "", self.taken_over),
        ]


@dataclass(frozen=True, slots=True)
class _Look:
    """What a coordinator tells of itself."""

    jobs: float  # live
    lots: float
    vehicles: float  # that are here
    leases: float
    taken_over: float  # since its start; some may have ended
    rejected: float  # results
    restored_s: float


def take_over(jobs: int, sizes: Sequence[int], outages_s: Sequence[float], folder: Path) -> TakeOver:
    """A restart after each of these outages, with so many live jobs and lots of these sizes."""
    state = folder / "state"
    make_live_jobs(state, jobs + _MORE_JOBS, folder)
    measured = TakeOver()
    with Cluster(sizes, ECHO, folder, state, node="benchmarks.slow_lot") as cluster:
        metrics = cluster.metrics
        for outage_s in outages_s:
            lent = asyncio.run(_lent(metrics, sum(sizes), folder))
            cluster.coordinator.kill()
            time.sleep(outage_s)
            cluster.restart_coordinator()
            metrics = cluster.coordinator.expect(READY, START_S)[3]
            ready_s = time.monotonic() - cluster.coordinator.begun_s
            asyncio.run(cluster.all_offered())  # which costs a coordinator less than a look at its metrics
            back = asyncio.run(_back(metrics, sizes, lent))
            measured.back_s.append(time.monotonic() - cluster.coordinator.begun_s)
            measured.ready_s.append(ready_s)
            measured.restored_s.append(back.restored_s)
            measured.leases.append(lent)
            measured.taken_over.append(back.taken_over)
            if back.jobs < jobs or back.rejected:
                refused = f"{back.rejected:g} results were refused"
                raise BenchmarkFailed(f"{back.jobs:g} live jobs of at least {jobs} came back, and {refused}")
    return measured


async def _lent(metrics: str, vehicles: int, folder: Path) -> float:
    """The leases of a fleet, once every vehicle is at work and the lots hold all that the coordinator lent."""
    busy = held = lent = 0.0
    try:
        async with asyncio.timeout(START_S):
            while busy < vehicles or held < LEAST_HELD * lent:
                await asyncio.sleep(_POLL_S)
                cars = await asyncio.to_thread(parked, folder)
                busy, held = sum(car.leases > 0 for car in cars), sum(car.leases for car in cars)
                lent = (await asyncio.to_thread(_look, metrics)).leases
    except TimeoutError:
        raise BenchmarkFailed(
            f"after {START_S:g} s {busy:g} of {vehicles} vehicles are at work, {held:g} of {lent:g} leases arrived"
        ) from None
    return held


async def _back(metrics: str, sizes: Sequence[int], lent: float) -> _Look:
    """The coordinator, once lots, vehicles and leases are back."""
    look = _look(metrics)
    try:
        async with asyncio.timeout(START_S):
            while (look.lots, look.vehicles) != (len(sizes), sum(sizes)) or (
                look.taken_over < LEAST_TAKEN_OVER * lent
            ):
                await asyncio.sleep(_POLL_S)
                look = await asyncio.to_thread(_look, metrics)
    except TimeoutError:
        raise BenchmarkFailed(
            f"after {START_S:g} s {look.lots:g} of {len(sizes)} lots, {look.vehicles:g} of {sum(sizes)} vehicles"
            f" and {look.taken_over:g} of {lent:g} leases are back"
        ) from None
    return look


def _look(metrics: str) -> _Look:
    samples = scraped(metrics)

    def total(name: str, **labels: str) -> float:
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    leases = total("carpool_leases_active")
    here = total("carpool_nodes") - total("carpool_nodes", state="away")
    lent = total("carpool_scheduler_decisions_total", result="placed")
    return _Look(
        jobs=total("carpool_jobs_pending"),
        lots=total("carpool_lots_connected"),
        vehicles=here,
        leases=leases,
        taken_over=leases + total("carpool_leases_total") - lent,
        rejected=total("carpool_results_rejected_total"),
        restored_s=total("carpool_recovery_duration_seconds"),
    )
