"""Works on their way through the executor: their micro-batches, what runs now, and who waits for its end.

No thread and no lock: `books` holds one over what it keeps of this.
"""

import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from node.attempt import Failure
from node.work import Finished, Key, Spoken, Work
from node.workloads import Control, Row


@dataclass(slots=True, eq=False)
class Task:
    """A work on its way through the executor. What says so is written under the lock of `books`."""

    work: Work
    left: int  # items without a result or an error
    number: int = 0  # works came in this order
    came_s: float = 0.0  # by this machine's clock
    stopped: bool = False  # under the lock; nobody waits for it any more
    winding_down: bool = False  # under the lock; what runs of it is finished, nothing more is begun
    arrives_s: float = 0.0  # when its inputs would be on the car, by this machine's clock; only with a pace
    batches: "deque[Batch] | None" = None  # None until prepared
    waiting: "deque[Waiting] | None" = None  # the same of a work whose items take many steps
    rows: dict[int, Row] = field(default_factory=dict)  # of those that have begun, by place; added under the lock
    announced: threading.Event | None = None  # of the first of `batches`
    announced_after: threading.Event | None = None  # of the second
    unreported_s: float = 0.0  # of work on it that no report has told
    unreported_paced_s: float = 0.0  # modelled, likewise
    unreported_loading_s: float = 0.0  # of loading its model for it, likewise

    @property
    def vehicle(self) -> int:
        return self.work.vehicle

    @property
    def group(self) -> Hashable:
        return self.work.vehicle, self.work.model

    @property
    def solo(self) -> bool:
        return self.work.solo

    @property
    def unwanted(self) -> bool:
        """Nothing of it is to be begun any more."""
        return self.stopped or self.winding_down

    @property
    def over(self) -> bool:
        if self.rows:
            return self.stopped
        done = (self.batches is not None and not self.batches) or (self.waiting is not None and not self.waiting)
        return self.unwanted or done

    @property
    def last_batch(self) -> bool:
        return self.batches is not None and len(self.batches) < 2

    @property
    def unbegun(self) -> list[int]:
        """Places of the inputs of which nothing has begun, and that are not known to be bad."""
        if self.waiting is not None:
            return [item.place for item in self.waiting]
        if self.batches is not None:
            parts = [part for batch in self.batches for part in batch.parts]
            return [place for task, places in parts if task is self for place in places]
        return list(range(len(self.work.inputs)))

    def finish(self, places: Sequence[int], outcomes: Sequence[Any]) -> Finished | None:
        """Book how these inputs ended; None when nothing of them has, since all were dropped."""
        offsets = self.work.offsets
        errors: tuple[tuple[int, str, str], ...] = ()
        if set(map(type, outcomes)) == {bytes}:
            items, results = tuple([offsets[place] for place in places]), tuple(outcomes)
        else:
            pairs = [(offsets[place], outcome) for place, outcome in zip(places, outcomes, strict=True)]
            items = tuple(offset for offset, outcome in pairs if isinstance(outcome, bytes))
            results = tuple(outcome for _, outcome in pairs if isinstance(outcome, bytes))
            errors = tuple((offset, bad.code, bad.message) for offset, bad in pairs if isinstance(bad, Failure))
        if not items and not errors:
            return None
        self.left -= len(items) + len(errors)
        busy_s, self.unreported_s = self.unreported_s, 0.0
        paced_s, self.unreported_paced_s = self.unreported_paced_s, 0.0
        loading_s, self.unreported_loading_s = self.unreported_loading_s, 0.0
        return Finished(self.work.key, items, results, errors, busy_s, self.left == 0, paced_s, loading_s)


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: for each task in it, which of its inputs; and what `prepare` made of them, in that order."""

    parts: tuple[tuple[Task, Sequence[int]], ...]
    items: Sequence[Any]

    @property
    def offsets(self) -> list[int]:
        """Offsets in the lease of the items of a micro-batch that has one task."""
        ((task, places),) = self.parts
        return [task.work.offsets[place] for place in places]


@dataclass(slots=True, eq=False)
class Waiting:
    """An item that takes many steps and has not begun."""

    place: int
    prepared: Any
    announced: threading.Event | None = None  # set when that is on the wire


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What a micro-batch, or a step, gave for one task."""

    task: Task
    places: Sequence[int]
    outcomes: Sequence[Any]
    busy_s: float
    paced_s: float = 0.0
    spoken: Sequence[Spoken] = ()
    step: bool = False  # no other step of its group begins before this is told


@dataclass(slots=True, eq=False)
class Running:
    """Something that the thread is doing for some tasks."""

    parts: tuple[tuple[Task, int], ...]  # with so many items each
    control: Control
    began_s: float
    step: bool = False  # it is taken again without those that are stopped
    others_s: float = 0.0  # spent in between on urgent work

    def busy_s(self, task: Task, until_s: float | None = None) -> float:
        """The part of a task in the time that this took until now, or until it was interrupted, by its items."""
        items = sum(count for _, count in self.parts)
        own = sum(count for other, count in self.parts if other is task)
        until_s = time.perf_counter() if until_s is None else until_s
        return (until_s - self.began_s - self.others_s) * own / items

    def has(self, task: Task) -> bool:
        """Whether it is for this task, too."""
        return any(other is task for other, _ in self.parts)

    def heed(self, begun: bool = True) -> None:
        """Bring the control up to date with the tasks that were stopped."""
        first = 0
        for task, count in self.parts:
            if task.stopped if begun or self.step else task.unwanted:
                self.control.dropped.update(range(first, first + count))
            first += count
        self.control.ended = bool(self.control.dropped) if self.step else len(self.control.dropped) == first


@dataclass(slots=True, eq=False)
class Stop:
    """A call of `stop` that waits for running work to end."""

    future: Future[dict[Key, float]]
    lost_s: dict[Key, float]
    gently: bool
    waits_for: set[Task] = field(default_factory=set)


def batches_of(tasks: Sequence[Task], prepared: Sequence[Any], plan: Sequence[list[int]]) -> deque[Batch]:
    """Micro-batches of tasks whose prepared items follow each other, planned by index in that row."""
    if len(tasks) == 1:
        return deque(Batch(((tasks[0], indices),), [prepared[index] for index in indices]) for indices in plan)
    owners = [(task, place) for task in tasks for place in range(len(task.work.inputs))]
    batches: deque[Batch] = deque()
    for indices in plan:
        shares: dict[Task, list[int]] = {}
        for index in sorted(indices):
            task, place = owners[index]
            shares.setdefault(task, []).append(place)
        batches.append(Batch(tuple(shares.items()), [prepared[index] for index in sorted(indices)]))
    return batches
