"""Why a job waits and why a node idles: what placement asks, asked again and told. Changes nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from math import inf

import numpy as np

from coordinator.core.events import JobId, JobSpec, LotId, ModelSpeed
from coordinator.core.job import Job
from coordinator.core.placement import Placement, slice_items
from coordinator.core.plan import Plan, Quote
from coordinator.core.queues import rank
from coordinator.core.residency import Residency
from coordinator.core.state import State

_MOST_ROWS = 1_000
_HORIZONS_S = np.geomspace(60.0, 2 * 86_400.0, 32)

Allows = Callable[[int, str], bool]
"""Whether a node may be lent batch work for a model."""


class Obstacle(Enum):
    """What keeps a node from being lent some of a job, the first that does."""

    AWAY = "away"
    LINK_BROKEN = "link_broken"
    OTHER_MODELS = "other_models"  # it does not offer the job's
    WITHDRAWN = "withdrawn"
    CORDONED = "cordoned"
    DRAINING = "draining"
    HANDS_FULL = "hands_full"  # it holds as many leases as it may
    NOT_WORTH_LOADING = "not_worth_loading"  # the model takes long to load, and is not wanted enough for that
    KEPT_FREE = "kept_free"  # for a model that it is to load, lest deadlines pass
    WINDOW_TOO_SHORT = "window_too_short"  # for loading and one item
    FAILED_THERE = "failed_there"  # what waits went wrong on its lot, and there are others
    LEAVES_SOON = "leaves_soon"  # it will hardly be there when one item is done, and others will


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """Why what waits of a job waits. Counts are items unless they say otherwise."""

    job: Job
    nodes: int  # at work on it
    ahead_jobs: int  # that wait for the same model and are served first
    ahead_items: int
    obstacles: Counter[Obstacle]  # nodes by what keeps them
    fit: int  # nodes that nothing keeps
    items_per_s: float  # of all nodes that take work and run its model
    outlook: Quote | None  # what the plan expects; None for an interactive job, which is in no plan


@dataclass(frozen=True, slots=True)
class RequestExplanation:
    """Why an interactive job finds no node."""

    obstacles: Counter[Obstacle]  # nodes by what keeps them
    fit: int  # nodes that nothing keeps
    back_s: float  # from now until one that runs its model is as likely here as not; infinity: nobody can say


@dataclass(frozen=True, slots=True)
class Wanted:
    """The first job that waits for a model, and what keeps a node from it; None: nothing does."""

    job: Job
    jobs: int  # that wait for this model
    obstacle: Obstacle | None
    speed: ModelSpeed | None  # of the node with this model


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """Why a node has the work that it has. Seconds are from now."""

    obstacle: Obstacle | None  # what keeps it from any work
    window_s: float
    leases: tuple[tuple[JobId, int, float], ...]  # job, items not done, until it runs out
    wanted: tuple[Wanted, ...]  # by model


def explain_job(
    state: State, plan: Plan, placement: Placement, job_id: JobId, now_s: float
) -> JobExplanation | None:
    """Why a job that has not ended waits; None when there is none. Looks at every node: about 10 us each,
    and 30 us for those of which it has to be asked whether they stay."""
    job = state.jobs.get(job_id)
    if job is None:
        return None
    fleet = state.fleet
    choice = fleet.has_choice(job.spec.model)
    allows = _by_capability(state, placement.residency, now_s)
    able = [row for row in range(fleet.size) if fleet.serves(row) and job.spec.model in fleet.lot_of(row).speeds]
    kept = {row: _obstacle(state, allows, job, row, choice, now_s) for row in range(fleet.size)}
    free = [row for row, obstacle in kept.items() if obstacle is None]
    kept.update(dict.fromkeys(placement.matching.unfit(job, free, now_s), Obstacle.LEAVES_SOON))
    found = Counter(kept.values())
    fit = found.pop(None, 0)
    mine = rank(job, state.shares)
    ahead = [
        other
        for other in _waiting(state)
        if other.spec.model == job.spec.model and rank(other, state.shares) < mine
    ]
    rate = sum(fleet.speed(row, job.spec.model).items_per_s for row in able)
    return JobExplanation(
        job,
        len({lease.node for lease in job.leases.values()}),
        len(ahead),
        sum(other.placeable for other in ahead),
        Counter({obstacle: nodes for obstacle, nodes in found.items() if obstacle is not None}),
        fit,
        rate,
        None if job.spec.interactive else plan.outlook(job, now_s),
    )


def explain_request(state: State, placement: Placement, spec: JobSpec, now_s: float) -> RequestExplanation:
    """Why an interactive job finds no node. Looks at 1,000 nodes at most, about 10 us each, and at what is forecast
    of those that run its model."""
    fleet, job = state.fleet, Job(spec, 0, now_s, ready=True)
    allows = _by_capability(state, placement.residency, now_s)
    some = range(0, fleet.size, -(-fleet.size // _MOST_ROWS) or 1)
    found = Counter(_obstacle(state, allows, job, row, False, now_s) for row in some)
    fit = found.pop(None, 0)
    able = [row for row in some if spec.model in fleet.lots[LotId(int(fleet.lot[row]))].speeds]
    back_s = inf
    if state.forecast is not None and able:
        chance = state.forecast.present(np.array(able, np.int32), _HORIZONS_S, now_s)
        likely = np.flatnonzero(1.0 - (1.0 - chance).prod(axis=0) >= 0.5)
        back_s = float(_HORIZONS_S[likely[0]]) if likely.size else inf
    return RequestExplanation(
        Counter({obstacle: nodes for obstacle, nodes in found.items() if obstacle is not None}), fit, back_s
    )


def explain_node(state: State, placement: Placement, row: int, now_s: float) -> NodeExplanation | None:
    """Why a node has the work that it has; None when it has not joined."""
    if row >= state.fleet.size:
        return None
    first: dict[str, Job] = {}
    count: Counter[str] = Counter()
    for job in _waiting(state):
        model = job.spec.model
        count[model] += 1
        if model not in first or rank(job, state.shares) < rank(first[model], state.shares):
            first[model] = job
    speeds = state.fleet.lots[LotId(int(state.fleet.lot[row]))].speeds
    allows = _by_capability(state, placement.residency, now_s)

    def keeps(job: Job) -> Obstacle | None:
        obstacle = _obstacle(state, allows, job, row, state.fleet.has_choice(job.spec.model), now_s)
        if obstacle is None and placement.matching.unfit(job, [row], now_s):
            return Obstacle.LEAVES_SOON
        return obstacle

    return NodeExplanation(
        _idle(state, row),
        float(state.fleet.until_s[row]) - now_s,
        tuple(
            (lease.job, lease.undone.bit_count(), lease.expires_s - now_s)
            for lease in state.held.get(row, {}).values()
        ),
        tuple(
            Wanted(
                job,
                count[model],
                keeps(job),
                state.fleet.speed(row, model) if model in speeds else None,
            )
            for model, job in sorted(first.items())
        ),
    )


def _by_capability(state: State, residency: Residency, now_s: float) -> Allows:
    """`Residency.allows`, asked once for nodes that are alike."""
    known: dict[tuple[int, str], bool] = {}

    def allows(row: int, model: str) -> bool:
        key = state.fleet.capability(row), model
        if key not in known:
            known[key] = residency.allows(row, model, now_s)
        return known[key]

    return allows


def _waiting(state: State) -> Iterator[Job]:
    return (job for job in state.jobs.values() if job.placeable)


def _idle(state: State, row: int) -> Obstacle | None:
    """What keeps a node from any work."""
    fleet = state.fleet
    if not fleet.present[row]:
        return Obstacle.AWAY
    if not fleet.lots[LotId(int(fleet.lot[row]))].connected:
        return Obstacle.LINK_BROKEN
    if fleet.draining[row]:
        return Obstacle.DRAINING
    if fleet.cordoned[row]:
        return Obstacle.CORDONED
    return None if fleet.share[row] > 0 else Obstacle.WITHDRAWN


def _obstacle(state: State, allows: Allows, job: Job, row: int, choice: bool, now_s: float) -> Obstacle | None:
    """What keeps a node from some of a job, but for how long it stays; `choice`: more than one lot could run it."""
    fleet, settings, spec = state.fleet, state.settings, job.spec
    idle = _idle(state, row)
    if idle is not None:
        return idle
    lot = LotId(int(fleet.lot[row]))
    if spec.model not in fleet.lots[lot].speeds:
        return Obstacle.OTHER_MODELS
    if spec.interactive:
        full = fleet.interactive_leases[row] >= settings.interactive_in_hand
    else:
        full = fleet.batch_leases[row] >= settings.slices_in_hand
    if full:
        return Obstacle.HANDS_FULL
    if not spec.interactive and not allows(row, spec.model):
        return Obstacle.NOT_WORTH_LOADING if spec.model in fleet.lots[lot].heavy else Obstacle.KEPT_FREE
    window_s = float(fleet.until_s[row]) - now_s
    speed = fleet.speed(row, spec.model, spec.item_work)
    if slice_items(settings, job, speed, window_s, fleet.capable(spec.model), now_s) < 1:
        return Obstacle.WINDOW_TOO_SHORT
    again = job.waiting.values() if not job.open.count else ()
    if again and choice and all(trouble.last_lot == lot for trouble in again):
        return Obstacle.FAILED_THERE
    return None
