"""Matching: which long item goes to which node, by the chance that the node will still be there when it ends.

An item that cannot be cut is lost whole with its node. What counts is not the chance alone but how it compares: a
node that is likelier than most to stay for long gets what takes long, one that leaves soon what is short. Of nodes
about as likely, those of other sites are taken first. Items that are short lose nothing worth the asking.
"""

from collections.abc import Sequence
from itertools import islice
from math import inf

import numpy as np

from coordinator.core.job import Job
from coordinator.core.plan import Plan
from coordinator.core.state import State
from coordinator.core.supply import LEAST_STAY, LONGEST_ITEM_S, Floats

_HOPELESS = 0.25
"""A node is not given what has a deadline if it finishes that so much more rarely than the mean node does."""

_ALIKE = 0.1
"""Of long items, what differs by less is taken for alike: then the most urgent job goes first. Where it is the
loading that takes long, what is lost least goes first."""

_GAP_S = 1.0
"""How long nobody speaks when another node goes on with an answer (assumed)."""

_AT_ONCE = 4096
"""Nodes that the forecast is asked of in one call: it takes about 1 kB for each."""

_TOGETHER = 0.2
"""What a site counts as less where all leases of a job are: its nodes may leave together (assumed)."""

_SAMPLE = 32
"""Leases of a job that are looked at."""


class Matching:
    """The forecast, asked about nodes that are free and jobs that wait."""

    def __init__(self, state: State, plan: Plan) -> None:
        self._state = state
        self._plan = plan

    def matters(self, job: Job, row: int) -> bool:
        """Whether one item of a batch job takes so long on a node that it may leave before."""
        if self._state.forecast is None or job.spec.interactive:
            return False
        return self._first_s(job, row) >= self._state.settings.long_item_s

    def pairs(self, jobs: Sequence[Job], rows: Sequence[int], now_s: float) -> list[tuple[Job, int]]:
        """Which of these jobs, of one model, to lend to which node, the best first; those alike in the order given,
        jobs before nodes."""
        likeness = self._likeness(jobs, rows, now_s)
        choosy = np.array([_is_choosy(job, now_s) for job in jobs])
        hopeless = (likeness < _HOPELESS) & choosy
        suits = likeness * self._apart(jobs, rows)
        long = np.array(
            [[self._item_s(job, row) >= self._state.settings.long_item_s for job in jobs] for row in rows]
        )
        steps = np.where(long, np.round(suits / _ALIKE), suits / _ALIKE)
        job, _ = np.indices(suits.T.shape)
        order = np.lexsort((-suits.T.ravel(), job.ravel(), -steps.T.ravel()))
        best = order[~hopeless.T.ravel()[order]]
        return [(jobs[at // len(rows)], rows[at % len(rows)]) for at in best.tolist()]

    def is_long(self, job: Job, row: int) -> bool:
        """Whether an interactive job takes a node so long that it is worth asking whether it stays."""
        return self._state.forecast is not None and self._first_s(job, row) >= self._state.settings.long_answer_s

    def surest(self, job: Job, rows: Sequence[int], now_s: float) -> Sequence[int]:
        """Nodes that are as free, for an interactive job: those first that will have answered soonest, if the time
        that is lost with a node which leaves is counted; in the order given where that is about the same."""
        assert self._state.forecast is not None, "it matters only where there is one"
        answer_s = np.array([self._first_s(job, row) for row in rows])
        stays = self._state.forecast.stays(np.array(rows, np.int32), answer_s[:, None], now_s)[:, 0]
        expected_s = answer_s + (1.0 - stays) * (_GAP_S + answer_s / 2.0)
        return [rows[at] for at in np.argsort(np.round(expected_s, 3), kind="stable").tolist()]

    def unfit(self, job: Job, rows: Sequence[int], now_s: float) -> set[int]:
        """Which of these nodes are not given a job because they will hardly be there."""
        asked = [row for row in rows if self.matters(job, row)] if _is_choosy(job, now_s) else []
        found: set[int] = set()
        for first in range(0, len(asked), _AT_ONCE):
            some = asked[first : first + _AT_ONCE]
            hopeless = self._likeness([job], some, now_s)[:, 0] < _HOPELESS
            found.update(np.array(some)[hopeless].tolist())
        return found

    def _likeness(self, jobs: Sequence[Job], rows: Sequence[int], now_s: float) -> Floats:
        """How likely each node stays for the first item of each job, against other nodes: [N, J], 1 at most."""
        assert self._state.forecast is not None, "it matters only where there is one"
        first_s = np.array([[self._first_s(job, row) for job in jobs] for row in rows])
        first_s = np.minimum(first_s, LONGEST_ITEM_S)
        chance = self._state.forecast.stays(np.array(rows, np.int32), first_s, now_s).clip(LEAST_STAY)
        likeness: Floats = np.minimum(chance / self._plan.supply.stays(jobs[0].spec.model, first_s), 1.0)
        return likeness

    def _apart(self, jobs: Sequence[Job], rows: Sequence[int]) -> Floats:
        """Less than 1 where more of a job is at work on the site of a node than on that of another: [N, J]."""
        site, apart = self._state.fleet.site, np.ones((len(rows), len(jobs)))
        sites = site[list(rows)]
        if sites.any():
            for at, job in enumerate(jobs):
                held = site[[lease.node for lease in islice(job.leases.values(), _SAMPLE)]]
                if held.size:
                    apart[:, at] -= _TOGETHER * ((sites[:, None] == held) & (held != 0)).mean(axis=1)
        best: Floats = apart / apart.max(axis=0)  # it chooses between nodes, not between jobs
        return best

    def _first_s(self, job: Job, row: int) -> float:
        """Until the first item is done."""
        return self._state.fleet.lot_of(row).speeds[job.spec.model].load_s + self._item_s(job, row)

    def _item_s(self, job: Job, row: int) -> float:
        return 1.0 / self._state.fleet.speed(row, job.spec.model, job.spec.item_work).items_per_s


def _is_choosy(job: Job, now_s: float) -> bool:
    """Whether it has a deadline to make."""
    return now_s < job.spec.deadline_s < inf
