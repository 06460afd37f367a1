"""Jobs with items to place, by model and class; earliest deadline first inside each queue."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from coordinator.core.job import Job

_Entry = tuple[float, int, Job]  # deadline, order of submission, job


@dataclass(slots=True)
class Queue:
    """The jobs of one model and class."""

    model: str
    interactive: bool
    entries: list[_Entry] = field(default_factory=list)
    blocked_at: int = -1  # the fleet's version when no node was fit; nothing to try until it grows

    def head(self) -> Job | None:
        """The most urgent job with something to place; forgets those that have nothing left."""
        while self.entries:
            job = self.entries[0][2]
            if job.placeable:
                return job
            heappop(self.entries)
            job.queued = False
        return None

    def drop_head(self) -> Job:
        """Take the head out; the caller puts it back later."""
        job = heappop(self.entries)[2]
        job.queued = False
        return job


class Queues:
    """All queues; interactive ones come first."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, bool], Queue] = {}

    def put(self, job: Job) -> None:
        """Queue a job that has items to place, unless it is queued."""
        if job.queued or not job.placeable:
            return
        spec = job.spec
        key = (spec.model, spec.interactive)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(spec.model, spec.interactive)
        heappush(queue.entries, (spec.deadline_s, job.sequence, job))
        queue.blocked_at = -1
        job.queued = True

    def ready(self, version: int) -> list[Queue]:
        """Queues that may find a node: not empty, and something changed since they last did not."""
        return [queue for queue in self._queues.values() if queue.entries and queue.blocked_at != version]


def rank(job: Job) -> tuple[bool, float, int]:
    """Sort key of a job among those of its model: interactive first, then by deadline, then by submission."""
    return (not job.spec.interactive, job.spec.deadline_s, job.sequence)


def urgency(queue: Queue) -> tuple[bool, float, int]:
    """Sort key of a queue that is not empty: interactive first, then its head's deadline."""
    deadline_s, sequence, _ = queue.entries[0]
    return (not queue.interactive, deadline_s, sequence)
