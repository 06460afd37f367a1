"""The plan: what of the accepted work the fleet will get done, and by when."""

from dataclasses import dataclass
from math import inf

from coordinator.core.events import JobSpec, LotId
from coordinator.core.state import State


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job may expect."""

    finish_s: float  # coordinator seconds; infinity when nothing here can run it
    on_time: float  # chance that it is done by its deadline; 1 when it has none


def quote(state: State, spec: JobSpec, now_s: float) -> Quote:
    """What a job that is submitted now may expect."""
    fleet = state.fleet
    rate = sum(
        fleet.speed(row, spec.model).items_per_s
        for row in range(fleet.size)
        if fleet.serves(row) and spec.model in fleet.lots[LotId(int(fleet.lot[row]))].speeds
    )
    ahead = sum((job.placeable + job.lent) * job.spec.item_work for job in state.jobs.values())
    finish_s = now_s + (ahead + spec.items * spec.item_work) / rate if rate else inf
    return Quote(finish_s, float(finish_s <= spec.deadline_s))
