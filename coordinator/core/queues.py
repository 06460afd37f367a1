"""Jobs with items to place, by model, class and tenant: the tenant that was lent least is served first, and of its
jobs the one that the plan puts first."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from coordinator.core.job import Band, Job
from coordinator.core.shares import Shares

_Entry = tuple[int, float, int, int, Job]  # band, urgency, order of submission, number of the entry, job
Rank = tuple[bool, float, int, float, int]
"""Sort key: interactive first, then what its tenant was lent, then by the plan, then by submission."""


@dataclass(slots=True)
class Queue:
    """The jobs of one model and class."""

    model: str
    interactive: bool
    shares: Shares
    entries: dict[str, list[_Entry]] = field(default_factory=dict)  # by tenant
    blocked_at: int = -1  # the fleet's version when no node was fit; nothing to try until it grows

    def head(self) -> Job | None:
        """The most urgent job with something to place; forgets those that have nothing left."""
        best: tuple[Rank, Job] | None = None
        for tenant in tuple(self.entries):
            entries = self.entries[tenant]
            while entries and not _stands(entries[0]):
                _forget(heappop(entries))
            if not entries:
                del self.entries[tenant]
                continue
            job = entries[0][4]
            ranked = rank(job, self.shares)
            if best is None or ranked < best[0]:
                best = ranked, job
        return None if best is None else best[1]

    def drop(self, job: Job) -> Job:
        """Take out a job that `head` gave; the caller puts it back later."""
        heappop(self.entries[job.spec.tenant])
        job.entry = 0
        return job


def _stands(entry: _Entry) -> bool:
    *_, number, job = entry
    return number == job.entry and job.placeable > 0


def _forget(entry: _Entry) -> None:
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
        """Queue a job that has items to place, unless it is queued."""
        if job.entry or not job.placeable:
            return
        spec = job.spec
        key = (spec.model, spec.interactive)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(spec.model, spec.interactive, self._shares)
        self._shares.wake(spec.tenant)
        self._entries += 1
        job.entry = self._entries
        entry = (job.band, job.urgency, job.sequence, job.entry, job)
        heappush(queue.entries.setdefault(spec.tenant, []), entry)
        queue.blocked_at = -1

    def rerank(self, job: Job, band: Band, urgency: float) -> None:
        """The plan puts a job elsewhere; where it stood is forgotten when it comes up there."""
        if (job.band, job.urgency) == (band, urgency):
            return
        job.band, job.urgency = band, urgency
        if job.entry:
            job.entry = 0
            self.put(job)

    def ready(self, version: int) -> list[Queue]:
        """Queues that may find a node: not empty, and something changed since they last did not."""
        return [queue for queue in self._queues.values() if queue.entries and queue.blocked_at != version]

    def open_tenants(self) -> set[str]:
        """Tenants with a batch job in a queue that has no deadline."""
        return {
            tenant
            for queue in self._queues.values()
            if not queue.interactive
            for tenant, entries in queue.entries.items()
            if any(band == Band.OPEN for band, *_ in entries)
        }

    def waiting(self) -> set[str]:
        """Models that a batch job with something to place waits for."""
        return {queue.model for queue in self._queues.values() if not queue.interactive and queue.head()}

    def waits(self, model: str) -> bool:
        """Whether a batch job with something to place waits for a model."""
        queue = self._queues.get((model, False))
        return queue is not None and queue.head() is not None


def rank(job: Job, shares: Shares) -> Rank:
    """Where a job stands among others that wait."""
    spec = job.spec
    return (not spec.interactive, shares.lent(spec.tenant), job.band, job.urgency, job.sequence)
