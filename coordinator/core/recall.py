"""Recalls: nodes that a job takes from less urgent ones, at the boundary of an item, lest it miss its deadline."""

from collections import defaultdict
from collections.abc import Sequence

from coordinator.core.effects import Effects, Revoke
from coordinator.core.job import Band, Job
from coordinator.core.lease import Lease
from coordinator.core.state import State

_SPARE = 1.2
"""A job that has this many times the nodes that it needs is safe."""


class Need:
    """A job of the plan, and the nodes of the best kind that it needs at once to be done in time."""

    __slots__ = ("job", "power")

    def __init__(self, job: Job, power: float) -> None:
        self.job = job
        self.power = power


def recall(state: State, needs: Sequence[Need], strengths: dict[int, float], effects: Effects) -> None:
    """Ask nodes back for the jobs that have too few; `needs`: the earliest first, `strengths` by kind."""
    short = [
        need for need in needs if need.job.placeable and need.power * _SPARE > _power(state, need.job, strengths)
    ]
    if not short:
        return
    victims = _victims(state, {need.job.spec.model for need in short})
    coming: defaultdict[str, float] = defaultdict(float)  # power that was asked back before, by model
    for lease in state.leases.values():
        if lease.recalled:
            for model in state.fleet.lot_of(lease.node).resident:
                coming[model] += strengths.get(state.fleet.kind(lease.node), 0.0)
    for need in short:
        job, model = need.job, need.job.spec.model
        lack = need.power * _SPARE - _power(state, job, strengths)
        used = min(lack, coming[model])
        coming[model] -= used
        lack -= used
        pool, items = victims[model], job.placeable
        while lack > 0 and items > 0 and pool and _yields(state, pool[-1][0], job):
            _, lease = pool.pop()
            if lease.recalled:
                continue
            lease.recalled = True
            effects.send.append(Revoke(lease.lot, lease.token, "yield"))
            lack -= strengths.get(state.fleet.kind(lease.node), 0.0)
            items -= 1


def _power(state: State, job: Job, strengths: dict[int, float]) -> float:
    return sum(
        strengths.get(state.fleet.kind(lease.node), 0.0) for lease in job.leases.values() if not lease.recalled
    )


def _victims(state: State, models: set[str]) -> dict[str, list[tuple[Job, Lease]]]:
    """Leases on nodes that have a model, the least urgent last."""
    jobs = [job for job in state.jobs.values() if job.leases and not job.spec.interactive]
    found: dict[str, list[tuple[Job, Lease]]] = {model: [] for model in models}
    for job in sorted(jobs, key=lambda job: (job.band, job.urgency, job.sequence)):
        for lease in job.leases.values():
            if not lease.recalled and not lease.solo:
                for model in models & state.fleet.lot_of(lease.node).resident:
                    found[model].append((job, lease))
    return found


def _yields(state: State, job: Job, to: Job) -> bool:
    """Whether a job gives way to another of the plan."""
    if state.shares.lent(job.spec.tenant) < state.shares.lent(to.spec.tenant):
        return False
    return job.band is not Band.PLANNED or job.urgency > to.urgency + state.settings.slice_target_s
