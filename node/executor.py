"""The executor: one thread that runs all the computing of a process, micro-batch by micro-batch.

It owns the loaded models and whatever waits for them. It knows works by a key, and neither leases nor the wire:
its listener is told what is about to run and what has finished, on the executor's thread. Only what computes
nothing, the echo, waits for no thread: it is answered on the spot.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import chain
from math import inf

from node import attempt
from node.attempt import Failure
from node.books import Books
from node.models import MAX_ITEM_BYTES, NOOP, ModelCache
from node.pacing import AT_ONCE, Pace
from node.roofline import model as modelled
from node.running import Batch, Computed, Task, batches_of
from node.stepping import Stepping
from node.telling import Telling
from node.turns import Turns
from node.work import Key, Listener, ModelSpeed, Work
from node.workloads import Continuous, Control, Row, Stopped, Workload, load
from node.workloads.echo import Echo

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
    ) -> None:
        self._listener = listener
        self._cache = cache
        self._models = models
        self._device = device
        self._dtype = dtype
        self._threads = threads
        self._pace = pace
        self._workloads: dict[str, Workload] = {}
        self._limits: dict[str, int] = {}
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()  # None: look around
        self._turns: Turns[Task] = Turns()
        self._ahead: Task | None = None  # its next micro-batch is announced already
        self._books = Books(freed=lambda: self._inbox.put(None))
        self._telling = Telling(listener, self._books, pace)
        self._continuous: dict[str, Continuous[Row]] = {}
        self._stepping = Stepping(listener, self._telling, self._books, self._turns, self._continuous, self._limits)
        self._closed = False
        self._died: BaseException | None = None
        self._started: Future[tuple[ModelSpeed, ...]] = Future()
        self._thread = threading.Thread(target=self._serve, name="executor", daemon=True)

    def start(self) -> tuple[ModelSpeed, ...]:
        """Load every model and measure its speed. Blocks for seconds; raises ModelError."""
        self._thread.start()
        return self._started.result()

    def submit(self, work: Work) -> None:
        """Take a work. From any thread; returns at once. Raises RuntimeError when the thread died of a bug."""
        if self._died is not None:
            raise RuntimeError("the executor's thread has died") from self._died
        task = Task(work, left=len(work.inputs))
        if not (work.solo or self._workloads[work.model].computes):
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
                if not self._serve_once() and not self._closed:
                    self._admit(wait=True)
        except BaseException as error:
            self._died = error
            raise

    def _serve_once(self) -> bool:
        """Run what is next; False when there is nothing that may run now."""
        self._stepping.sweep()
        if (alone := self._stepping.alone) is not None:
            return self._stepping.may_run(alone) and self._step(alone)
        urgent, batch = self._turns.urgent_ones(), self._turns.firsts()
        for task in chain(urgent, filter(self._books.may_run, batch)):
            if task.solo:  # it has nothing else in flight
                return self._run_alone(task) or task.over
            if self._run(task) or task.over:  # then others may have their turn now
                return True
        return False

    def _run(self, task: Task) -> bool:
        """Give a task a turn; False when nothing of it can run now."""
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
        speeds = []
        if any(name != NOOP for name in self._models):
            from node.workloads.device import use_threads

            use_threads(self._threads)
        for name in self._models:
            began_s = time.perf_counter()
            workload = Echo() if name == NOOP else load(self._cache, name, self._device, self._dtype)
            load_s = time.perf_counter() - began_s
            limit = MAX_ITEM_BYTES[workload.kind] if name == NOOP else self._cache.get(name).max_item_bytes
            digest = "" if name == NOOP else self._cache.get(name).digest
            self._workloads[name], self._limits[name] = workload, limit
            if isinstance(workload, Continuous):
                self._continuous[name] = workload
                if self._pace is not None and self._pace.machine.memory_bytes is not None:
                    workload.limit(self._pace.machine.memory_bytes / self._pace.machine.value_bytes)
            speed = workload.items_per_s()
            paced = self._paced_items_per_s(workload)
            speeds.append(
                ModelSpeed(name, digest, workload.kind, speed, workload.batch_items, limit, load_s, paced)
            )
        return tuple(speeds)

    def _paced_items_per_s(self, workload: Workload) -> float:
        """Of one car, on ordinary items. Raises ValueError when the model does not fit its memory."""
        if self._pace is None:
            return inf
        cost = workload.ordinary_cost()
        took_s = modelled(self._pace.machine, cost).total_s / self._pace.speed
        return cost.items / took_s if took_s > 0 else inf

    def _admit(self, wait: bool = False) -> None:
        """Take what arrived, waiting for something if asked to."""
        while True:
            patience_s = None
            if wait and self._books.holding:
                patience_s = max(0.0, self._books.change_s - time.perf_counter())
            try:
                task = self._inbox.get(wait, patience_s)
            except queue.Empty:
                return
            wait = False
            if task is not None:
                self._turns.add(task, task.work.interactive)

    def _run_urgent(self, first: Task) -> None:
        """Run an interactive work to its end, with those that may share its micro-batches."""
        tasks = self._turns.sharing(first)
        self._turns.take(tasks)
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
            self._announce(task, self._turns.following(task) if self._pace is None else None)
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
