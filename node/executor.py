"""The executor: one thread that runs all the computing of a process, micro-batch by micro-batch.

It owns whatever waits for its models, which `loading` has. It knows works by a key, and neither leases nor the
wire: its listener is told what is about to run and what has finished, on the executor's thread. Only what computes
nothing, the echo, waits for no thread: it is answered on the spot.
"""

import queue
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from itertools import chain, count
from math import inf

from node.batching import LOOK_S, Batching
from node.books import Books
from node.demand import Demand
from node.gathering import Gathering
from node.loading import Models
from node.models import ModelCache
from node.pacing import AT_ONCE, Pace
from node.running import Task
from node.stepping import Stepping
from node.telling import Telling
from node.turns import Turns
from node.work import Key, Listener, ModelSpeed, Work


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
        self._workloads = self._models.workloads
        self._gathering = Gathering(batch_delay_s) if batch_delay_s > 0.0 else None
        self._gathered_s = inf  # when the first of what gathers begins
        self._numbers = count()
        self._turns: Turns[Task] = Turns(self._ready, self._gathered if self._gathering else None)
        self._books = Books(freed=lambda: self._inbox.put(None))
        self._telling = Telling(listener, self._books, pace)
        parts = listener, self._telling, self._books, self._turns, self._models
        self._stepping = Stepping(*parts)
        self._batching = Batching(*parts, pace is not None, self._admit)
        self._demand = Demand(*parts, self._stepping)
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
            self._batching.answer(task)
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
                if not self._serve_once() and not self._demand.tend() and not self._closed:
                    self._admit(wait=True)
        except BaseException as error:
            self._died = error
            raise

    def _serve_once(self) -> bool:
        """Run what is next; False when there is nothing that may run now."""
        self._gathered_s = inf
        served = self._serve_next()
        self._demand.turn = None
        return served

    def _serve_next(self) -> bool:
        self._stepping.sweep()
        if (alone := self._stepping.alone) is not None:
            return self._stepping.may_run(alone) and self._step(alone)
        urgent, batch = self._turns.urgent_ones(), self._turns.firsts()
        for task in chain(urgent, filter(self._books.may_run, batch)):
            self._demand.turn = task
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
            self._batching.run_next(task, self._run_urgent_in_between)
        return True

    def _run_alone(self, task: Task) -> bool:
        """Run a solo work when nothing else is in flight any more, and till then what is."""
        if self._books.holding:
            return False
        if others := self._stepping.others:
            return self._stepping.drain(others[0])
        if not self._batching.announced_alone(task):
            return True
        if self._stepping.runs(task):
            return self._step(task)
        self._batching.run_alone(task)
        return True

    def _step(self, task: Task) -> bool:
        """A step of a task and of those that share it, after which the others have their turn."""
        if task.work.interactive:
            self._turns.pass_urgent(self._turns.sharing(task))
        elif not task.solo:
            self._turns.pass_on(task)
        stepped = self._stepping.step(task, self._run_urgent_in_between)
        if isinstance(stepped, threading.Event):
            stepped.wait(LOOK_S)
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
        self._demand.tend()

    def _run_urgent(self, first: Task) -> None:
        """Run an interactive work to its end, with those that may share its micro-batches."""
        tasks = self._turns.sharing(first)
        if not tasks:  # they were stopped just now
            return
        self._turns.take(tasks)
        if self._gathering is not None:
            self._gathering.begun(first.group, len(tasks))
        self._batching.run(tasks)

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
