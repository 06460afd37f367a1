"""A week of cars and jobs on virtual time, under one policy. It alone knows how long things take.

One thread, a heap of events, no clock but the one that times the policy. A car runs its slices one after the other
and reports each when it ends. A request pauses the slice that runs: it needs no loading.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from itertools import count
from time import process_time
from typing import Any

import numpy as np

from benchmarks.policy.cars import Car, Fleet
from benchmarks.policy.jobs import Job
from benchmarks.policy.mix import END_S
from benchmarks.policy.orders import Departed, Fact, Orders, Plugged, Policy, Reported, Resident, Slice, Submitted

WAKE_EVERY_S = 15.0
"""A policy that asks to be woken sooner waits so long: a week of its seconds is a million calls."""
_ROUNDING = 1e-6


class _Kind(IntEnum):
    """Of an event; at one time in this order."""

    ENDED = 0
    DEPARTED = 1
    PLUGGED = 2
    SUBMITTED = 3
    WAKE = 4


@dataclass(slots=True)
class Account:
    """What the cars' seconds went into, weighed by the car's speed: HW4-seconds."""

    useful_s: float = 0.0  # items that were the first to be done
    repeated_s: float = 0.0  # items that another slice had done before
    lost_s: float = 0.0  # an item in flight when its car departed
    stopped_s: float = 0.0  # an item in flight when its slice was stopped
    loading_s: float = 0.0

    @property
    def spent_s(self) -> float:
        """All of it."""
        return self.useful_s + self.repeated_s + self.lost_s + self.stopped_s + self.loading_s


@dataclass(slots=True)
class Outcome:
    """What came of a week."""

    value: float = 0.0  # of jobs that were done on time
    item_value: float = 0.0  # of items that were done on time
    offered: float = 0.0
    jobs: int = 0
    on_time: int = 0
    late_s: float = 0.0  # useful, but for jobs that were not done on time
    account: Account = field(default_factory=Account)
    requests: int = 0
    waits_s: list[float] = field(default_factory=list)  # of those answered
    slices: int = 0
    yields: int = 0
    stops: int = 0
    facts: int = 0
    calls: int = 0
    policy_s: float = 0.0  # processor time of the policy


@dataclass(slots=True, eq=False)
class _Progress:
    """A job as it comes along."""

    job: Job
    done: bytearray
    left: int
    items_on_time: int = 0
    useful_s: float = 0.0
    finished_s: float | None = None


@dataclass(slots=True, eq=False)
class _Work:
    """A slice on a car."""

    slice: Slice
    progress: _Progress
    items: int
    item_s: float  # on this car
    started_s: float = 0.0
    begin_s: float = 0.0  # of its first item, after the loading; moved by what pauses it
    gives_way: bool = False

    @property
    def end_s(self) -> float:
        """When it has run all that it is to run."""
        return self.begin_s + self.items * self.item_s

    def done(self, now_s: float) -> int:
        """Items finished by now."""
        return min(self.items, max(0, int((now_s - self.begin_s) / self.item_s + _ROUNDING)))


@dataclass(slots=True, eq=False)
class _Node:
    """A car as it is now."""

    car: Car
    here: bool = False
    resident: str = ""
    waiting: deque[_Work] = field(default_factory=deque)
    running: _Work | None = None
    requests: list[_Work] = field(default_factory=list)
    answers_until_s: float = 0.0


class Week:
    """One simulated week."""

    def __init__(self, fleet: Fleet, jobs: Sequence[Job], cold_s: float, policy: Policy) -> None:
        self._policy = policy
        self._cold_s = cold_s
        self._nodes = [_Node(car) for car in fleet.cars]
        self._jobs: dict[int, _Progress] = {}
        self._works: dict[int, tuple[_Node, _Work]] = {}
        self._sequence = count()
        self._events: list[tuple[float, int, int, Any]] = []
        self._facts: list[Fact] = []
        self._wake_s = np.inf
        self._outcome = Outcome()
        for node in self._nodes:
            for stay in node.car.stays:
                self._at(max(stay.begin_s, 0.0), _Kind.PLUGGED, (node, stay.begin_s))
                self._at(stay.end_s, _Kind.DEPARTED, node)
        for job in jobs:
            self._at(job.submit_s, _Kind.SUBMITTED, job)

    def run(self) -> Outcome:
        """Live it through."""
        events = self._events
        while events and events[0][0] <= END_S:
            now_s, kind, _, what = heappop(events)
            if kind == _Kind.ENDED:
                self._ended(what, now_s)
            elif kind == _Kind.DEPARTED:
                self._departed(what, now_s)
            elif kind == _Kind.PLUGGED:
                node, begin_s = what
                self._plugged(node, begin_s, now_s)
            elif kind == _Kind.SUBMITTED:
                self._submitted(what)
            elif now_s < self._wake_s:
                continue  # it was woken meanwhile
            else:
                self._wake_s = np.inf
                self._decide(now_s)
            while self._facts:
                self._decide(now_s)
        return self._close()

    def _plugged(self, node: _Node, begin_s: float, now_s: float) -> None:
        node.here = True
        self._facts.append(Plugged(node.car.number, now_s - begin_s))

    def _at(self, time_s: float, kind: _Kind, what: Any) -> None:
        heappush(self._events, (time_s, kind, next(self._sequence), what))

    def _decide(self, now_s: float) -> None:
        facts, self._facts = self._facts, []
        outcome = self._outcome
        outcome.facts += len(facts)
        outcome.calls += 1
        begun_s = process_time()
        orders = self._policy.decide(facts, now_s)
        wake_s = self._policy.wakeup_s()
        outcome.policy_s += process_time() - begun_s
        self._perform(orders, now_s)
        if wake_s is not None:
            wake_s = max(wake_s, now_s + WAKE_EVERY_S)
            if wake_s < self._wake_s:
                self._wake_s = wake_s
                self._at(wake_s, _Kind.WAKE, None)

    def _perform(self, orders: Orders, now_s: float) -> None:
        for number in orders.stops:
            if number in self._works:
                self._stop(*self._works[number], now_s)
        for number in orders.yields:
            if number in self._works:
                self._yield(*self._works[number], now_s)
        for slice_ in orders.slices:
            node, progress = self._nodes[slice_.car], self._jobs[slice_.job]
            assert node.here, "work for a car that is gone"
            job, items = progress.job, sum(size for _, size in slice_.ranges)
            assert not job.fast_only or node.car.speed > 1, "work that this car cannot do"
            work = _Work(slice_, progress, items, job.item_s / node.car.speed)
            self._works[slice_.number] = node, work
            self._outcome.slices += 1
            if job.interactive:
                self._answer(node, work, now_s)
            else:
                node.waiting.append(work)
                self._start(node, now_s)

    def _start(self, node: _Node, now_s: float) -> None:
        if node.running is not None or not node.waiting:
            return
        work = node.running = node.waiting.popleft()
        model = work.progress.job.model
        begin_s = max(now_s, node.answers_until_s)
        if node.resident != model:
            node.resident = model
            begin_s += self._cold_s
            self._facts.append(Resident(node.car.number, model))
        work.started_s, work.begin_s = now_s, begin_s
        self._at(work.end_s, _Kind.ENDED, work)

    def _answer(self, node: _Node, work: _Work, now_s: float) -> None:
        work.started_s = now_s
        work.begin_s = max(now_s, node.answers_until_s)
        if node.running is not None:
            node.running.begin_s += work.end_s - work.begin_s
        node.answers_until_s = work.end_s
        node.requests.append(work)
        self._at(work.end_s, _Kind.ENDED, work)

    def _submitted(self, job: Job) -> None:
        self._jobs[job.number] = _Progress(job, bytearray(job.items), job.items)
        self._facts.append(Submitted(job))

    def _ended(self, work: _Work, now_s: float) -> None:
        node, known = self._works.get(work.slice.number, (None, None))
        if node is None or known is not work:
            return  # it ended otherwise
        if now_s < work.end_s - _ROUNDING:
            self._at(work.end_s, _Kind.ENDED, work)  # it was paused meanwhile
            return
        self._finish(node, work, now_s, departs=False)
        self._start(node, now_s)

    def _departed(self, node: _Node, now_s: float) -> None:
        held = [*node.requests, *([node.running] if node.running else ()), *node.waiting]
        for work in held:
            self._finish(node, work, now_s, departs=True)
        node.here, node.resident, node.answers_until_s = False, "", 0.0
        self._facts.append(Departed(node.car.number))

    def _stop(self, node: _Node, work: _Work, now_s: float) -> None:
        """Its policy has forgotten it: what it did counts for nothing but the account."""
        self._outcome.stops += 1
        self._finish(node, work, now_s, departs=False, tell=False)
        self._start(node, now_s)

    def _yield(self, node: _Node, work: _Work, now_s: float) -> None:
        work.gives_way = True
        self._outcome.yields += 1
        if work is not node.running or now_s < work.begin_s:
            self._finish(node, work, now_s, departs=False)
            self._start(node, now_s)
            return
        to_run = work.done(now_s) + 1
        if to_run < work.items:
            work.items = to_run
            self._at(work.end_s, _Kind.ENDED, work)

    def _finish(self, node: _Node, work: _Work, now_s: float, *, departs: bool, tell: bool = True) -> None:
        """Take a slice off its car, book it and report it."""
        del self._works[work.slice.number]
        started = work is node.running or work in node.requests
        if work is node.running:
            node.running = None
        elif started:
            node.requests.remove(work)
        else:
            node.waiting.remove(work)
        progress, job, speed, account = work.progress, work.progress.job, node.car.speed, self._outcome.account
        done = work.done(now_s) if started else 0
        fresh = _mark(progress.done, work.slice.ranges, done) if tell else 0
        spent_s = now_s - work.started_s if started else 0.0
        useful_s = done * work.item_s
        loading_s = 0.0
        if started and not job.interactive:
            loading_s = min(spent_s, work.begin_s - work.started_s)
        in_flight_s = max(0.0, now_s - work.begin_s - useful_s) if started and done < work.items else 0.0
        account.useful_s += fresh * job.item_s
        account.repeated_s += (done - fresh) * job.item_s
        account.loading_s += loading_s * speed
        if departs:
            account.lost_s += in_flight_s * speed
        else:
            account.stopped_s += in_flight_s * speed
        progress.useful_s += fresh * job.item_s
        progress.left -= fresh
        if now_s <= job.deadline_s + _ROUNDING:
            progress.items_on_time += fresh
        if not progress.left and progress.finished_s is None:
            progress.finished_s = now_s
        if tell:
            self._facts.append(
                Reported(
                    work.slice.number,
                    node.car.number,
                    job.number,
                    done,
                    done == sum(size for _, size in work.slice.ranges),
                    work.gives_way,
                    useful_s,
                    in_flight_s,
                    loading_s,
                )
            )

    def _close(self) -> Outcome:
        outcome = self._outcome
        for progress in self._jobs.values():
            job, finished_s = progress.job, progress.finished_s
            on_time = finished_s is not None and finished_s <= job.deadline_s + _ROUNDING
            if job.interactive:
                outcome.requests += 1
                if on_time and finished_s is not None:
                    outcome.waits_s.append(finished_s - job.submit_s)
                continue
            outcome.jobs += 1
            outcome.offered += job.value
            outcome.on_time += on_time
            outcome.value += job.value * on_time
            outcome.item_value += job.density * job.item_s * progress.items_on_time
            outcome.late_s += 0.0 if on_time else progress.useful_s
        return outcome


def _mark(done: bytearray, ranges: Sequence[tuple[int, int]], first: int) -> int:
    """Mark the first items of these ranges as done; how many were not before."""
    fresh = 0
    for begin, size in ranges:
        size = min(size, first)
        if not size:
            break
        fresh += size - done.count(1, begin, begin + size)
        done[begin : begin + size] = b"\1" * size
        first -= size
    return fresh
