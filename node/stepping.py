"""Works whose items take many steps: which of their rows have begun, who steps with whom, and what a step gave.

A batch is of one car and one model. Interactive rows begin as soon as there is room; batch rows step along with
them, a few at a time, and begin when they are announced. A row that nobody waits for any more frees its place
before the next step.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from node import attempt
from node.attempt import Failure
from node.books import Books
from node.loading import Models
from node.running import Computed, Running, Task, Waiting
from node.telling import Telling
from node.turns import Turns
from node.work import Listener, Spoken
from node.workloads import Row, Stopped

RIDERS = 3
"""Batch rows that step along with interactive ones, at most: their steps take less than twice as long. With
`smollm2` on one thread in fp32 it is 1.8 times for one, 2.1 for two and 1.6 for three: thin products are slow."""

Seated = tuple[Task, int, Row]
"""A row that has begun, with its task and its place among the task's inputs."""


class Stepping:
    """All such works of one executor."""

    def __init__(
        self,
        listener: Listener,
        telling: Telling,
        books: Books,
        turns: Turns[Task],
        models: Models,
    ) -> None:
        self._listener = listener
        self._telling = telling
        self._books = books
        self._turns = turns
        self._models = models
        self._workloads = models.continuous
        self._limits = models.limits
        self._seated: list[Task] = []  # with rows that have begun
        self.reading = False  # payloads of a batch: what is urgent has one turn between two of them
        self._short: dict[str, Task] = {}  # of room, and interactive, by model: no batch row begins before it
        self.steps = 0
        self.stepped = 0  # rows, over all steps

    def runs(self, task: Task) -> bool:
        """Whether a task is of this kind."""
        return task.work.model in self._models.steps

    def may_run(self, task: Task) -> bool:
        """Whether the step before the next is told."""
        return not self._books.stepping(task)

    def arrived(self, task: Task) -> bool:
        """Whether a task of this kind came just now, and could begin."""
        return self.runs(task) and task.waiting is None and not task.solo and self.may_run(task)

    @property
    def seated(self) -> Sequence[Task]:
        """Tasks with rows that have begun, also those that were stopped, until the next `sweep`."""
        return self._seated

    @property
    def others(self) -> list[Task]:
        """Tasks with rows that have begun, but for those that run alone."""
        return [task for task in self._seated if not task.solo]

    @property
    def alone(self) -> Task | None:
        """The task that runs alone now."""
        return next((task for task in self._seated if task.solo), None)

    def sweep(self) -> None:
        """Rows of works that were stopped leave."""
        for task in self._seated:
            if task.stopped:
                for row in task.rows.values():
                    self._workloads[task.work.model].leave(row)
                task.rows.clear()
        self._seated = [task for task in self._seated if task.rows]

    def step(self, task: Task, urgent: Callable[[], None] | None) -> threading.Event | bool:
        """A step of the group of a task that may run, with all that may share it. False when nothing of it can run
        now; or what it waits for first."""
        self.sweep()
        if task.solo:
            return self._step([], [task], None)
        urgents = self._turns.sharing(task)
        batch = self._turns.in_line(task.vehicle, task.group)
        return self._step(urgents, batch, urgent)

    def drain(self, task: Task) -> bool:
        """A step of those of its group that have begun: nothing joins them."""
        same = [other for other in self.others if other.group == task.group]
        return self._run([seat for other in same for seat in _seats(other)], None)

    def _step(
        self, urgents: Sequence[Task], batch: Sequence[Task], urgent: Callable[[], None] | None
    ) -> threading.Event | bool:
        waits_for = None
        for task in urgents:
            self._read(task, None)
        if self._join_all(urgents):
            for task in batch:
                if not self._room(batch, urgents):
                    break
                if task.waiting is None and not task.solo:
                    if self._read_between(task, urgent):
                        return True  # others may have come and gone meanwhile
                elif self._read(task, None):
                    waits_for = waits_for or self._join_announced(task, batch, urgents)
        seats = [seat for task in urgents for seat in _seats(task)]
        seats += [seat for task in batch for seat in _seats(task)][: RIDERS if seats else None]
        return self._run(seats, None if urgents else urgent) or waits_for or False

    def _read_between(self, task: Task, urgent: Callable[[], None] | None) -> bool:
        """Prepare a batch task, unless this comes in between such a one's payloads: one is read at a time."""
        if self.reading:
            return False
        self.reading = True
        self._read(task, urgent)
        self.reading = False
        return True

    def _read(self, task: Task, urgent: Callable[[], None] | None) -> bool:
        """Prepare a task if it is not yet; False when nothing of it is to be begun any more."""
        if task.waiting is None:
            workload = self._workloads[task.work.model]
            prepared = self._telling.read([task], workload, self._limits[task.work.model], urgent) or ()
            items = enumerate(prepared)
            task.waiting = deque(Waiting(place, item) for place, item in items if not isinstance(item, Failure))
        return bool(task.waiting) and not task.unwanted

    def _room(self, batch: Sequence[Task], urgents: Sequence[Task]) -> bool:
        """Whether another batch row may step."""
        if batch[0].work.model in self._models.leaving and not batch[0].solo:
            return False
        most = self._workloads[batch[0].work.model].most_rows
        begun, answering = (sum(len(task.rows) for task in tasks) for tasks in (batch, urgents))
        return begun + answering < most and (begun < RIDERS or not answering)

    def _join_all(self, urgents: Sequence[Task]) -> bool:
        """Begin what interactive tasks wait for, in their order; False when there is no room for the next."""
        if urgents and urgents[0].work.model in self._models.leaving:
            return False
        for task in urgents:
            while task.waiting and not task.unwanted:
                begun = sum(len(other.rows) for other in urgents)
                if begun >= self._workloads[task.work.model].most_rows or not self._join(task):
                    return False
        return True

    def _join_announced(self, task: Task, batch: Sequence[Task], urgents: Sequence[Task]) -> threading.Event | None:
        """Begin what is announced of a batch task while there is room; what the next one waits for."""
        while task.waiting and not task.unwanted and self._room(batch, urgents):
            self._announce(task)
            announced = task.waiting[0].announced
            assert announced is not None, "announced just now"
            if not announced.is_set():
                return announced
            if not self._join(task):
                return None
        return None

    def _announce(self, task: Task) -> None:
        """Announce what is about to begin, with what has begun, before there is a place for it."""
        assert task.waiting, "something is left"
        ahead = self._workloads[task.work.model].batch_items
        told = sum(item.announced is not None for item in task.waiting)
        if told > ahead // 2 or told == len(task.waiting):
            return
        if task.solo and task.announced is not None:
            event = task.announced
        else:
            next_ones = [item.place for item, _ in zip(task.waiting, range(ahead), strict=False)]
            event = self._listener.announce(
                task.work.key, [task.work.offsets[place] for place in (*task.rows, *next_ones)]
            )
        for item, _ in zip(task.waiting, range(len(task.waiting) if task.solo else ahead), strict=False):
            item.announced = item.announced or event

    def _join(self, task: Task) -> bool:
        """Begin the next item of a task; False when there is no room."""
        assert task.waiting, "something is left"
        item, model = task.waiting[0], task.work.model
        workload, short = self._workloads[model], self._short.get(model)
        if short is not None and short.over:
            del self._short[model]
        elif short is not None and not task.work.interactive:
            return False
        begun = task.work.begun.get(task.work.offsets[item.place], ())
        owner = task.vehicle, task.work.tenant
        row = workload.join(owner, item.prepared, begun, patient=not task.work.interactive)
        if row is None:
            if task.work.interactive:
                self._short.setdefault(model, task)
            return False
        if short is task:
            self._short.pop(model, None)
        if not self._books.seat(task, item.place, row):  # before it waits no longer: then the task would be over
            workload.leave(row)
            return False
        task.waiting.popleft()
        if task not in self._seated:
            self._seated.append(task)
        return True

    def _run(self, seats: Sequence[Seated], urgent: Callable[[], None] | None) -> bool:
        """Take rows a step further, and tell what came of it; False when there are none."""
        if not seats:
            return False
        counts = {task: 0 for task, _, _ in seats}
        for task, _, _ in seats:
            counts[task] += 1
        running = self._telling.enter(tuple(counts.items()), urgent, step=True)
        if running is None:
            return True  # one of them was stopped, and leaves first
        workload = self._workloads[seats[0][0].work.model]
        rows = [row for _, _, row in seats if not row.ended]  # one may have been begun to its end
        paced_s, failed = 0.0, {}
        try:
            if rows:
                paced_s = self._telling.paced_s(lambda: workload.step_cost(rows))
                failed = attempt.step(workload, rows, running.control)
        except Stopped:
            for task in counts:
                task.unreported_s += running.busy_s(task) if not task.stopped else 0.0
            self._books.leave(running, [task for task in counts if not task.stopped])
            return True
        self.steps, self.stepped = self.steps + 1, self.stepped + len(rows)
        computed = [
            self._computed(task, failed, running, paced_s * count / len(seats))
            for task, count in counts.items()
            if not task.stopped
        ]
        self._seated = [task for task in self._seated if task.rows]
        self._telling.settle(running, computed, paced_s)
        return True

    def _computed(self, task: Task, failed: Mapping[Row, Failure], running: Running, paced_s: float) -> Computed:
        """What a step gave for one task."""
        workload = self._workloads[task.work.model]
        spoken: list[Spoken] = []
        outcomes: dict[int, bytes | Failure] = {}
        for _, place, row in _seats(task):
            if task.work.streamed:
                passage = row.transcript.take(row.ended)
                if passage.tokens or passage.text:
                    offset = task.work.offsets[place]
                    spoken.append(
                        Spoken(
                            task.work.key,
                            offset,
                            passage.first,
                            passage.tokens,
                            passage.start,
                            passage.text,
                            row.reused,
                            row.prompt_tokens,
                            tuple(workload.likelihoods(row, passage)),
                        )
                    )
            if row in failed or row.ended:
                outcomes[place] = failed.get(row) or attempt.ended(workload, row)
                workload.leave(row)
                del task.rows[place]
        busy_s = running.busy_s(task, time.perf_counter())
        return Computed(task, tuple(outcomes), tuple(outcomes.values()), busy_s, paced_s, spoken, step=True)


def _seats(task: Task) -> list[Seated]:
    return [(task, place, row) for place, row in task.rows.items()]
