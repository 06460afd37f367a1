"""Recalls: nodes that a job takes from less urgent ones, at the boundary of an item, lest it miss its deadline."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from coordinator.core.effects import Effects, Revoke
from coordinator.core.fleet import KindId
from coordinator.core.job import Band, Job
from coordinator.core.lease import Lease
from coordinator.core.matching import Matching
from coordinator.core.placement import slice_items
from coordinator.core.plan import Need
from coordinator.core.state import State

_SAFE = 1.2
"""A job that has so many times the nodes that it needs is safe."""

_MOST_ASKED = 256
"""Nodes of which it is asked at most, in one round, whether they stay for a long item."""

_SAMPLE = 32
"""Leases of a job that are looked at: the others are taken to be like them."""


class Recall:
    """Asks nodes back. `strengths`: of a node of each kind, against the best kind."""

    def __init__(self, state: State, matching: Matching, strengths: dict[KindId, float], effects: Effects) -> None:
        self._state = state
        self._matching = matching
        self._asked = 0  # nodes, of the forecast
        self._strengths = strengths
        self._effects = effects

    def serve(self, needs: Sequence[Need], now_s: float) -> None:
        """Ask nodes of the least urgent jobs back for jobs that have too few; the earliest deadline goes first."""
        short = [need for need in needs if need.job.placeable and need.nodes * _SAFE > self._nodes_of(need.job)]
        if not short:
            return
        jobs = sorted(
            self._state.at_work.values(), key=lambda job: (job.band, job.urgency, job.sequence), reverse=True
        )
        victims = {model: self._victims(jobs, model) for model in {need.job.spec.model for need in short}}
        coming = self._coming()
        for need in short:
            job, model = need.job, need.job.spec.model
            lack, items = need.nodes * _SAFE - self._nodes_of(job), job.placeable
            used = min(lack, coming[model])
            coming[model] -= used
            lack -= used
            while lack > 0 and items > 0:
                found = next(victims[model], None)
                if found is None or not self._less_urgent(found[0], job):
                    break
                if self._may_ask(found[0], job) and self._fits(job, found[1].node, now_s):
                    lack -= self._take(found[1])
                    items -= 1

    def _nodes_of(self, job: Job) -> float:
        """Nodes of the best kind that are at work on a job."""
        some = [self._node(lease) for lease in islice(job.leases.values(), _SAMPLE)]
        return sum(some) * len(job.leases) / len(some) if some else 0.0

    def _node(self, lease: Lease) -> float:
        """The part of a node of the best kind that works on a lease."""
        if lease.token in self._state.recalled:
            return 0.0
        fleet = self._state.fleet
        return self._strengths.get(fleet.kind(lease.node), 0.0) / max(fleet.batch_leases.item(lease.node), 1)

    def _coming(self) -> defaultdict[str, float]:
        """Nodes that were asked back before, by the models that they have."""
        state, coming = self._state, defaultdict[str, float](float)
        state.recalled &= state.leases.keys()
        for token in state.recalled:
            node = state.leases[token].node
            for model in state.fleet.lot_of(node).resident:
                coming[model] += self._strengths.get(state.fleet.kind(node), 0.0)
        return coming

    def _victims(self, jobs: Iterable[Job], model: str) -> Iterator[tuple[Job, Lease]]:
        """Leases on nodes that have a model, of jobs of which the least urgent come first."""
        fleet, recalled = self._state.fleet, self._state.recalled
        for job in jobs:
            for lease in job.leases.values():
                has_it = model in fleet.lot_of(lease.node).resident
                if has_it and not lease.solo and lease.token not in recalled:
                    yield job, lease

    def _fits(self, job: Job, row: int, now_s: float) -> bool:
        """Whether a node would be lent an item of a job, if it were free."""
        fleet = self._state.fleet
        speed = fleet.speed(row, job.spec.model, job.spec.item_work)
        if not slice_items(self._state.settings, job, speed, float(fleet.until_s[row]) - now_s, 1, now_s):
            return False
        if not self._matching.matters(job, row):
            return True
        self._asked += 1
        return self._asked <= _MOST_ASKED and not self._matching.unfit(job, [row], now_s)

    def _less_urgent(self, job: Job, than: Job) -> bool:
        """Whether a job may give way to another of the plan."""
        return job.band is not Band.PLANNED or job.urgency > than.urgency + self._state.settings.slice_target_s

    def _may_ask(self, job: Job, by: Job) -> bool:
        """Whether the tenant of a job was not lent less than that of another."""
        shares = self._state.shares
        return shares.lent(job.spec.tenant) >= shares.lent(by.spec.tenant)

    def _take(self, lease: Lease) -> float:
        node = self._node(lease)
        self._state.recalled.add(lease.token)
        self._effects.send.append(Revoke(lease.lot, lease.token, "yield"))
        return node
