"""Fair shares, seen from outside: over a stretch in which two tenants wait for the same, what each is lent for its
weight differs by no more than start-time fair queueing promises."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

from coordinator.core.effects import Effects, EndRecord, Grant, Outcome, Record
from coordinator.core.events import JobId, Token
from coordinator.core.job import Job
from coordinator.core.lease import Lease
from coordinator.core.scheduler import Scheduler

_Queue = tuple[str, bool]
"""Those that wait for the same: by model, and whether they are interactive."""

_NOTHING: frozenset[JobId] = frozenset()


class Fairness:
    """What every tenant was lent, by the grants of one coordinator, and by how much two of them differed.

    A stretch begins when both wait; it ends when one has nothing to place there, and when one begins to wait for
    something else, since nobody saves up what it left unused. Within it the next slice always goes to the one that
    was lent less, counted from some beginning that is theirs alone. So the lead of one tenant over another, each
    time when it is served, and the lead of the other, each time when that one is served, add up to nothing; the
    bound leaves them a slice of each (P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", 1996, theorem 1).
    """

    def __init__(self, weights: Iterable[tuple[str, float]]) -> None:
        self.stretches = 0  # in which both tenants were served
        self._weights = dict(weights)
        self._lent: dict[str, float] = defaultdict(float)  # accelerator-seconds for a weight of 1, by tenant
        self._largest: dict[str, float] = defaultdict(float)  # slice, likewise
        self._leases: dict[Token, tuple[Lease, str, float]] = {}  # live ones: tenant, what it was charged
        self._waiting: dict[tuple[str, _Queue], frozenset[JobId]] = {}  # by tenant, after the last step
        self._steady: set[tuple[str, _Queue]] = set()  # of these, who could be served by any node
        self._leads: dict[tuple[_Queue, str, str], float] = {}  # the first's over the second, when it was served

    def stepped(self, scheduler: Scheduler, effects: Effects) -> str:
        """The core has taken a step; what is unfair about it, empty: nothing."""
        self._refund(scheduler)
        grants = [order for order in effects.send if isinstance(order, Grant)]
        waiting, steady = _waiting(scheduler.jobs.values())
        served = {grant.job for grant in grants}
        tenants = {grant.job: scheduler.jobs[grant.job].spec.tenant for grant in grants}
        stays = {at for at, jobs in self._waiting.items() if jobs & (waiting.get(at, _NOTHING) | served)}
        if any(_is_given_up(record) for record in chain(effects.save, effects.answer)):
            stays.clear()  # it may have begun to wait within the step
        queues = {(tenants[grant.job], (grant.model, grant.interactive)) for grant in grants}
        begin = {tenant for tenant, queue in chain(waiting, queues) if (tenant, queue) not in stays}
        stays = {at for at in stays & self._steady if at[0] not in begin}
        goes_on = stays & steady
        unfair = ""
        for grant in grants:
            queue, tenant = (grant.model, grant.interactive), tenants[grant.job]
            if (tenant, queue) in stays:
                others = [other for other, theirs in goes_on if theirs == queue and other != tenant]
                unfair = unfair or self._compare(queue, tenant, others)
            self._charge(scheduler.leases[grant.token], tenant, scheduler)
        self._waiting, self._steady = waiting, steady
        self._leads = {
            (queue, one, other): lead
            for (queue, one, other), lead in self._leads.items()
            if (one, queue) in goes_on and (other, queue) in goes_on
        }
        return unfair

    def _compare(self, queue: _Queue, tenant: str, others: Iterable[str]) -> str:
        """This tenant is served while others wait for the same."""
        for other in sorted(others):
            lead = self._lent[tenant] - self._lent[other]
            before = self._leads.get((queue, tenant, other))
            self._leads[queue, tenant, other] = lead if before is None else max(before, lead)
            against = self._leads.get((queue, other, tenant))
            if against is None:
                continue
            self.stretches += before is None
            bound = self._largest[tenant] + self._largest[other]
            if lead + against > bound + 1e-6:
                return (
                    f"{tenant} and {other} both wait for {queue[0]}; they differ by {lead + against:.3f} s, and by "
                    f"{bound:.3f} s at most if shares were fair"
                )
        return ""

    def _charge(self, lease: Lease, tenant: str, scheduler: Scheduler) -> None:
        items_per_s = scheduler.fleet.speed(lease.node, lease.model).items_per_s
        seconds = lease.items / items_per_s / self._weights.get(tenant, 1.0)
        self._lent[tenant] += seconds
        self._largest[tenant] = max(self._largest[tenant], seconds)
        self._leases[lease.token] = lease, tenant, seconds

    def _refund(self, scheduler: Scheduler) -> None:
        """What a lease that ended did not settle came to nothing."""
        for token in [token for token in self._leases if token not in scheduler.leases]:
            lease, tenant, seconds = self._leases.pop(token)
            self._lent[tenant] -= seconds * lease.undone.bit_count() / lease.items


def _is_given_up(record: Record) -> bool:
    return isinstance(record, EndRecord) and record.outcome is not Outcome.DONE


def _waiting(
    jobs: Iterable[Job],
) -> tuple[dict[tuple[str, _Queue], frozenset[JobId]], set[tuple[str, _Queue]]]:
    """Who has items to place, with which jobs; and of these who has some that any node may run, since an item that
    went wrong once may wait for a node of another lot."""
    waiting: dict[tuple[str, _Queue], set[JobId]] = defaultdict(set)
    steady: set[tuple[str, _Queue]] = set()
    for job in jobs:
        if job.ended is None and job.placeable:
            spec = job.spec
            at = (spec.tenant, (spec.model, spec.interactive))
            waiting[at].add(spec.job)
            if job.open.count:
                steady.add(at)
    return {at: frozenset(numbers) for at, numbers in waiting.items()}, steady
