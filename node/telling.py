"""What the executor's thread does for works whichever way they run: begin, read payloads, and tell what came of it.

Of cars that keep a pace it is held back in the books until it is due.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from node import attempt
from node.attempt import Failure
from node.books import Books
from node.pacing import AT_ONCE, Pace
from node.roofline import Cost
from node.running import Computed, Running, Task
from node.work import Listener
from node.workloads import Control, Stopped, Workload


class Telling:
    """One executor's."""

    def __init__(self, listener: Listener, books: Books, pace: Pace | None) -> None:
        self._listener = listener
        self._books = books
        self._pace = pace

    def enter(
        self, parts: tuple[tuple[Task, int], ...], urgent: Callable[[], None] | None, step: bool = False
    ) -> Running | None:
        """Begin something for these tasks; None when all of them, or of a step any, were stopped."""
        between = self.release if urgent is None and self._pace is not None else urgent
        running = Running(parts, Control(urgent=between), time.perf_counter(), step)
        return running if self._books.enter(running) else None

    def read(
        self, tasks: Sequence[Task], workload: Workload, limit: int, urgent: Callable[[], None] | None
    ) -> Sequence[Any] | None:
        """Read the payloads of tasks, one after the other, and report what is bad: prepared items, and a Failure in
        place of those. None when all of them were stopped."""
        inputs = tasks[0].work.inputs if len(tasks) == 1 else [*chain(*(task.work.inputs for task in tasks))]
        running = self.enter(tuple((task, len(task.work.inputs)) for task in tasks), urgent)
        if running is None:
            return None
        try:
            prepared = attempt.read(workload, inputs, limit, running.control)
        except Stopped:
            self._books.leave(running, told=())
            return None
        for task in tasks:
            task.unreported_s += running.busy_s(task)
        self._books.leave(running, told=tasks)
        if Failure in set(map(type, prepared)):
            self._report_failures(tasks, prepared)
        return prepared

    def fail(self, task: Task, failure: Failure) -> None:
        """Nothing more of a task can be run: report why."""
        places = task.unbegun
        running = self.enter(((task, len(places)),), None)
        if running is None:
            return
        task.batches, task.waiting = deque(), None
        self._report(task, places, [failure] * len(places))
        self._books.leave(running, told=[task])

    def settle(self, running: Running, computed: Sequence[Computed], paced_s: float) -> None:
        """End what ran, and tell what it gave, now or when it is due."""
        if self._pace is not None:
            outcomes = [outcome for part in computed for outcome in part.outcomes if isinstance(outcome, bytes)]
            sending = self._pace.sending(sum(map(len, outcomes))) if outcomes else AT_ONCE
            self._books.hold(running, computed, paced_s, sending)
            self.release()
        else:
            self._books.leave(running, [part.task for part in computed if self._tell(part)])

    def release(self) -> None:
        """Tell what cars that keep a pace have done by now."""
        while (released := self._books.release()) is not None:
            running, due = released
            self._books.leave(running, [part.task for part in due if self._tell(part)])

    def paced_s(self, cost: Callable[[], Cost]) -> float:
        """What something takes on the chip of a car; 0 without a pace."""
        return 0.0 if self._pace is None else self._pace.real_s(cost())

    def _tell(self, computed: Computed) -> bool:
        """Tell what became of a task; False when nothing has, since all was dropped."""
        task = computed.task
        task.unreported_s += computed.busy_s
        task.unreported_paced_s += computed.paced_s
        for spoken in computed.spoken:
            self._listener.spoke(replace(spoken, busy_s=task.unreported_s))
        return self._report(task, computed.places, computed.outcomes) or computed.step

    def _report(self, task: Task, places: Sequence[int], outcomes: Sequence[Any]) -> bool:
        """Tell the listener how these inputs of a task ended; False when nothing of them has."""
        finished = task.finish(places, outcomes)
        if finished is None:
            return False
        if finished.last:
            self._books.done(task)
        self._listener.finished(finished)
        return True

    def _report_failures(self, tasks: Sequence[Task], prepared: Sequence[Any]) -> None:
        first = 0
        for task in tasks:
            own = prepared[first : first + len(task.work.inputs)]
            first += len(own)
            bad = [place for place, item in enumerate(own) if isinstance(item, Failure)]
            if bad:
                self._report(task, bad, [own[place] for place in bad])
