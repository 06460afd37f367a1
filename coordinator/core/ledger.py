"""The ledger of leases: lends, adopts, prolongs and takes back. It decides nothing."""

from collections.abc import Iterator
from heapq import heappop, heappush

from coordinator.core.bits import mask
from coordinator.core.events import HeldLease, LeaseEnd, LotId, ModelSpeed, Token
from coordinator.core.job import Job
from coordinator.core.lease import Lease, ranges_of
from coordinator.core.queues import Queues
from coordinator.core.ranges import Range
from coordinator.core.state import State


class Ledger:
    """Who holds what, kept equal in jobs, nodes and the table of leases."""

    def __init__(self, state: State, queues: Queues) -> None:
        self._state = state
        self._queues = queues
        self._attempt = 0
        self._expiries: list[tuple[float, Token]] = []  # may be early: a report puts the true time off

    def lend(
        self, job: Job, row: int, ranges: tuple[Range, ...], solo: bool, speed: ModelSpeed, now_s: float
    ) -> Lease:
        """Lend items that were carved from a job to a node, under a new token."""
        self._attempt += 1
        token = Token(self._state.epoch, self._attempt)
        lot = LotId(int(self._state.fleet.lot[row]))
        items = sum(count for _, count in ranges)
        expected_s = speed.load_s + items / speed.items_per_s
        if job.started_s is None:
            job.started_s = now_s
        self._state.shares.charge(job.spec.tenant, job.spec.interactive, expected_s)
        return self._enter(token, lot, row, job, ranges, items, solo, expected_s, now_s)

    def adopt(self, lot: LotId, held: HeldLease, now_s: float) -> bool:
        """Take over a lease that a lot held before this coordinator knew it; False when none of it is open."""
        job = self._state.jobs.get(held.job)
        if job is None or job.ended is not None or not job.ready or held.token in self._state.leases:
            return False
        if held.model != job.spec.model:
            return False
        items = sum(count for _, count in held.ranges)
        wanted, offset = 0, 0
        for first, count in held.ranges:
            for item in range(first, first + count):
                wanted |= (item in job.open) << offset
                offset += 1
        if not wanted:
            return False
        for first, count in ranges_of(held.ranges, wanted):
            job.open.remove(first, count)
            job.lent += count
        self._queues.put(job)
        lease = self._enter(held.token, lot, held.node, job, held.ranges, items, False, 0.0, now_s)
        lease.done = mask(items) & ~wanted  # others have those
        return True

    def prolong(self, lease: Lease, now_s: float) -> None:
        """A report came: the lease runs on."""
        lease.reported_s = now_s
        lease.expires_s = now_s + lease.lease_s

    def end(self, lease: Lease, end: LeaseEnd, now_s: float) -> None:
        """Forget a lease; what it did not settle may be lent again."""
        state = self._state
        job = state.jobs[lease.job]
        del state.leases[lease.token], job.leases[lease.token]
        if not job.leases:
            state.at_work.pop(lease.job, None)
        held = state.held[lease.node]
        del held[lease.token]
        if not held:
            del state.held[lease.node]
        undone = lease.undone
        if undone:
            state.shares.refund(job.spec.tenant, lease.expected_s * undone.bit_count() / lease.items)
            job.give_back(lease.ranges_of(undone))
            self._queues.put(job)
        state.tally.leases[end.name.lower(), state.fleet.profile_of(lease.node)] += 1
        self._count_held(lease.node, lease.interactive, -1, now_s)

    def meter(
        self,
        lease: Lease,
        useful_s: float,
        lost_s: float,
        loading_s: float,
        energy_modelled_j: float,
        awake_modelled_j: float = 0.0,
    ) -> None:
        """Book accelerator-seconds and modelled joules; those of the computer are split as the seconds are."""
        tally, profile = self._state.tally, self._state.fleet.profile_of(lease.node)
        total_s = useful_s + lost_s + loading_s
        for use, seconds in (("useful", useful_s), ("lost", lost_s), ("loading", loading_s)):
            if seconds > 0:
                tally.accelerator_s[profile, use] += seconds
                tally.energy_modelled_j[profile, use] += energy_modelled_j * seconds / total_s
        if awake_modelled_j > 0:
            tally.energy_modelled_j[profile, "awake"] += awake_modelled_j

    def run_out(self, now_s: float) -> Iterator[Lease]:
        """Leases whose time is over; the caller ends them."""
        while self._expiries and self._expiries[0][0] <= now_s:
            _, token = heappop(self._expiries)
            lease = self._state.leases.get(token)
            if lease is None:
                continue
            if lease.expires_s > now_s:
                heappush(self._expiries, (lease.expires_s, token))
            else:
                yield lease

    def next_expiry_s(self) -> float | None:
        """No lease runs out before this."""
        return self._expiries[0][0] if self._expiries else None

    def _enter(
        self,
        token: Token,
        lot: LotId,
        row: int,
        job: Job,
        ranges: tuple[Range, ...],
        items: int,
        solo: bool,
        expected_s: float,
        now_s: float,
    ) -> Lease:
        spec, settings = job.spec, self._state.settings
        lease_s = settings.lease_least_s + settings.lease_factor * expected_s
        lease = Lease(
            token,
            lot,
            row,
            spec.job,
            spec.model,
            ranges,
            items,
            spec.interactive,
            solo,
            now_s,
            expected_s,
            lease_s,
            now_s + lease_s,
            now_s,
        )
        self._state.leases[token] = lease
        self._state.held.setdefault(row, {})[token] = lease
        job.leases[token] = lease
        if not spec.interactive:
            self._state.at_work[spec.job] = job
        heappush(self._expiries, (lease.expires_s, token))
        self._count_held(row, spec.interactive, 1, now_s)
        return lease

    def _count_held(self, row: int, interactive: bool, change: int, now_s: float) -> None:
        fleet = self._state.fleet
        if interactive:
            fleet.interactive_leases[row] += change
        else:
            fleet.batch_leases[row] += change
        fleet.refresh(row, now_s)
