"""Jobs with items to place, by model, class and tenant: the tenant that was lent least is served first, and of its
jobs the one with the earliest deadline."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from coordinator.core.job import Job
from coordinator.core.shares import Shares

_Entry = tuple[float, int, Job]  # deadline, order of submission, job
Rank = tuple[bool, float, float, int]
"""Sort key: interactive first, then what its tenant was lent, then by deadline, then by submission."""


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
            if not self.waits(tenant):
                continue
            job = self.entries[tenant][0][2]
            ranked = rank(job, self.shares)
            if best is None or ranked < best[0]:
                best = ranked, job
        return None if best is None else best[1]

    def waits(self, tenant: str) -> bool:
        """Whether a tenant has something to place; forgets its most urgent jobs if they have nothing left."""
        entries = self.entries.get(tenant, [])
        while entries and not entries[0][2].placeable:
            heappop(entries)[2].queued = False
        if not entries:
            self.entries.pop(tenant, None)
        return bool(entries)

    def drop(self, job: Job) -> Job:
        """Take out a job that `head` gave; the caller puts it back later."""
        heappop(self.entries[job.spec.tenant])
        return job

    def put(self, job: Job) -> None:
        """Queue a job, or one again that was dropped."""
        heappush(self.entries.setdefault(job.spec.tenant, []), (job.spec.deadline_s, job.sequence, job))


class Queues:
    """All queues; interactive ones come first."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._queues: dict[tuple[str, bool], Queue] = {}

    def put(self, job: Job) -> None:
        """Queue a job that has items to place, unless it is queued."""
        if job.queued or not job.placeable:
            return
        spec = job.spec
        key = (spec.model, spec.interactive)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(spec.model, spec.interactive, self._shares)
        if not queue.waits(spec.tenant):
            self._shares.wake(spec.tenant, spec.interactive, filter(queue.waits, tuple(queue.entries)))
        queue.put(job)
        queue.blocked_at = -1
        job.queued = True

    def ready(self, version: int) -> list[Queue]:
        """Queues that may find a node: not empty, and something changed since they last did not."""
        return [queue for queue in self._queues.values() if queue.entries and queue.blocked_at != version]


def rank(job: Job, shares: Shares) -> Rank:
    """Where a job stands among others that wait."""
    spec = job.spec
    return (not spec.interactive, shares.lent(spec.tenant), spec.deadline_s, job.sequence)
