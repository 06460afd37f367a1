"""The store on virtual time: commits become durable in order, some time after they were handed in, and are told
later still. It outlives the coordinator, which may end in between; what was not yet durable is then gone."""

from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from benchmarks.world.clock import Clock, Process
from coordinator.core.effects import JobRecord, Record
from coordinator.core.events import JobId
from coordinator.core.ranges import Range
from coordinator.items import Items
from coordinator.store import Committed, Corrupt, Full, Intake, Operation
from coordinator.store.memory import MemoryStore

_T = TypeVar("_T")


class DiskFailed(Exception):
    """The disk did not take it."""


class Disk(MemoryStore):
    """What is durable is what `MemoryStore` holds. One coordinator after the other has it."""

    def __init__(
        self,
        clock: Clock,
        generator: Random,
        recorded: Callable[[Operation], None],
        damaged: set[tuple[JobId, int]],
    ) -> None:
        """`recorded` is told of every operation just before it is durable; `damaged` are items whose inputs are."""
        super().__init__()
        self.epoch = 0
        self.commit_s = 0.005  # how long a commit takes, at the most
        self.fails = False  # the next commit does
        self.room: int | None = None  # parts of submissions that still fit; None: any number
        self.damaged = damaged
        self.handed_in = 0  # operations, by all coordinators
        self.durable = 0
        self.process = Process()  # it never ends
        self._clock, self._generator, self._recorded = clock, generator, recorded
        self._unanswered: deque[tuple[Sequence[Operation], Committed]] = deque()
        self._written_s = 0.0
        self._owner = Process()
        self._failed = False  # nothing is recorded after a failure

    def boot(self, owner: Process) -> tuple[int, int]:
        """A coordinator starts: how many operations the one before lost, how many it did not hear of."""
        unheard = sum(len(operations) for operations, _ in self._unanswered)
        lost, self.durable = self.handed_in - self.durable, self.handed_in
        self._unanswered.clear()
        self._owner = owner
        self.fails = self._failed = False
        self.epoch += 1
        self.newest_job = max(self._jobs, default=JobId(0))
        return lost, unheard - lost

    def commit(self, operations: Sequence[Operation], committed: Committed) -> None:
        """Record operations, all or none, after all that was handed in before."""
        if not operations and not self._unanswered:
            committed(None)
            return
        self.handed_in += len(operations)
        self._unanswered.append((operations, committed))
        self._written_s = max(self._written_s, self._clock.now_s + self._generator.random() * self.commit_s)
        self._clock.at(self._written_s, self._owner, lambda: self._write(operations))

    def intake(self, job: JobId, model: str) -> Intake:
        """Begin to take a job's inputs in. Raises Full."""
        self._take_room()
        return super().intake(job, model)

    def take_in(self, intake: Intake, items: Items) -> None:
        """Take the next items of a submission. Raises Full."""
        self._take_room()
        now(intake.add(items))

    async def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order. Raises Corrupt."""
        for first, count in ranges:
            for item in range(first, first + count):
                if (job, item) in self.damaged:
                    raise Corrupt(f"the input of item {item} is damaged")
        return await super().inputs(job, ranges)

    def make_room(self) -> None:
        """Somebody deletes something."""
        self.room = None

    def live(self) -> Iterator[Record]:
        """What was recorded of jobs that have not ended."""
        for record in super().live():
            yield replace(record, age_s=0.0) if isinstance(record, JobRecord) else record

    def items(self, job: JobId) -> list[bytes | None]:
        """What is durable of each item of a job: None: nothing yet; of a failed one empty."""
        return self._jobs[job].results if job in self._jobs else []

    def _take_room(self) -> None:
        if self.room == 0:
            raise Full("there is no room")
        if self.room is not None:
            self.room -= 1

    def _write(self, operations: Sequence[Operation]) -> None:
        self._failed = self._failed or self.fails
        if not self._failed:
            for operation in operations:
                self._recorded(operation)
                self._record(operation)
            self.durable += len(operations)
        self._clock.after(self._generator.random() * 0.001, self._owner, self._tell)

    def _tell(self) -> None:
        """They are told in the order of handing in."""
        _, committed = self._unanswered.popleft()
        committed(DiskFailed("it is broken") if self._failed else None)


def now(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine gives that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    raise AssertionError("it waits")
