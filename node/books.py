"""What the executor keeps of works on their way, under one lock: who runs, what is held back, who waits for an end.

Any thread may ask it to stop works; all else is for the executor's own thread.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import zip_longest

from node.pacing import AT_ONCE, Chips, Passage
from node.running import Computed, Running, Stop, Task
from node.work import Key
from node.workloads import Control, Row


class Books:
    """The works of one executor."""

    def __init__(self, freed: Callable[[], None]) -> None:
        """`freed` is called, on any thread, when a car's chip is free sooner than it would have been."""
        self._freed = freed
        self._lock = threading.Lock()  # over what follows, and Task.stopped
        self._tasks: dict[Key, Task] = {}
        self._running: list[Running] = []  # the last one has the thread
        self._stops: list[Stop] = []
        self._chips: Chips[Computed] = Chips()  # nothing is held without a pace

    @property
    def holding(self) -> bool:
        """Whether anything is held back."""
        return self._chips.holding

    @property
    def change_s(self) -> float:
        """When the next of what is held back is due, or a chip is free for what waits; infinite for neither."""
        with self._lock:
            return self._chips.change_s(time.perf_counter())

    @property
    def innermost(self) -> Running:
        """What has the thread."""
        return self._running[-1]

    @property
    def at_work(self) -> set[Task]:
        """Tasks that have the thread, or will go on when it is theirs again."""
        return {task for running in self._running for task, _ in running.parts}

    def add(self, task: Task, coming: Passage = AT_ONCE) -> None:
        """A work arrived, whose inputs come to its car from now on."""
        with self._lock:
            task.arrives_s = self._chips.receive(task.vehicle, time.perf_counter(), coming, task.work.interactive)
            assert task.work.key not in self._tasks, "a key names one work at a time"
            self._tasks[task.work.key] = task

    def close(self, mark: Callable[[], None]) -> list[Key]:
        """Mark the end, and say which works are left."""
        with self._lock:
            mark()
            return list(self._tasks)

    def done(self, task: Task) -> None:
        """Nothing of a work is left."""
        with self._lock:
            self._forget(task)

    def may_run(self, task: Task) -> bool:
        """Whether its car's chip is free."""
        return self._chips.free(task.vehicle, time.perf_counter())

    def stop(self, keys: Collection[Key], gently: bool) -> Future[dict[Key, float]]:
        """End these works; see `Executor.stop`."""
        stop = Stop(Future(), dict.fromkeys(keys, 0.0), gently)
        with self._lock:
            for key in keys:
                task = self._tasks.pop(key, None)
                if task is None:
                    continue
                task.winding_down = task.winding_down or gently
                task.stopped = task.stopped or not gently
                self._stop_held(task, stop)
                if not gently and not any(other.vehicle == task.vehicle for other in self._tasks.values()):
                    self._chips.hang_up(task.vehicle)
                for running, urgent in zip_longest(self._running, self._running[1:]):
                    if not running.has(task):
                        continue
                    running.heed()
                    if gently:
                        self._tasks[key] = task
                        stop.waits_for.add(task)
                    elif urgent is None:
                        stop.waits_for.add(task)
                    else:  # it was interrupted for urgent work, and will not come back
                        stop.lost_s[key] += running.busy_s(task, until_s=urgent.began_s)
            self._stops.append(stop)
            answered = self._answered()
        _tell(answered)
        return stop.future

    def enter(self, running: Running) -> bool:
        """Begin it; False when all of its tasks were stopped."""
        with self._lock:
            running.heed(begun=False)
            if running.control.ended:
                return False
            # What this interrupts does not run any more, and will not come back if it was stopped.
            answered = self._ended(self._running[-1], (), interrupted=True) if self._running else []
            self._running.append(running)
        _tell(answered)
        return True

    def leave(self, running: Running, told: Collection[Task]) -> None:
        """End it. For all its tasks but those in `told` it was in vain."""
        with self._lock:
            answered = self._leave(running, told)
        _tell(answered)

    def hold(self, running: Running, computed: Sequence[Computed], paced_s: float, sending: Passage) -> None:
        """End it, and hold back what it gave: for `paced_s` since it began and its inputs would have come, and then
        until it would be sent. What was stopped was in vain."""
        with self._lock:
            wanted = [part for part in computed if not part.task.stopped]
            if wanted:
                interactive = any(part.task.work.interactive for part in wanted)
                began_s = max(running.began_s, *(part.task.arrives_s for part in wanted))
                self._chips.hold(wanted[0].task.vehicle, wanted, began_s, paced_s, interactive, sending)
            answered = self._leave(running, ())
        _tell(answered)

    def seat(self, task: Task, place: int, row: Row) -> bool:
        """Let a row of a task begin; False when nothing of it is to begin any more."""
        with self._lock:
            if task.unwanted:
                return False
            task.rows[place] = row
        return True

    def stepping(self, task: Task) -> bool:
        """Whether a step of its group is held back: the next one waits for it."""
        return self._chips.any(lambda computed: computed.step and computed.task.group == task.group)

    def throttle(self, speeds: Sequence[float]) -> None:
        """Heat leaves each car's chip so much of its speed."""
        with self._lock:
            sooner = self._chips.throttle(speeds, time.perf_counter())
        if sooner:
            self._freed()

    def release(self) -> tuple[Running, list[Computed]] | None:
        """Begin telling what is due, the earliest first; `leave` when it is told. None when nothing is due."""
        now_s = time.perf_counter()
        if self._chips.next_s > now_s:
            return None
        with self._lock:
            due = self._chips.take(now_s)
            if due is None:
                return None
            running = Running(tuple((computed.task, len(computed.places)) for computed in due), Control(), now_s)
            self._running.append(running)
        return running, due

    def _stop_held(self, task: Task, stop: Stop) -> None:
        """What of a task is held back: wait for it, or throw it away. Needs the lock."""
        if stop.gently:
            if self._holds(task):
                self._tasks[task.work.key] = task
                stop.waits_for.add(task)
            return
        lost_s = task.unreported_s if task.rows else 0.0
        for computed in self._chips.drop(lambda computed: computed.task is task, time.perf_counter()):
            lost_s += computed.busy_s
            self._freed()
        stop.lost_s[task.work.key] += lost_s
        runs = any(running.has(task) for running in self._running)
        for earlier in self._stops:
            if task in earlier.waits_for:  # gently, and in vain
                earlier.lost_s[task.work.key] += lost_s
                if not runs:
                    earlier.waits_for.discard(task)

    def _holds(self, task: Task) -> bool:
        """Whether something of it is held back, or has begun and is wanted."""
        return bool(task.rows and not task.stopped) or self._chips.any(lambda computed: computed.task is task)

    def _leave(self, running: Running, told: Collection[Task]) -> list[Stop]:
        self._running.remove(running)
        for task, _ in running.parts:
            if task.winding_down and not self._holds(task):
                self._forget(task)
        return self._ended(running, told)

    def _forget(self, task: Task) -> None:
        if self._tasks.get(task.work.key) is task:
            del self._tasks[task.work.key]

    def _ended(self, running: Running, told: Collection[Task], interrupted: bool = False) -> list[Stop]:
        """Stops that waited for nothing but this to end, or to be interrupted and not come back. Needs the lock."""
        for stop in self._stops:
            if stop.gently and interrupted:
                continue
            for task, _ in running.parts:
                if task in stop.waits_for and not self._holds(task):
                    stop.waits_for.remove(task)
                    stop.lost_s[task.work.key] += 0.0 if task in told else running.busy_s(task)
        return self._answered()

    def _answered(self) -> list[Stop]:
        """Stops that wait for nothing any more. Needs the lock."""
        answered = [stop for stop in self._stops if not stop.waits_for]
        self._stops = [stop for stop in self._stops if stop.waits_for]
        return answered


def _tell(answered: Collection[Stop]) -> None:
    for stop in answered:
        stop.future.set_result(stop.lost_s)
