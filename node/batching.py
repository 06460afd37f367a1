"""Works that run in micro-batches, each to its end: read, announced, run, told.

Of batch works the micro-batch after the next is announced along with it, so that its announcement is on the wire by
then. Knows no thread: it runs on its caller's. Whose turn it is is decided in `turns`.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from node import attempt
from node.attempt import Failure
from node.books import Books
from node.loading import Models
from node.running import Batch, Computed, Task, batches_of
from node.telling import Telling
from node.turns import Turns
from node.work import Listener
from node.workloads import Control, Stopped

LOOK_S = 0.005
"""How often a wait for the wire looks for a stop or for interactive work. Assumed: far below an owner's 100 ms."""


class Batching:
    """All such works of one executor."""

    def __init__(
        self,
        listener: Listener,
        telling: Telling,
        books: Books,
        turns: Turns[Task],
        models: Models,
        paced: bool,
        admit: Callable[[], None],
    ) -> None:
        """`admit` takes in what arrived while the wire is waited for; of `paced` cars nobody knows the next."""
        self._listener = listener
        self._telling = telling
        self._books = books
        self._turns = turns
        self._models = models
        self._workloads, self._limits = models.workloads, models.limits
        self._paced = paced
        self._admit = admit
        self._ahead: Task | None = None  # its next micro-batch is announced already

    def answer(self, task: Task) -> None:
        """Run at once, on the caller's thread, a work that computes nothing: no accelerator is to be waited for."""
        inputs, model, control = task.work.inputs, task.work.model, Control()
        began_s = time.perf_counter()
        outcomes = list(attempt.read(self._workloads[model], inputs, self._limits[model], control))
        sound = [place for place, item in enumerate(outcomes) if not isinstance(item, Failure)]
        results = attempt.run(self._workloads[model], [outcomes[place] for place in sound], control)
        for place, result in zip(sound, results, strict=True):
            outcomes[place] = result
        task.unreported_s = time.perf_counter() - began_s
        finished = task.finish(range(len(inputs)), outcomes)
        assert finished is not None, "nothing was dropped"
        self._listener.finished(finished)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run works of one group to their end, in micro-batches that they share."""
        for batch in self._prepare(tasks, None):
            self._execute(batch, None)

    def run_next(self, task: Task, urgent: Callable[[], None]) -> None:
        """Run the next micro-batch of a batch work, unless something more urgent came, or its owner."""
        if self._prepared(task, urgent):
            # Which car is next depends on whose chip is free then.
            alone = self._paced or task.work.model in self._models.leaving
            self._announce(task, None if alone else self._turns.following(task), urgent)
            if self._on_the_wire(task):
                self._run_next(task, urgent)

    def run_alone(self, task: Task) -> None:
        """Run a solo work to its end, once it was announced."""
        if self._prepared(task, None):
            assert task.batches is not None, "prepared"
            while task.batches:
                self._execute(task.batches.popleft(), None)

    def announced_alone(self, task: Task) -> bool:
        """Announce a solo work, when nothing else is announced any more, and wait; False when it was stopped."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.over and self._on_the_wire(ahead, interruptible=False):
            self._run_next(ahead, None)
        task.announced = self._listener.announce(task.work.key, task.work.offsets)
        return self._on_the_wire(task, interruptible=False)

    def _run_next(self, task: Task, urgent: Callable[[], None] | None) -> None:
        assert task.batches, "prepared and not over"
        self._turns.pass_on(task)
        batch = task.batches.popleft()
        task.announced, task.announced_after = task.announced_after, None
        self._execute(batch, urgent)

    def _announce(self, task: Task, following: Task | None, urgent: Callable[[], None]) -> None:
        """Announce the next micro-batch if it is not yet, and the one after it: then that one need not wait."""
        assert task.batches, "prepared and not over"
        key, this = task.work.key, task.batches[0].offsets
        if following is task:
            if task.announced_after is None:
                task.announced_after = self._listener.announce(key, (*this, *task.batches[1].offsets))
            task.announced = task.announced or task.announced_after
            self._ahead = task
            return
        task.announced = task.announced or self._listener.announce(key, this)
        if following is None or following.solo or following.announced or following.work.model in self._models.steps:
            return
        if self._prepared(following, urgent):
            assert following.batches, "prepared"
            following.announced = self._listener.announce(following.work.key, following.batches[0].offsets)
            self._ahead = following

    def _on_the_wire(self, task: Task, interruptible: bool = True) -> bool:
        """Wait until the next micro-batch of a task was announced; False when something else comes first."""
        assert task.announced is not None, "announced before"
        while not task.announced.wait(LOOK_S):
            self._admit()
            self._telling.release()
            if task.unwanted or (interruptible and self._turns.urgent is not None):
                return False
        return not task.unwanted

    def _prepared(self, task: Task, urgent: Callable[[], None] | None) -> bool:
        """Prepare a task if it is not yet; False when nothing of it is to be run."""
        if task.batches is None:
            task.batches = self._prepare([task], urgent)
        return not task.over

    def _prepare(self, tasks: Sequence[Task], urgent: Callable[[], None] | None) -> deque[Batch]:
        """Read the payloads of tasks of one group, report what is bad, and cut the rest into micro-batches."""
        model = tasks[0].work.model
        prepared = self._telling.read(tasks, self._workloads[model], self._limits[model], urgent)
        if prepared is None:
            return deque()
        sound = [index for index, item in enumerate(prepared) if not isinstance(item, Failure)]
        plan = self._workloads[model].plan([prepared[index] for index in sound])
        return batches_of(tasks, prepared, [[sound[index] for index in batch] for batch in plan])

    def _execute(self, batch: Batch, urgent: Callable[[], None] | None) -> None:
        """Run one micro-batch and report it."""
        running = self._telling.enter(tuple((task, len(places)) for task, places in batch.parts), urgent)
        if running is None:
            return
        workload = self._workloads[batch.parts[0][0].work.model]
        try:
            outcomes = attempt.run(workload, batch.items, running.control)
        except Stopped:
            self._books.leave(running, ())
            return
        paced_s = self._telling.paced_s(lambda: workload.cost(batch.items, outcomes))
        computed, first = [], 0
        for task, places in batch.parts:
            part = outcomes[first : first + len(places)] if len(batch.parts) > 1 else outcomes
            first += len(places)
            share_s = paced_s * len(places) / len(batch.items)
            computed.append(Computed(task, places, part, running.busy_s(task), share_s))
        self._telling.settle(running, computed, paced_s)
