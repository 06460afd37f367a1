"""The executor: one thread that runs all the computing of a process, micro-batch by micro-batch.

It owns whatever waits for its models, which `loading` has. It knows works by a key, and neither leases nor the
wire: its listener is told what is about to run and what has finished, on the executor's thread. Only what computes
nothing, the echo, waits for no thread: it is answered on the spot.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import chain, count
from math import inf

from node import attempt
from node.attempt import Failure
from node.books import Books
from node.gathering import Gathering
from node.loading import Models
from node.models import ModelCache
from node.pacing import AT_ONCE, Pace
from node.resident import Want
from node.running import Batch, Computed, Task, batches_of
from node.stepping import Stepping
from node.telling import Telling
from node.turns import Turns
from node.work import Key, Listener, ModelSpeed, Work
from node.workloads import Control, Stopped

_LOOK_S = 0.005
"""How often a wait for the wire looks for a stop or for interactive work. Assumed: far below an owner's 100 ms."""


class Executor:
    """Loads models and runs works. Make it, `start` it, and `close` it."""

    def __init__(
        self,
        listener: Listener,
        *,
        cache: ModelCache,
        models: Sequence[str],
        device: str,
        dtype: str,
        threads: int,
        pace: Pace | None = None,  # as fast as it goes
        memory_bytes: float | None = None,  # for models; without a pace, whose profile says it
        positions: int | None = None,  # of the keys and values of each model that holds some
        batch_delay_s: float = 0.0,  # for which requests may wait for others to share a micro-batch with
    ) -> None:
        self._listener = listener
        self._pace = pace
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()  # None: look around
        self._models = Models(
            cache,
            models,
            device=device,
            dtype=dtype,
            threads=threads,
            pace=pace,
            memory_bytes=memory_bytes,
            positions=positions,
            loaded=lambda: self._inbox.put(None),
        )
        self._workloads, self._limits = self._models.workloads, self._models.limits
        self._gathering = Gathering(batch_delay_s) if batch_delay_s > 0.0 else None
        self._gathered_s = inf  # when the first of what gathers begins
        self._numbers = count()
        self._turns: Turns[Task] = Turns(self._ready, self._gathered if self._gathering else None)
        self._turn: Task | None = None  # it has the thread's turn
        self._ahead: Task | None = None  # its next micro-batch is announced already
        self._books = Books(freed=lambda: self._inbox.put(None))
        self._telling = Telling(listener, self._books, pace)
        self._stepping = Stepping(listener, self._telling, self._books, self._turns, self._models)
        self._closed = False
        self._died: BaseException | None = None
        self._started: Future[tuple[ModelSpeed, ...]] = Future()
        self._thread = threading.Thread(target=self._serve, name="executor", daemon=True)

    def start(self) -> tuple[ModelSpeed, ...]:
        """Load every model, measure its speed, and keep what the memory holds. Blocks for seconds; raises
        ModelError."""
        self._thread.start()
        return self._started.result()

    def submit(self, work: Work) -> None:
        """Take a work. From any thread; returns at once. Raises RuntimeError when the thread died of a bug."""
        if self._died is not None:
            raise RuntimeError("the executor's thread has died") from self._died
        task = Task(work, len(work.inputs), next(self._numbers), time.perf_counter())
        workload = self._workloads.get(work.model)
        if not (work.solo or workload is None or workload.computes):
            self._answer(task)
            return
        coming = AT_ONCE if self._pace is None else self._pace.coming(sum(map(len, work.inputs)))
        self._books.add(task, coming)
        self._inbox.put(task)

    def stop(self, keys: Collection[Key], *, gently: bool = False) -> Future[dict[Key, float]]:
        """End these works, in the middle of a micro-batch if need be. From any thread; returns at once.

        `gently`: what runs of them is finished, and told to the listener, and only then are they ended; until then
        they can be stopped in the other way. The future gives the accelerator-seconds thrown away for each key,
        once nothing of them runs any more.
        """
        return self._books.stop(keys, gently)

    def throttle(self, speeds: Sequence[float]) -> None:
        """Heat leaves each car so much of its speed, 0 to 1: paced ones answer later. From any thread."""
        if self._pace is not None:
            self._books.throttle(speeds)

    @property
    def stepped(self) -> tuple[int, int]:
        """Steps of answers so far, and rows in all of them."""
        return self._stepping.steps, self._stepping.stepped

    def close(self) -> None:
        """End everything, and the thread."""
        self.stop(self._books.close(self._end))
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._models.close()

    def _end(self) -> None:
        self._closed = True

    def _answer(self, task: Task) -> None:
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

    def _serve(self) -> None:
        try:
            speeds = self._load()
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(speeds)
        try:
            while not self._closed:
                self._admit()
                self._telling.release()
                if not self._serve_once() and not self._tend() and not self._closed:
                    self._admit(wait=True)
        except BaseException as error:
            self._died = error
            raise

    def _serve_once(self) -> bool:
        """Run what is next; False when there is nothing that may run now."""
        self._gathered_s = inf
        served = self._serve_next()
        self._turn = None
        return served

    def _serve_next(self) -> bool:
        self._stepping.sweep()
        if (alone := self._stepping.alone) is not None:
            return self._stepping.may_run(alone) and self._step(alone)
        urgent, batch = self._turns.urgent_ones(), self._turns.firsts()
        for task in chain(urgent, filter(self._books.may_run, batch)):
            self._turn = task
            if task.solo:  # it has nothing else in flight
                return self._run_alone(task) or task.over
            if self._run(task) or task.over:  # then others may have their turn now
                return True
        return False

    def _run(self, task: Task) -> bool:
        """Give a task a turn; False when nothing of it can run now."""
        if not self._ready(task):  # any more
            return False
        self._models.use(task.work.model)
        if self._stepping.runs(task):
            return self._stepping.may_run(task) and self._step(task)
        if task.work.interactive:
            self._run_urgent(task)
        else:
            self._run_turn(task)
        return True

    def _run_alone(self, task: Task) -> bool:
        """Run a solo work when nothing else is in flight any more, and till then what is."""
        if self._books.holding:
            return False
        if others := self._stepping.others:
            return self._stepping.drain(others[0])
        if not self._announced_alone(task):
            return True
        if self._stepping.runs(task):
            return self._step(task)
        if self._prepared(task):
            assert task.batches is not None, "prepared"
            while task.batches:
                self._execute(task.batches.popleft(), None)
        return True

    def _step(self, task: Task) -> bool:
        """A step of a task and of those that share it, after which the others have their turn."""
        if task.work.interactive:
            self._turns.pass_urgent(self._turns.sharing(task))
        elif not task.solo:
            self._turns.pass_on(task)
        stepped = self._stepping.step(task, self._run_urgent_in_between)
        if isinstance(stepped, threading.Event):
            stepped.wait(_LOOK_S)
        return bool(stepped)

    def _load(self) -> tuple[ModelSpeed, ...]:
        return self._models.measure()

    def _ready(self, task: Task) -> bool:
        """Whether the model of a task is there for it."""
        return self._models.ready(task.work.model, task.announced is not None or bool(task.rows))

    def _gathered(self, tasks: Sequence[Task]) -> bool:
        """Whether requests of one group, which may share a micro-batch, wait for no others."""
        assert self._gathering is not None, "else nobody asks"
        if not tasks or self._stepping.runs(tasks[0]):  # none: they were stopped just now
            return True
        items = sum(len(task.work.inputs) for task in tasks)
        most = self._workloads[tasks[0].work.model].batch_items
        until_s = self._gathering.until_s(tasks[0].group, [task.came_s for task in tasks], items, most)
        if until_s <= time.perf_counter():
            return True
        self._gathered_s = min(self._gathered_s, until_s)
        return False

    def _tend(self) -> bool:
        """Have the models loaded that are waited for, and tell of it; those that cannot be fail their works.
        Whether other works may be ready than before."""
        models = self._models
        if models.whole:
            return False
        left, there = set(models.leaving), set(models.workloads)
        changed = models.settle(self._wants)
        for model in models.workloads.keys() - there:
            self._book_loading(model)
        if changed:
            self._listener.resident(models.load_s())
        for task in self._turns.waiting() if models.broken else ():
            if (failure := models.broken.get(task.work.model)) is not None:
                self._telling.fail(task, failure)
        return changed or models.leaving != left

    def _book_loading(self, model: str) -> None:
        """The work that comes first of those that waited for a model is what it was loaded for."""
        tasks = [task for task in self._turns.waiting() if task.work.model == model]
        if tasks:
            first = min(tasks, key=lambda task: (not task.work.interactive, task.number))
            first.unreported_loading_s += self._models.took_s(model)

    def _wants(self) -> list[Want]:
        """What all works on their way need of the models; one that was stopped, too, until its rows have left."""
        at_work = self._books.at_work
        works = at_work.union(self._turns.waiting(), self._stepping.seated)
        return [
            Want(
                task.work.model,
                task.work.interactive,
                task.number,
                task in at_work or task is self._turn or task.announced is not None or bool(task.rows),
            )
            for task in works
            if task.work.model not in self._models.broken
        ]

    def _admit(self, wait: bool = False) -> None:
        """Take what arrived, waiting for something if asked to."""
        while True:
            patience_s = None
            change_s = min(self._books.change_s if wait and self._books.holding else inf, self._gathered_s)
            if wait and change_s < inf:
                patience_s = max(0.0, change_s - time.perf_counter())
            try:
                task = self._inbox.get(wait, patience_s)
            except queue.Empty:
                break
            wait = False
            if task is not None:
                self._turns.add(task, task.work.interactive)
        self._tend()

    def _run_urgent(self, first: Task) -> None:
        """Run an interactive work to its end, with those that may share its micro-batches."""
        tasks = self._turns.sharing(first)
        if not tasks:  # they were stopped just now
            return
        self._turns.take(tasks)
        if self._gathering is not None:
            self._gathering.begun(first.group, len(tasks))
        for batch in self._prepare(tasks):
            self._execute(batch, None)

    def _run_urgent_in_between(self) -> None:
        """Called from inside batch work, between two layers. What takes many steps comes between two steps only."""
        self._telling.release()
        if self._inbox.empty() and self._turns.urgent is None:
            return
        self._admit()
        outer = self._books.innermost
        began_s = time.perf_counter()
        if outer.step and any(map(self._stepping.arrived, self._turns.urgent_ones())):
            outer.control.ended = True  # it has changed nothing, and is taken again
        while not outer.control.ended:
            urgent = [task for task in self._turns.urgent_ones() if not (outer.step and self._stepping.runs(task))]
            if not urgent or urgent[0].solo or not any(map(self._run, urgent)) or self._stepping.reading:
                break
            self._admit()
        outer.others_s += time.perf_counter() - began_s

    def _run_turn(self, task: Task) -> None:
        """Run the next micro-batch of a batch work, unless something more urgent came, or its owner."""
        if self._prepared(task):
            # Which car is next depends on whose chip is free then.
            alone = self._pace is not None or task.work.model in self._models.leaving
            self._announce(task, None if alone else self._turns.following(task))
            if self._on_the_wire(task):
                self._run_next(task, self._run_urgent_in_between)

    def _run_next(self, task: Task, urgent: Callable[[], None] | None) -> None:
        assert task.batches, "prepared and not over"
        self._turns.pass_on(task)
        batch = task.batches.popleft()
        task.announced, task.announced_after = task.announced_after, None
        self._execute(batch, urgent)

    def _announced_alone(self, task: Task) -> bool:
        """Announce a solo work, when nothing else is announced any more, and wait; False when it was stopped."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.over and self._on_the_wire(ahead, interruptible=False):
            self._run_next(ahead, None)
        task.announced = self._listener.announce(task.work.key, task.work.offsets)
        return self._on_the_wire(task, interruptible=False)

    def _announce(self, task: Task, following: Task | None) -> None:
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
        if following is None or following.solo or following.announced is not None or self._stepping.runs(following):
            return
        if self._prepared(following):
            assert following.batches, "prepared"
            following.announced = self._listener.announce(following.work.key, following.batches[0].offsets)
            self._ahead = following

    def _on_the_wire(self, task: Task, interruptible: bool = True) -> bool:
        """Wait until the next micro-batch of a task was announced; False when something else comes first."""
        assert task.announced is not None, "announced before"
        while not task.announced.wait(_LOOK_S):
            self._admit()
            self._telling.release()
            if task.unwanted or (interruptible and self._turns.urgent is not None):
                return False
        return not task.unwanted

    def _prepared(self, task: Task) -> bool:
        """Prepare a task if it is not yet; False when nothing of it is to be run."""
        if task.batches is None:
            task.batches = self._prepare([task])
        return not task.over

    def _prepare(self, tasks: Sequence[Task]) -> deque[Batch]:
        """Read the payloads of tasks of one group, report what is bad, and cut the rest into micro-batches."""
        model = tasks[0].work.model
        urgent = None if tasks[0].work.interactive or tasks[0].solo else self._run_urgent_in_between
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
