"""Jobs with items to place, by model, class and tenant: the tenant that was lent least is served first, and of its
jobs the one that the plan puts first.

Jobs that may have to wait for a node of another lot stand in a line of their own, so that they hide no others.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from math import inf

from coordinator.core.job import Band, Job
from coordinator.core.shares import Shares

Entry = tuple[int, float, int, int, Job]  # band, urgency, order of submission, number of the entry, job
Line = tuple[str, bool]
"""Jobs of a tenant that stand together: those of which only items that went wrong are left, or all others."""

Rank = tuple[bool, float, int, float, int]
"""Sort key: interactive first, then what its tenant was lent, then by the plan, then by submission."""

_FEW = 256
"""Entries of a tenant that are kept until they come up, whether or not they still stand."""

_LOOKED_AT = 4
"""Entries that are looked at for each that is asked for."""


@dataclass(slots=True)
class Queue:
    """The jobs of one model and class."""

    model: str
    interactive: bool
    shares: Shares
    entries: dict[Line, list[Entry]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)  # tenants that may have an entry without a deadline among these
    rebuilt_at: int = _FEW  # entries, of which those are left out that do not stand
    blocked_at: int = -1  # the fleet's `freed` of its class when no node was fit; nothing to try until it grows

    def head(self, aside: Container[Line] = ()) -> Job | None:
        """The most urgent job with something to place, but for some lines; forgets those that have nothing left."""
        best: tuple[Rank, Job] | None = None
        lines = tuple(self.entries)
        for line in lines:
            if line in aside or not self._waits_in(line):
                continue
            job = self.entries[line][0][4]
            if len(lines) == 1:
                return job
            ranked = rank(job, self.shares)
            if best is None or ranked < best[0]:
                best = ranked, job
        return None if best is None else best[1]

    def waits(self, tenant: str) -> bool:
        """Whether a tenant has something to place; forgets its most urgent jobs if they have nothing left."""
        return self._waits_in((tenant, False)) or self._waits_in((tenant, True))

    def waiting(self) -> Iterator[str]:
        """Tenants that have something to place."""
        return filter(self.waits, {tenant: None for tenant, _ in self.entries})

    def heads(self) -> Iterator[Job]:
        """The most urgent job of each line."""
        for line in tuple(self.entries):
            if self._waits_in(line):
                yield self.entries[line][0][4]

    def in_order(self, line: Line) -> Iterator[Job]:
        """The jobs of a line, the most urgent first; the caller changes nothing until it has stopped iterating."""
        entries = self.entries.get(line, ())
        ahead = [(entry, 0) for entry in entries[:1]]  # of a heap, what comes next is below what came
        while ahead:
            entry, at = heappop(ahead)
            if _stands(entry):
                yield entry[4]
            for below in (2 * at + 1, 2 * at + 2):
                if below < len(entries):
                    heappush(ahead, (entries[below], below))

    def drop(self, job: Job) -> Entry:
        """Take out the most urgent job of its line; the caller pushes it again, and its tenant keeps its turn."""
        self._waits_in(line_of(job))
        return heappop(self.entries[line_of(job)])

    def push(self, entry: Entry) -> None:
        """Let a job stand where its entry says."""
        entries = self.entries.setdefault(line_of(entry[4]), [])
        heappush(entries, entry)
        if len(entries) > self.rebuilt_at:
            standing = [entry for entry in entries if _stands(entry)]
            for entry in entries:
                if not _stands(entry):
                    _forget(entry)
            entries[:] = standing
            heapify(entries)
            self.rebuilt_at = max(_FEW, 2 * len(entries))

    def of(self, tenant: str) -> Iterator[Entry]:
        """All entries of a tenant, in no order."""
        return chain.from_iterable(self.entries.get(line, ()) for line in ((tenant, False), (tenant, True)))

    def _waits_in(self, line: Line) -> bool:
        """Whether a line has something to place; forgets its most urgent jobs if they have nothing left."""
        entries = self.entries.get(line, ())
        while entries:
            if _stands(entries[0]):
                return True
            _forget(heappop(entries))
        self.entries.pop(line, None)
        return False


def line_of(job: Job) -> Line:
    """Where a queued job stands."""
    return job.spec.tenant, job.retried


def _stands(entry: Entry) -> bool:
    return entry[3] == entry[4].entry and entry[4].placeable > 0


def _forget(entry: Entry) -> None:
    *_, number, job = entry
    if number == job.entry:
        job.entry = 0


class Queues:
    """All queues; interactive ones come first."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._queues: dict[tuple[str, bool], Queue] = {}
        self._entries = 0

    def put(self, job: Job) -> None:
        """Queue a job that has items to place, unless it is queued where it belongs."""
        if not job.placeable or (job.entry and job.retried != bool(job.open.count)):
            return
        spec = job.spec
        key = (spec.model, spec.interactive)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(spec.model, spec.interactive, self._shares)
        if not queue.waits(spec.tenant):
            self._shares.wake(spec.tenant, spec.interactive, queue.waiting())
        self._enter(queue, job)

    def rerank(self, job: Job, band: Band, urgency: float) -> None:
        """The plan puts a job elsewhere; where it stood is forgotten when it comes up there."""
        if (job.band, job.urgency) == (band, urgency):
            return
        job.band, job.urgency = band, urgency
        if job.entry:
            self._enter(self._queues[job.spec.model, job.spec.interactive], job)

    def ready(self, freed: list[int]) -> list[Queue]:
        """Queues that may find a node: not empty, and something changed since they last did not."""
        return [
            queue
            for queue in self._queues.values()
            if queue.entries and queue.blocked_at != freed[queue.interactive]
        ]

    def open_tenants(self) -> set[str]:
        """Tenants with a batch job in a queue that has no deadline."""
        tenants: set[str] = set()
        for queue in self._queues.values():
            for tenant in () if queue.interactive else tuple(queue.open):
                if any(entry[0] is Band.OPEN and _stands(entry) for entry in queue.of(tenant)):
                    tenants.add(tenant)
                elif all(entry[0] is not Band.OPEN for entry in queue.of(tenant)):
                    queue.open.discard(tenant)
        return tenants

    def soonest_s(self, model: str) -> float:
        """When the most urgent job of the plan that waits for a model has to be begun; infinity: none does."""
        return min((job.urgency for job in self._heads(model) if job.band is Band.PLANNED), default=inf)

    def waits(self, model: str) -> bool:
        """Whether a batch job with something to place waits for a model."""
        return next(self._heads(model), None) is not None

    def hurries(self, model: str) -> bool:
        """Whether a batch job with something to place waits for a model, and is not late."""
        return any(job.band < Band.LATE for job in self._heads(model))

    @property
    def busy(self) -> bool:
        """Whether a batch job stands in a queue."""
        return any(queue.entries for queue in self._queues.values() if not queue.interactive)

    def first_jobs(self, last: Band, most: int) -> Iterator[Job]:
        """Batch jobs with something to place, up to this band, not more than so many of each queue and line."""
        for queue in self._queues.values():
            if not queue.interactive:
                for entries in queue.entries.values():
                    some = islice(entries, _LOOKED_AT * most)  # of a heap, the first are among the most urgent
                    standing = (entry[4] for entry in some if entry[0] <= last and _stands(entry))
                    yield from islice(standing, most)

    def unblock(self) -> None:
        """Something changed by which a node may be found."""
        for queue in self._queues.values():
            queue.blocked_at = -1

    def _heads(self, model: str) -> Iterator[Job]:
        """The most urgent batch job of each line that waits for a model."""
        queue = self._queues.get((model, False))
        return iter(()) if queue is None else queue.heads()

    def _enter(self, queue: Queue, job: Job) -> None:
        self._entries += 1
        job.entry, job.retried = self._entries, not job.open.count
        if job.band is Band.OPEN and not queue.interactive:
            queue.open.add(job.spec.tenant)
        queue.push((job.band, job.urgency, job.sequence, job.entry, job))
        queue.blocked_at = -1


def rank(job: Job, shares: Shares) -> Rank:
    """Where a job stands among others that wait."""
    spec = job.spec
    return (not spec.interactive, shares.lent(spec.tenant), job.band, job.urgency, job.sequence)
