"""Placement: which slice of which job goes to which free node. Feasible, then score, then choose."""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import ceil, inf

from coordinator.core.effects import Effects, Grant
from coordinator.core.events import LotId, ModelSpeed
from coordinator.core.job import Job
from coordinator.core.ledger import Ledger
from coordinator.core.matching import Matching
from coordinator.core.plan import Plan
from coordinator.core.queues import Entry, Queue, Queues, rank
from coordinator.core.residency import Residency
from coordinator.core.settings import SchedulingSettings
from coordinator.core.state import State

MOST_ITEMS = 4096
"""Items in one lease at most: its bitmaps stay short."""

_MOST_CANDIDATES = 256
"""Nodes looked at for one slice: a request must not cost more in a larger fleet."""

_MOST_MATCHED = 16
"""Nodes of which the one is chosen that suits an item best."""

_MOST_PASSED = 8
"""Jobs of a tenant, and tenants, that are looked at when the first finds no node that is fit for it."""


class _Kept:
    """Rows that are looked for only once, and only as far as somebody wants to see them."""

    def __init__(self, rows: Iterator[int]) -> None:
        self._rows = rows
        self._seen: list[int] = []

    def any(self) -> bool:
        """Whether there is one."""
        return next(iter(self), None) is not None

    def __iter__(self) -> Iterator[int]:
        yield from self._seen
        for row in self._rows:
            self._seen.append(row)
            yield row


class Placement:
    """Lends what is queued to what is free, until one of them runs out."""

    def __init__(self, state: State, queues: Queues, ledger: Ledger, plan: Plan) -> None:
        self._state = state
        self._queues = queues
        self._ledger = ledger
        self.residency = Residency(state, queues)
        self.matching = Matching(state, plan)

    def place(self, now_s: float, effects: Effects) -> None:
        """Lend all that some free node is fit for, the most urgent first."""
        freed, shares = self._state.fleet.freed, self._state.shares
        heads = [(queue, job) for queue in self._queues.ready(freed) if (job := queue.head()) is not None]
        blocked: list[Queue] = []
        while heads:
            at = min(range(len(heads)), key=lambda at: rank(heads[at][1], shares)) if len(heads) > 1 else 0
            queue, _ = heads[at]
            if not self._place_next(queue, now_s, effects):
                blocked.append(queue)
            elif (job := queue.head()) is not None:
                heads[at] = queue, job
                continue
            heads[at] = heads[-1]
            heads.pop()
        for queue in blocked:
            queue.blocked_at = freed[queue.interactive]

    def _place_next(self, queue: Queue, now_s: float, effects: Effects) -> bool:
        """Lend one slice of the queue's most urgent job that some free node is fit for; False when none is."""
        fleet, tally = self._state.fleet, self._state.tally
        passed: list[Entry] = []
        aside: dict[str, list[Entry]] = {}  # tenants of which the first jobs did not fit
        placed = False
        rows = _Kept(self._usable(queue, now_s))
        if rows.any():
            capable = fleet.capable(queue.model)
            while len(aside) < _MOST_PASSED and (job := queue.head()) is not None:
                placed = self._place_matched(queue, job, rows, capable, now_s, effects)
                if placed:
                    break
                passed.append(queue.drop(job))
                tenant = job.spec.tenant
                if sum(entry[4].spec.tenant == tenant for entry in passed) == _MOST_PASSED:
                    aside[tenant] = queue.set_aside(tenant)
            for tenant, entries in aside.items():
                queue.restore(tenant, entries)
            for entry in passed:
                queue.push(entry)
        tally.decisions["placed" if placed else "no_node"] += 1
        return placed

    def _usable(self, queue: Queue, now_s: float) -> Iterator[int]:
        """Free nodes that may be lent work for the model of a queue: of those alike, the cheapest first."""
        fleet = self._state.fleet
        allowed: dict[int, bool] = {}  # by capability
        found = 0
        for capability, rows in fleet.free(queue.model, queue.interactive):
            if capability not in allowed:
                one = next(iter(rows))
                allowed[capability] = queue.interactive or self.residency.allows(one, queue.model, now_s)
                if not allowed[capability]:
                    self._state.tally.decisions["other_model"] += 1
                    self.residency.refused(queue.model, now_s)
            if allowed[capability]:
                some = islice(reversed(rows), _MOST_CANDIDATES - found)
                for row in sorted(some, key=fleet.cost_per_h.item) if fleet.priced else some:
                    found += 1
                    yield row

    def _place_matched(
        self, queue: Queue, job: Job, rows: Iterable[int], capable: int, now_s: float, effects: Effects
    ) -> bool:
        """Lend a slice of a job or, where nodes may leave before an item is done, of what suits them better."""
        if not any(self.matching.matters(job, row) for row in islice(rows, 1)):
            return self._place_job(job, rows, capable, now_s, effects)
        some = list(islice(rows, _MOST_MATCHED))
        return any(
            self._place_job(other, (row,), capable, now_s, effects)
            for other, row in self.matching.pairs(queue.beside(job, _MOST_PASSED), some, now_s)
        )

    def _place_job(self, job: Job, rows: Iterable[int], capable: int, now_s: float, effects: Effects) -> bool:
        spec, fleet = job.spec, self._state.fleet
        for row in rows:
            speed = fleet.speed(row, spec.model, spec.item_work)
            window_s = float(fleet.until_s[row]) - now_s
            count = slice_items(self._state.settings, job, speed, window_s, capable, now_s)
            if count < 1:
                self._state.tally.decisions["window_too_short"] += 1
                continue
            choosy = bool(job.waiting) and fleet.has_choice(spec.model)
            ranges, solo = job.carve(count, LotId(int(fleet.lot[row])), choosy)
            if not ranges:
                continue
            lease = self._ledger.lend(job, row, ranges, solo, speed, now_s)
            if not spec.interactive:
                self.residency.lend(row, spec.model, lease.items * spec.item_work)
            effects.send.append(
                Grant(
                    lease.lot,
                    row,
                    lease.token,
                    spec.job,
                    spec.model,
                    ranges,
                    lease.lease_s,
                    spec.interactive,
                    solo,
                    spec.tenant,
                )
            )
            return True
        return False


def slice_items(
    settings: SchedulingSettings, job: Job, speed: ModelSpeed, window_s: float, capable: int, now_s: float
) -> int:
    """Items to lend to a node of this speed with this much window left, one of `capable`; 0 when none would fit.

    A slice of a job that can still make its deadline ends well before it: what a car takes away is done elsewhere.
    """
    spec = job.spec
    room_s = window_s * settings.window_margin - speed.load_s
    target_s = max(settings.slice_target_s, capable / settings.slices_per_s)
    due_s = spec.deadline_s - now_s
    if not spec.interactive and 0 < due_s < inf:
        room_s = min(room_s, due_s - speed.load_s)
        target_s = min(target_s, due_s * settings.slice_of_deadline)
    fit = min(room_s * speed.items_per_s, MOST_ITEMS)
    if fit < 1:
        return 0
    in_hand = 1 if spec.interactive else settings.slices_in_hand
    fair = ceil(job.placeable / (in_hand * max(capable, 1)))
    least = ceil(min(settings.slice_least_s * speed.items_per_s, MOST_ITEMS))
    target = max(1, int(min(target_s * speed.items_per_s, MOST_ITEMS)), speed.batch_items)
    by_size = max(1, settings.slice_bytes // max(spec.item_bytes, 1))
    return int(min(fit, target, by_size, max(fair, least)))
