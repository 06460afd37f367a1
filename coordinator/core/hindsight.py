"""Hindsight: the value of the jobs that were done on time, against the most that it could have been.

Knows of a job when it came, its deadline, its work and its value, and of the fleet what it offered; neither plan
nor lease. The bound is what somebody earns who knew all of it beforehand, who moves work at will, runs a job on any
number of nodes at once, and is paid for parts of jobs. That is a transport of work to the capacity offered between
submission and deadline, in which only the jobs have prices. What can be done together of divisible jobs is a
polymatroid (flows from sources to capacities), so the greedy is the optimum: the most value for the work first, of
each as much as fits beside those before it. In one pool it fits if no stretch of time has more work inside it than
capacity (Hall).

Jobs whose models run on different kinds of node have two bounds, and the smaller is taken: all kinds in one pool,
as if each ran every model at its best; and each model alone on the kinds that run it, as if others took nothing.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from coordinator.core.effects import Outcome
from coordinator.core.fleet import Fleet
from coordinator.core.job import Job

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_KEPT_S = 86_400.0
_LOOK_S = 10.0
"""How often the fleet is looked at, at most: with a million nodes that takes 10 ms."""

_MOST_JOBS = 2048
"""The latest: about 20 us each, whenever somebody asks."""

_MOST_TIMES = 128
"""Distinct submissions, and deadlines, that are told apart: with more, jobs get up to the next one."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A job whose value was earned, or was lost at its deadline."""

    submitted_s: float
    settled_s: float
    deadline_s: float
    model: str
    work: float  # items of the model
    value: float
    earned: bool


@dataclass(frozen=True, slots=True)
class Wishes:
    """Jobs, [N]: each may be worked on from the time of its row until that of its column."""

    work_s: Floats
    value: Floats
    row: Places
    column: Places

    def of(self, chosen: NDArray[np.bool_]) -> "Wishes":
        """Some of them."""
        return Wishes(self.work_s[chosen], self.value[chosen], self.row[chosen], self.column[chosen])


class Hindsight:
    """The last day, as it was."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._looks_s: list[float] = []
        self._offered: list[Floats] = []  # node-seconds of each kind until each look
        self._nodes = np.zeros(0)  # of each kind, at the last look
        self._settled: deque[_Settled] = deque(maxlen=_MOST_JOBS)
        self._told_s = -np.inf  # the look that `_told` is of
        self._told: float | None = None

    def look(self, now_s: float) -> None:
        """See what the fleet offers, before it changes; between two looks it offered the larger of both."""
        if self._looks_s and now_s < self._looks_s[-1] + _LOOK_S:
            return
        nodes = self._offers()
        offered = np.zeros(len(nodes))
        if self._looks_s:
            most = nodes.copy()
            most[: len(self._nodes)] = np.maximum(most[: len(self._nodes)], self._nodes)
            offered[: len(self._nodes)] = self._offered[-1]
            offered += most * (now_s - self._looks_s[-1])
        self._nodes = nodes
        self._looks_s.append(now_s)
        self._offered.append(offered)
        old = bisect_left(self._looks_s, now_s - _KEPT_S)
        del self._looks_s[:old], self._offered[:old]

    def settle(self, job: Job, now_s: float) -> None:
        """A batch job with a deadline is done, or the deadline passes. Its items that failed are nobody's work."""
        spec, items = job.spec, job.spec.items - job.failed
        if items:
            earned = job.ended is Outcome.DONE and now_s <= spec.deadline_s
            work = items * spec.item_work
            self._settled.append(
                _Settled(job.submitted_s, now_s, spec.deadline_s, spec.model, work, spec.value, earned)
            )

    def ratio(self) -> float | None:
        """Value earned over the bound, at the last look; None while there was nothing to earn.

        Jobs count that were submitted since the first look that is kept. What was earned was possible, even where
        it is above the bound because nodes are faster than they were measured.
        """
        if self._looks_s and self._told_s != self._looks_s[-1]:
            self._told_s, self._told = self._looks_s[-1], self._ratio()
        return self._told

    def _ratio(self) -> float | None:
        first_s, last_s = self._looks_s[0], self._looks_s[-1]
        jobs = [job for job in self._settled if first_s <= job.submitted_s and job.settled_s <= last_s]
        earned = sum(job.value for job in jobs if job.earned)
        most = max(earned, self._bound(jobs))
        return earned / most if most > 0 else None

    def _bound(self, jobs: list[_Settled]) -> float:
        kinds = self._fleet.kinds
        rates = {job.model: np.array([kind.get(job.model, 0.0) for kind in kinds]) for job in jobs}
        best = {model: float(rate.max()) for model, rate in rates.items() if rate.any()}
        strengths = {model: rates[model] / best[model] for model in best}
        jobs = [job for job in jobs if job.model in best]
        if not jobs:
            return 0.0
        begin_s = np.array([job.submitted_s for job in jobs])
        end_s = np.minimum([job.deadline_s for job in jobs], self._looks_s[-1])
        begins_s, ends_s = _thinned(begin_s), _thinned(end_s)
        wishes = Wishes(
            np.array([job.work / best[job.model] for job in jobs]),
            np.array([job.value for job in jobs]),
            np.searchsorted(begins_s, begin_s, "right") - 1,
            np.searchsorted(ends_s, end_s, "left"),
        )
        before, after = self._until(begins_s), self._until(ends_s)

        def most(models: Iterable[str], strength: Floats) -> float:
            chosen = np.isin([job.model for job in jobs], list(models))
            return most_value(wishes.of(chosen), (after @ strength)[None, :] - (before @ strength)[:, None])

        bound = 0.0
        for models in _connected(strengths):
            apart = sum(most([model], strengths[model]) for model in models)
            pooled = most(models, np.max([strengths[model] for model in models], axis=0))
            bound += min(apart, pooled)
        return bound

    def _offers(self) -> Floats:
        """Nodes of each kind that take work or hold some, in whole ones."""
        fleet = self._fleet
        kind_of, serving = fleet.kinds_of_all()
        here = serving | (fleet.batch_leases[: fleet.size] > 0)
        return np.asarray(np.bincount(kind_of[here], fleet.share[: fleet.size][here], len(fleet.kinds)), np.float64)

    def _until(self, times_s: Floats) -> Floats:
        """Node-seconds until these times, [T, K]; none is before the first look, or after the last."""
        until = np.zeros((len(times_s), len(self._fleet.kinds)))
        for row, time_s in zip(until, times_s.tolist(), strict=True):
            at = bisect_left(self._looks_s, time_s)
            offered = self._offered[at]
            row[: len(offered)] = offered
            if self._looks_s[at] > time_s:
                before = self._offered[at - 1]
                part = (self._looks_s[at] - time_s) / (self._looks_s[at] - self._looks_s[at - 1])
                row[: len(offered)] -= part * offered
                row[: len(before)] += part * before
        return until


def most_value(wishes: Wishes, room_s: Floats) -> float:
    """The most value of parts of these jobs; `room_s` [begins, ends], what can be done between, is used up."""
    total = 0.0
    for at in np.argsort(-wishes.value / wishes.work_s, kind="stable").tolist():
        around = room_s[: wishes.row[at] + 1, wishes.column[at] :]
        part_s = min(float(wishes.work_s[at]), float(around.min()))
        if part_s > 0:
            around -= part_s
            total += float(wishes.value[at]) * part_s / float(wishes.work_s[at])
    return total


def _thinned(times_s: Floats) -> Floats:
    """These in order, each once; evenly chosen with the first and the last when they are very many."""
    times_s = np.unique(times_s)
    places = np.linspace(0, len(times_s) - 1, min(len(times_s), _MOST_TIMES))
    return times_s[places.round().astype(np.intp)]


def _connected(strengths: dict[str, Floats]) -> list[list[str]]:
    """Models by what they compete for: those of two groups have no kind of node in common."""
    groups: list[list[str]] = []
    for model, strength in strengths.items():
        met = [group for group in groups if any((strength * strengths[other]).any() for other in group)]
        groups = [group for group in groups if group not in met] + [[model, *chain.from_iterable(met)]]
    return groups
