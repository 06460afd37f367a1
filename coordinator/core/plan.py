"""The plan: which deadlines the fleet will meet, if it works off the earliest first, and what it loads for that.

A fluid plan, of work against capacity. It knows of a job the work that is left, the kinds of node that finish an
item of it in time, its deadline and its value. Jobs come in by their value for the work that is left; one comes in
if for no deadline the work due by then is more than the capacity that is forecast until then, on no set of kinds
that it is confined to. Who does not come in gets what is left over, and is asked about again when the plan is made
anew. Tenants are planned apart, each with its fair share: value compares only within a tenant.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from math import erf, inf, sqrt

import numpy as np

from coordinator.core.arrivals import Arrivals
from coordinator.core.events import JobId, JobSpec
from coordinator.core.job import Band, Job
from coordinator.core.queues import Queues
from coordinator.core.state import State
from coordinator.core.supply import LONGEST_S, UNKNOWN, Floats, Supply, foresee

_GRID_S = np.concatenate((np.geomspace(1.0, LONGEST_S, 400), LONGEST_S * np.geomspace(1.1, 1000.0, 40)))
"""Deadlines, seconds from the making of the plan: a job's is taken for the last of these before it."""

_PLACES_S: list[float] = _GRID_S.tolist()

_DOUBT = 0.15
"""Standard deviation of the capacity until a deadline, against what was forecast (assumed)."""

_MOST_JOBS = 1024
"""Jobs in one plan, and in one quote: about 10 us each."""

_CHANGE = 0.1
"""By which part the number of nodes at work changes before the forecast is asked ahead of time."""

_SOONER = 0.1
"""Part of the usual time after which the plan is made anew when a job came."""

_NEWEST = 1 << 62
"""Comes after all jobs in the order of submission."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job may expect."""

    finish_s: float  # coordinator seconds; infinity when nothing here can run it
    on_time: float  # chance that it is done by its deadline; 1 when it has none


@dataclass(frozen=True, slots=True)
class Need:
    """A job of the plan, and the nodes of the best kind that it needs at once to be done in time."""

    job: Job
    nodes: float


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a job wants of the plan."""

    job: Job
    kinds: int  # bits of those of which a node finishes an item of it in time
    model: str
    work_s: float
    due_s: float  # from now
    density: float
    reserve: float  # work a second that may come and be worth more
    item_s: float  # one item, where it is fastest


class _Room:
    """What one tenant may still have done by each deadline of the grid, by sets of kinds."""

    def __init__(self, supply: Supply, share: float, now_s: float) -> None:
        self._supply = supply
        self._share = share
        self.now_s = now_s
        self._capacity: dict[int, Floats] = {}  # [G]
        self._free: dict[int, Floats] = {}  # [G]
        self._taken: list[_Claim] = []

    def fits(self, claim: _Claim) -> bool:
        """Whether it comes in beside what is in, and beside what is expected."""
        return claim.kinds != 0 and self.slack_s(claim) >= 0

    def slack_s(self, claim: _Claim) -> float:
        """Work that could be due besides, when this claim is in; below 0 it does not come in."""
        self._know(claim.kinds)
        at = _place(claim.due_s)
        slack_s = inf
        for kinds, free in self._free.items():
            if kinds & claim.kinds == claim.kinds:
                later = free[at:] - claim.reserve * _GRID_S[at:] if claim.reserve else free[at:]
                slack_s = min(slack_s, float(later.min()))
        return slack_s - claim.work_s

    def take(self, claim: _Claim) -> None:
        """This claim is in."""
        self._know(claim.kinds)
        self._taken.append(claim)
        for kinds, free in self._free.items():
            self._charge(kinds, free, claim)

    def capacity_s(self, claim: _Claim) -> float:
        """All that can be done by its deadline by the kinds that it is confined to."""
        self._know(claim.kinds)
        return float(self._capacity[claim.kinds][_place(claim.due_s)])

    def finish_s(self, claim: _Claim) -> float:
        """When it is done if the earliest deadlines go first, seconds from now; infinity: not within the grid."""
        self._know(claim.kinds)
        at = _place(claim.due_s)
        finish_s = claim.item_s
        for kinds, free in self._free.items():
            if kinds & claim.kinds == claim.kinds:
                capacity = self._capacity[kinds]
                due_s = float(capacity[at] - free[at]) + claim.work_s
                finish_s = max(finish_s, float(np.interp(due_s, capacity, _GRID_S, right=inf)))
        return finish_s

    def _know(self, kinds: int) -> None:
        if kinds in self._free:
            return
        self._capacity[kinds] = self._share * self._supply.work(kinds, self.now_s, self.now_s + _GRID_S)
        free = self._free[kinds] = self._capacity[kinds].copy()
        for claim in self._taken:
            self._charge(kinds, free, claim)

    def _charge(self, kinds: int, free: Floats, claim: _Claim) -> None:
        if kinds & claim.kinds == claim.kinds:
            free[_place(claim.due_s) :] -= claim.work_s


class Plan:
    """What was planned last, and for which fleet."""

    def __init__(self, state: State, queues: Queues) -> None:
        self._state = state
        self._queues = queues
        self.supply = UNKNOWN
        self._nodes = 0  # that took work then
        self._arrivals = Arrivals()
        self._rooms: dict[str, _Room] = {}  # by tenant, since the plan was made last
        self._timed: dict[JobId, Job] = {}  # batch jobs with a deadline that may not have ended
        self._made_s = -inf
        self._stale = False
        self._came = False  # a job with a deadline, since then
        self.nodes_for: dict[str, float] = {}
        """Nodes of the best kind that each model needs at once for what is planned."""
        self.needs: list[Need] = []
        """What of the plan needs how many nodes, the earliest first."""
        self.waiting_s: dict[str, float] = {}
        """Work that waits, by model, without what the plan leaves out."""
        self.spare_s: dict[str, float] = {}
        """Work that waits and that the plan leaves out, by model, but for what is late."""

    def next_s(self) -> float | None:
        """When the plan is to be made anew; None when nothing needs one."""
        return self._made_s + self._next_in_s() if self._stale else None

    def admit(self, job: Job, now_s: float) -> None:
        """A batch job may run from now on: it comes into the plan if there is room beside the others."""
        self._stale = True
        if job.spec.deadline_s == inf:
            return
        self._timed[job.spec.job] = job
        self._came = True
        self._foresee(now_s)
        claim = self._claim(job, now_s)
        room = self._rooms.get(job.spec.tenant)
        if room is not None and room.fits(claim):
            room.take(claim)
            self._put_in(claim)
        else:
            self._leave_out(claim)
        if claim.work_s < inf:
            self._arrivals.note(job.spec.tenant, claim.density, claim.work_s, now_s)

    def make(self, now_s: float) -> bool:
        """Make the plan anew if it is time to, and whether it was: every job with a deadline gets its band."""
        if not self._stale or now_s < self._made_s + self._next_in_s():
            return False
        self._came = False
        self._made_s = now_s
        self._foresee(now_s)
        claims = self._claims(now_s)
        self._stale = bool(claims) or self._queues.busy
        self._rooms = self._new_rooms(claims, now_s, self._state.settings.plan_margin)
        taken: list[_Claim] = []
        needs: list[Need] = []
        for claim in claims:
            room = self._rooms[claim.job.spec.tenant]
            if room.fits(claim):
                room.take(claim)
                taken.append(claim)
                needs.append(Need(claim.job, claim.work_s / claim.due_s))
                self._put_in(claim)
            else:
                self._leave_out(claim)
        self.nodes_for = _nodes_for(taken)
        self.needs = sorted(needs, key=lambda need: need.job.urgency)
        waiting_s: defaultdict[str, float] = defaultdict(float)
        spare_s: defaultdict[str, float] = defaultdict(float)
        for job in self._queues.first_jobs(Band.SPARE, _MOST_JOBS):
            if job.spec.model in self.supply.best:
                into_s = spare_s if job.band is Band.SPARE else waiting_s
                into_s[job.spec.model] += job.placeable * job.spec.item_work / self.supply.best[job.spec.model]
        self.waiting_s, self.spare_s = dict(waiting_s), dict(spare_s)
        return True

    def quote(self, spec: JobSpec, now_s: float) -> Quote:
        """What a batch job may expect that is submitted now. Changes nothing that is planned."""
        return self.outlook(Job(spec, _NEWEST, now_s, ready=True), now_s)

    def outlook(self, mine: Job, now_s: float) -> Quote:
        """What a batch job may expect, known or not. Changes nothing that is planned."""
        spec = mine.spec
        self._foresee(now_s)
        claim = self._claim(mine, now_s)
        if not claim.kinds:
            return Quote(inf, float(spec.deadline_s == inf))
        others = [other for other in self._claims(now_s) if other.job is not mine]
        room = self._new_rooms([*others, claim], now_s, 1.0)[spec.tenant]
        for other in others:
            if spec.deadline_s < inf and _precedence(other) > _precedence(claim):
                break
            if other.job.spec.tenant == spec.tenant and room.fits(other):
                room.take(other)
        finish_s = now_s + room.finish_s(claim)
        if spec.deadline_s == inf:
            return Quote(finish_s, 1.0)
        doubt_s = _DOUBT * room.capacity_s(claim)
        return Quote(finish_s, 0.5 * (1.0 + erf(room.slack_s(claim) / max(doubt_s, 1e-9) / sqrt(2.0))))

    def _next_in_s(self) -> float:
        return self._state.settings.plan_every_s * (_SOONER if self._came else 1.0)

    def _claims(self, now_s: float) -> list[_Claim]:
        """Of jobs whose deadlines are to come, the most valuable first; of very many, those due first."""
        self._timed = {
            number: job for number, job in self._timed.items() if job.ended is None and job.spec.deadline_s > now_s
        }
        jobs: Iterable[Job] = self._timed.values()
        if len(self._timed) > _MOST_JOBS:
            jobs = nsmallest(_MOST_JOBS, jobs, key=lambda job: job.spec.deadline_s)
        return sorted((self._claim(job, now_s) for job in jobs), key=_precedence)

    def _put_in(self, claim: _Claim) -> None:
        claim.job.promised = True
        self._queues.rerank(claim.job, Band.PLANNED, claim.job.spec.deadline_s - claim.item_s)

    def _leave_out(self, claim: _Claim) -> None:
        claim.job.promised = False
        if claim.due_s <= 0:
            self._queues.rerank(claim.job, Band.LATE, -claim.density)
        elif claim.item_s < inf:  # else nobody knows
            self._queues.rerank(claim.job, Band.SPARE, -claim.density)

    def _foresee(self, now_s: float) -> None:
        nodes = self._state.fleet.serving
        changed = abs(nodes - self._nodes) > _CHANGE * self._nodes
        if changed or now_s >= self.supply.made_s + self._state.settings.foresee_every_s:
            self.supply, self._nodes = foresee(self._state, now_s), nodes

    def _claim(self, job: Job, now_s: float) -> _Claim:
        spec, supply = job.spec, self.supply
        due_s = (spec.deadline_s - now_s) * (1.0 - self._state.settings.plan_tail)
        best = supply.best.get(spec.model, 0.0)
        item_s = spec.item_work / best if best else inf
        kinds = supply.able(spec.model, spec.item_work, due_s) if due_s > 0 else 0
        settings, reserve = self._state.settings, 0.0
        density = job.density if settings.completion_bonus else spec.value / (spec.items * spec.item_work)
        if not settings.by_value:
            density = 1.0
        if not job.promised:
            reserve = settings.reserve * self._arrivals.rate_above(spec.tenant, density)
        return _Claim(job, kinds, spec.model, job.left(now_s) * item_s, due_s, density, reserve, item_s)

    def _new_rooms(self, claims: Iterable[_Claim], now_s: float, part: float) -> dict[str, _Room]:
        """Room for each tenant, in such a part of what is forecast: by weight, and what others do not want."""
        wanted: defaultdict[str, float] = defaultdict(float)  # nodes of the best kind
        for claim in claims:
            wanted[claim.job.spec.tenant] += claim.work_s / max(claim.due_s, 1.0) if claim.work_s < inf else 0.0
        tenants = set(wanted)
        wanted.update(dict.fromkeys(self._queues.open_tenants(), inf))
        capacity = sum(kind.strength * kind.nodes for kind in self.supply.kinds.values())
        shares = _max_min(wanted, {tenant: self._state.shares.weight(tenant) for tenant in wanted}, capacity)
        return {tenant: _Room(self.supply, part * shares[tenant], now_s) for tenant in tenants}


def _precedence(claim: _Claim) -> tuple[float, int]:
    return -claim.density, claim.job.sequence


def _place(due_s: float) -> int:
    return max(0, bisect_right(_PLACES_S, due_s) - 1)


def _max_min(wanted: dict[str, float], weights: dict[str, float], capacity: float) -> dict[str, float]:
    """Parts of a capacity: by weight at least, and what others do not want; what nobody wants is everybody's."""
    left, shares = capacity, dict.fromkeys(wanted, 0.0)
    hungry = sorted(wanted, key=lambda tenant: wanted[tenant] / weights[tenant])
    everybody = total = sum(weights.values())
    for tenant in hungry:
        shares[tenant] = min(wanted[tenant], left * weights[tenant] / max(total, weights[tenant]))
        left -= shares[tenant]
        total -= weights[tenant]
    return {
        tenant: max(weights[tenant] / everybody, (share + left) / capacity if capacity else 0.0)
        for tenant, share in shares.items()
    }


def _nodes_for(claims: Iterable[_Claim]) -> dict[str, float]:
    """Nodes of the best kind that each model needs at once, lest one of these deadlines passes."""
    work_s: defaultdict[str, float] = defaultdict(float)
    nodes: dict[str, float] = {}
    for claim in sorted(claims, key=lambda claim: claim.due_s):
        work_s[claim.model] += claim.work_s
        nodes[claim.model] = max(nodes.get(claim.model, -inf), work_s[claim.model] / claim.due_s)
    return nodes
