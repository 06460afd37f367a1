"""Placement: which slice of which job goes to which free node. Feasible, then score, then choose."""

from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from math import ceil, inf

from coordinator.core.effects import Effects, Grant
from coordinator.core.events import LotId, ModelSpeed
from coordinator.core.job import Job
from coordinator.core.ledger import Ledger
from coordinator.core.matching import Matching
from coordinator.core.plan import Plan
from coordinator.core.queues import Entry, Line, Queue, Queues, line_of, rank
from coordinator.core.residency import Residency
from coordinator.core.settings import SchedulingSettings
from coordinator.core.state import State

MOST_ITEMS = 4096
"""Items in one lease at most: its bitmaps stay short."""

_MOST_CANDIDATES = 256
"""Nodes looked at for one slice: a request must not cost more in a larger fleet."""

_MOST_SURE = 16
"""Nodes that are as free, of which the one is chosen for an interactive job that stays for its answer."""

_WORTH_LEASES = 2
"""A node with the beginning of a conversation in memory may hold so many leases more than the freest (assumed)."""

_MOST_MATCHED = 64
"""Nodes at a time of which the one is chosen that suits an item best."""

_MOST_BEHIND = 64
"""Jobs of a line that are looked at for a short one when no node is fit for the long ones before it."""

_MOST_PASSED = 8
"""Jobs of a line, and lines of either kind, that are looked at when the first finds no node that is fit for it."""


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
        misfits: dict[Line, int] = {}
        aside: set[Line] = set()  # those of which the first jobs did not fit
        placed = False
        rows = _Kept(self._usable(queue, now_s))
        if rows.any():
            capable = fleet.capable(queue.model)
            while (job := queue.head(aside)) is not None:
                line, looked_at = line_of(job), 1
                if self._is_long(job, rows):
                    beside = list(islice(self._of_band(queue, job), _MOST_PASSED))
                    placed = self._place_long(queue, beside, rows, capable, now_s, effects)
                    looked_at = len(beside)
                else:
                    chosen = self._for_answer(job, rows, now_s) if queue.interactive else rows
                    placed = self._place_job(job, chosen, capable, now_s, effects)
                if placed:
                    break
                passed += [queue.drop(job) for _ in range(looked_at)]
                misfits[line] = misfits.get(line, 0) + looked_at
                if misfits[line] >= _MOST_PASSED:
                    aside.add(line)
                    if sum(other[1] == line[1] for other in aside) == _MOST_PASSED:
                        aside.update(other for other in queue.entries if other[1] == line[1])
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

    def _for_answer(self, job: Job, rows: Iterable[int], now_s: float) -> Iterator[int]:
        """The nodes for an interactive job, the best first: the one that it prefers, if that is about as free as
        the freest; then of those that are as free, with the model as near at hand, the one that stays. None of a
        lot that is at work on its twin."""
        fleet, spec = self._state.fleet, job.spec
        twin = self._state.jobs.get(job.twin) if job.twin is not None else None
        if twin is not None and twin.leases:
            apart = {lease.lot for lease in twin.leases.values()}
            yield from (row for row in rows if fleet.lot.item(row) not in apart)
            return
        first = next(iter(rows))
        held = fleet.interactive_leases.item(first)
        if spec.prefer is not None and self._has(spec.prefer, spec.model, held + _WORTH_LEASES):
            yield spec.prefer

        if self.matching.is_long(job, first):
            load_s = fleet.lot_of(first).speeds[spec.model].load_s

            def is_as_free(row: int) -> bool:
                near = fleet.lot_of(row).speeds[spec.model].load_s == load_s
                return near and fleet.interactive_leases.item(row) == held

            yield from self.matching.surest(job, list(islice(takewhile(is_as_free, rows), _MOST_SURE)), now_s)
        yield from rows

    def _has(self, row: int, model: str, most_leases: int) -> bool:
        """Whether a node takes interactive work for a model that it has loaded, and holds no more than so much."""
        fleet = self._state.fleet
        if row >= fleet.size or not fleet.serves(row) or model not in fleet.lot_of(row).resident:
            return False
        most = min(most_leases, self._state.settings.interactive_in_hand - 1)
        return fleet.interactive_leases.item(row) <= most

    def _is_long(self, job: Job, rows: Iterable[int]) -> bool:
        """Whether an item of a job takes so long that the node for it is to be chosen."""
        return any(self.matching.matters(job, row) for row in islice(rows, 1))

    @staticmethod
    def _of_band(queue: Queue, job: Job) -> Iterator[Job]:
        """The most urgent jobs of its line and band, a job that `head` gave the first of them."""
        return takewhile(lambda other: other.band is job.band, queue.in_order(line_of(job)))

    def _place_long(
        self, queue: Queue, beside: list[Job], rows: Iterable[int], capable: int, now_s: float, effects: Effects
    ) -> bool:
        """Lend a slice of one of these jobs to the node that suits it; else one of a short job behind them."""
        waiting = iter(rows)
        while some := list(islice(waiting, _MOST_MATCHED)):
            for other, row in self.matching.pairs(beside, some, now_s):
                if self._place_job(other, (row,), capable, now_s, effects):
                    return True
        behind = islice(queue.in_order(line_of(beside[0])), len(beside), _MOST_BEHIND)
        short = next((other for other in behind if not self._is_long(other, rows)), None)
        return short is not None and self._place_job(short, rows, capable, now_s, effects)

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
            if job.waiting:
                self._queues.put(job)  # only these may be left of it
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
