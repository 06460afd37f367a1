"""A clairvoyant upper bound on the value that any policy can get: a linear program over time, by HiGHS.

Every constraint is one that no schedule can break, so that the optimum of the program is at least the value of the
best schedule: cars of a class do no more in a bin of time than those plugged in could, the loading after each
plug-in left out; a job gets no more than its work, within its window, on no more cars at once than it has items.
Part of a job counts for part of its value. Where items are long, each stay takes whole ones only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from benchmarks.figures import BenchmarkFailed
from benchmarks.policy.cars import Car
from benchmarks.policy.jobs import Job

BIN_S = 1800.0
_LONG_ITEM_S = 3600.0
"""Items of at least so much are counted in each stay, where all are multiples of the shortest."""


@dataclass(slots=True)
class _Program:
    """A linear program as it is written down: at most `limit` for each row."""

    gain: list[float] = field(default_factory=list)  # by column
    limit: list[float] = field(default_factory=list)  # by row
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def column(self, gain: float) -> int:
        """A variable of at least 0."""
        self.gain.append(gain)
        return len(self.gain) - 1

    def row(self, limit: float) -> int:
        """A constraint."""
        self.limit.append(limit)
        return len(self.limit) - 1

    def put(self, row: int, column: int, factor: float) -> None:
        """The variable counts so much in the constraint."""
        self.rows.append(row)
        self.columns.append(column)
        self.factors.append(factor)

    def solve(self) -> float:
        """The greatest gain."""
        if not self.gain:
            return 0.0
        shape = (len(self.limit), len(self.gain))
        matrix = coo_array((self.factors, (self.rows, self.columns)), shape=shape).tocsr()
        found = linprog(-np.array(self.gain), A_ub=matrix, b_ub=np.array(self.limit), method="highs")
        if found.status != 0:
            raise BenchmarkFailed(f"the bound was not found: {found.message}")
        return float(-found.fun)


def bound(jobs: Sequence[Job], cars: Sequence[Car], cold_s: float, bin_s: float = BIN_S) -> float:
    """The value that no schedule exceeds, of jobs that are not interactive."""
    program = _Program()
    speeds = sorted({car.speed for car in cars})
    last_s = max((job.deadline_s for job in jobs), default=0.0)
    bins = ceil(last_s / bin_s)
    capacity = {speed: np.zeros(bins) for speed in speeds}
    stays = [(car.speed, max(stay.begin_s, 0.0) + cold_s, stay.end_s) for car in cars for stay in car.stays]
    least_item_s = min((job.item_s for job in jobs), default=0.0)
    stays = [stay for stay in stays if (stay[2] - stay[1]) * stay[0] >= least_item_s]
    for speed, begin_s, end_s in stays:
        for at in range(int(begin_s // bin_s), min(bins, ceil(end_s / bin_s))):
            capacity[speed][at] += speed * (min(end_s, (at + 1) * bin_s) - max(begin_s, at * bin_s))
    room = {speed: [program.row(float(limit)) for limit in capacity[speed]] for speed in speeds}
    whole = least_item_s >= _LONG_ITEM_S and all(job.item_s % least_item_s == 0 for job in jobs)
    of_stay = [
        program.row(floor((end_s - begin_s) * speed / least_item_s) * least_item_s) if whole else -1
        for speed, begin_s, end_s in stays
    ]
    for job in jobs:
        here = [speed for speed in speeds if speed > 1 or not job.fast_only]
        work = program.row(job.work_s)
        in_bins: list[int] = []
        for at in range(int(job.submit_s // bin_s), ceil(job.deadline_s / bin_s)):
            overlap_s = min(job.deadline_s, (at + 1) * bin_s) - max(job.submit_s, at * bin_s)
            at_once = program.row(job.items * overlap_s) if job.items * overlap_s < job.work_s else None
            for speed in here:
                if not capacity[speed][at]:
                    continue
                column = program.column(job.density)
                in_bins.append(column)
                program.put(room[speed][at], column, 1.0)
                program.put(work, column, 1.0)
                if at_once is not None:
                    program.put(at_once, column, 1.0 / speed)
        if whole:
            _in_stays(program, job, stays, of_stay, in_bins)
    return program.solve()


def _in_stays(
    program: _Program,
    job: Job,
    stays: Sequence[tuple[float, float, float]],
    of_stay: Sequence[int],
    in_bins: Sequence[int],
) -> None:
    """What a job gets in bins it gets in stays, and in each no more than the whole items that fit."""
    both = program.row(0.0)
    for column in in_bins:
        program.put(both, column, 1.0)
    for (speed, begin_s, end_s), limit in zip(stays, of_stay, strict=True):
        if job.fast_only and speed <= 1:
            continue
        overlap_s = min(end_s, job.deadline_s) - max(begin_s, job.submit_s)
        items = floor(overlap_s * speed / job.item_s) if overlap_s > 0 else 0
        if items:
            column = program.column(0.0)
            program.put(both, column, -1.0)
            program.put(limit, column, 1.0)
            program.put(program.row(items * job.item_s), column, 1.0)
