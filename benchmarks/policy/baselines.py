"""What others do: small policies of their own over the same simulator."""

from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random as Dice

from benchmarks.policy.cars import Car, Fleet
from benchmarks.policy.jobs import Job
from benchmarks.policy.mix import FAST_SPEED, Suite
from benchmarks.policy.orders import (
    Departed,
    Fact,
    Orders,
    Plugged,
    Range,
    Reported,
    Resident,
    Slice,
    Submitted,
)

SLICE_S = 1200.0
"""Work in a slice, as the core has it."""
TASK_S = 600.0
"""Work in a task of BOINC's."""


@dataclass(slots=True, eq=False)
class Open:
    """A job that has items to give out, or out."""

    job: Job
    ranges: list[Range]
    left: int  # to give out
    out: int = 0  # given out
    cars: int = 0  # at work on it
    speed: float = 0.0  # of those

    @classmethod
    def of(cls, job: Job) -> "Open":
        """Nothing of it is done."""
        return cls(job, [(0, job.items)], job.items)

    @property
    def left_s(self) -> float:
        """Work to give out."""
        return self.left * self.job.item_s

    @property
    def undone_s(self) -> float:
        """Work to give out, or out."""
        return (self.left + self.out) * self.job.item_s

    def take(self, count: int) -> tuple[Range, ...]:
        """Give out the first items."""
        taken: list[Range] = []
        while count and self.ranges:
            first, size = self.ranges.pop(0)
            if size > count:
                self.ranges.insert(0, (first + count, size - count))
                size = count
            taken.append((first, size))
            count -= size
            self.left -= size
            self.out += size
        return tuple(taken)

    def give_back(self, ranges: Sequence[Range], done: int) -> None:
        """A slice ended: all but its first items are to be done again."""
        for first, size in ranges:
            finished = min(size, done)
            done -= finished
            self.out -= size
            if size > finished:
                insort(self.ranges, (first + finished, size - finished))
                self.left += size - finished


@dataclass(slots=True, eq=False)
class Running:
    """A slice that is out."""

    slice: Slice
    of: Open
    until_s: float  # as expected
    gives_way: bool = False


@dataclass(slots=True, eq=False)
class Desk:
    """What every baseline keeps: who is here, what is open, what is out."""

    fleet: Fleet
    suite: Suite
    keeps_items: bool = True  # what a slice had done when it ended early
    jobs: dict[int, Open] = field(default_factory=dict)
    free: dict[int, Car] = field(default_factory=dict)
    here: dict[int, Car] = field(default_factory=dict)
    resident: dict[int, str] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)
    asked: list[Open] = field(default_factory=list)  # requests that no car has
    speed: float = 0.0  # plugged in
    fast_speed: float = 0.0  # of AI5s
    number: int = 0

    def take_in(self, fact: Fact) -> Open | None:
        """Keep the books; the job that was submitted, if one was that is no request."""
        match fact:
            case Plugged(number):
                car = self.fleet.cars[number]
                self.here[number] = self.free[number] = car
                self.resident[number] = ""
                self._count(car.speed)
            case Departed(number):
                self._count(-self.here.pop(number).speed)
                self.free.pop(number, None)
            case Submitted(job):
                of = self.jobs[job.number] = Open.of(job)
                if not job.interactive:
                    return of
                self.asked.append(of)
            case Resident(number, model):
                self.resident[number] = model
            case Reported():
                self._ended(fact)
        return None

    def slice(self, of: Open, car: Car, items: int, now_s: float) -> Slice:
        """Give out so many items of a job."""
        self.number += 1
        made = Slice(self.number, car.number, of.job.number, of.take(items))
        of.cars += 1
        of.speed += car.speed
        load_s = 0.0 if self.resident[car.number] == of.job.model else self.suite.cold_s
        count = sum(size for _, size in made.ranges)
        self.running[self.number] = Running(made, of, now_s + load_s + count * of.job.item_s / car.speed)
        if not of.job.interactive:
            self.free.pop(car.number, None)
        return made

    def answers(self, now_s: float) -> list[Slice]:
        """Give each request to a car that is free, or else to the one that has waited longest for one."""
        given: list[Slice] = []
        while self.asked and self.here:
            car = next(iter(self.free or self.here))
            self.here[car] = self.here.pop(car)
            if car in self.free:
                self.free[car] = self.free.pop(car)
            given.append(self.slice(self.asked.pop(), self.here[car], 1, now_s))
        return given

    def _count(self, speed: float) -> None:
        self.speed += speed
        if abs(speed) > 1:
            self.fast_speed += speed

    def _ended(self, fact: Reported) -> None:
        ended = self.running.pop(fact.slice)
        ended.of.give_back(ended.slice.ranges, fact.done if fact.whole or self.keeps_items else 0)
        ended.of.cars -= 1
        ended.of.speed -= self.fleet.cars[fact.car].speed
        if not ended.of.left and not ended.of.out:
            del self.jobs[fact.job]
        if not ended.of.job.interactive:
            self.free[fact.car] = self.here[fact.car]
        elif ended.of.left:
            self.asked.append(ended.of)


class Greedy(ABC):
    """Gives a free car some job that is not over; the rule which one is the subclass's."""

    def __init__(self, fleet: Fleet, suite: Suite) -> None:
        self._desk = Desk(fleet, suite)
        self._order: dict[int, Open] = {}  # jobs with work to give out, in the order of their coming

    def decide(self, facts: Sequence[Fact], now_s: float) -> Orders:
        """Serve whoever is next by the rule."""
        desk = self._desk
        for fact in facts:
            fresh = desk.take_in(fact)
            if fresh is not None:
                self._order[fresh.job.number] = fresh
            elif isinstance(fact, Reported) and not fact.whole:
                self._again(fact)
        for number in [number for number, of in self._order.items() if of.job.deadline_s <= now_s or not of.left]:
            del self._order[number]
        slices = desk.answers(now_s)
        for car in list(desk.free.values()):
            fit = [of for of in self._order.values() if of.left and (car.speed > 1 or not of.job.fast_only)]
            if fit:
                of = self._choose(fit, car, now_s)
                slices.append(desk.slice(of, car, self._items(of, car), now_s))
        return Orders(slices)

    def wakeup_s(self) -> float | None:
        """Facts are enough."""
        return None

    def _again(self, fact: Reported) -> None:
        of = self._desk.jobs.get(fact.job)
        if of is not None and not of.job.interactive:
            self._order[fact.job] = of

    @abstractmethod
    def _choose(self, fit: Sequence[Open], car: Car, now_s: float) -> Open:
        """One of these, of which there is at least one."""

    def _items(self, of: Open, car: Car) -> int:
        return max(1, int(SLICE_S * car.speed / of.job.item_s))


class First(Greedy):
    """First come, first served."""

    def _choose(self, fit: Sequence[Open], car: Car, now_s: float) -> Open:
        return min(fit, key=lambda of: of.job.number)


class Random(Greedy):
    """Any job."""

    def __init__(self, fleet: Fleet, suite: Suite) -> None:
        super().__init__(fleet, suite)
        self._dice = Dice(0)

    def _choose(self, fit: Sequence[Open], car: Car, now_s: float) -> Open:
        return self._dice.choice(fit)


class Boinc(Greedy):
    """As BOINC does: cars ask for tasks, jobs get turns, and the earliest deadline goes first only where one is in
    danger; nothing gives way, and what of a task was done is lost with its car.

    (D. P. Anderson, "BOINC: A Platform for Volunteer Computing", J. Grid Computing 2020.) A task is an item, or
    items of ten minutes: single ones of five seconds would only burden its server.
    """

    def __init__(self, fleet: Fleet, suite: Suite) -> None:
        super().__init__(fleet, suite)
        self._desk.keeps_items = False

    def _choose(self, fit: Sequence[Open], car: Car, now_s: float) -> Open:
        danger = [of for of in fit if of.undone_s > (of.job.deadline_s - now_s) * max(of.speed, car.speed)]
        if danger:
            return min(danger, key=lambda of: of.job.deadline_s)
        return min(fit, key=lambda of: of.speed)

    def _items(self, of: Open, car: Car) -> int:
        return max(1, int(TASK_S * car.speed / of.job.item_s))


_REPLAN_S = 60.0
_MARGIN = 0.65
"""Of the speed of now, part that is promised: cars leave, models load. The best of five, on one seed."""
_HURRY_S = 3600.0
"""A job with less time than this does not wait for slices to end (three of them)."""


class Deadlines:
    """Earliest deadline first, with progress by the item, yielding and locality: as strong as it gets
    without values and forecasts.

    It keeps the jobs that what is plugged in now could do in time, serves the others only when nothing else is to
    be done, and loads a model where a job of another is late else.
    """

    def __init__(self, fleet: Fleet, suite: Suite) -> None:
        self._desk = Desk(fleet, suite)
        self._waiting: dict[int, Open] = {}  # not taken on
        self._taken: list[tuple[float, int, Open]] = []  # by deadline
        self._replan_s = 0.0

    def decide(self, facts: Sequence[Fact], now_s: float) -> Orders:
        """Serve the most urgent jobs that can still make it."""
        desk = self._desk
        yields: list[int] = []
        for fact in facts:
            fresh = desk.take_in(fact)
            if fresh is not None:
                self._waiting[fresh.job.number] = fresh
                self._take_on(fresh, now_s)
                if fresh.job.deadline_s - now_s < _HURRY_S:
                    yields += self._make_way(fresh, now_s)
        if now_s >= self._replan_s:
            self._replan_s = now_s + _REPLAN_S
            self._replan(now_s)
        slices = desk.answers(now_s)
        for car in sorted(desk.free.values(), key=lambda car: -car.speed):
            of = self._choose(car, now_s)
            if of is not None:
                slices.append(desk.slice(of, car, _items(of, car), now_s))
        return Orders(slices, yields)

    def wakeup_s(self) -> float | None:
        """There may be work that it was wrong about."""
        return self._replan_s

    def _replan(self, now_s: float) -> None:
        """Choose what to keep: by deadline, and where the speed of now is too little, without what was begun least.

        (After J. M. Moore, "An n job, one machine sequencing algorithm", 1968, which leaves out the longest.)
        """
        desk = self._desk
        jobs = [of for of in desk.jobs.values() if not of.job.interactive and of.job.deadline_s > now_s]
        self._taken = []
        dropped = [of for of in jobs if not self._makes_it(of, now_s)]
        kept = sorted((of for of in jobs if self._makes_it(of, now_s)), key=lambda of: of.job.deadline_s)
        begun: list[tuple[float, int, Open]] = []  # a heap: the least done first
        fast_begun: list[tuple[float, int, Open]] = []
        demand_s, fast_demand_s = 0.0, 0.0
        gone: set[int] = set()
        for of in kept:
            entry = 1.0 - of.undone_s / of.job.work_s, of.job.number, of
            within_s = _MARGIN * (of.job.deadline_s - now_s)
            heappush(begun, entry)
            demand_s += of.undone_s
            if of.job.fast_only:
                heappush(fast_begun, entry)
                fast_demand_s += of.undone_s
            while fast_demand_s > within_s * desk.fast_speed or demand_s > within_s * desk.speed:
                heap = fast_begun if fast_demand_s > within_s * desk.fast_speed else begun
                _, number, least = heappop(heap)
                if number not in gone:
                    gone.add(number)
                    dropped.append(least)
                    demand_s -= least.undone_s
                    fast_demand_s -= least.undone_s * least.job.fast_only
        self._taken = [(of.job.deadline_s, of.job.number, of) for of in kept if of.job.number not in gone]
        self._waiting = {of.job.number: of for of in sorted(dropped, key=lambda of: of.job.deadline_s)}

    def _take_on(self, of: Open, now_s: float) -> None:
        """Promise to do it, until the next look at all of them."""
        if self._makes_it(of, now_s):
            insort(self._taken, (of.job.deadline_s, of.job.number, of))
            del self._waiting[of.job.number]

    def _makes_it(self, of: Open, now_s: float) -> bool:
        """Whether the whole fleet, as far as the job has items, could do it in time."""
        speed = self._desk.fast_speed if of.job.fast_only else self._desk.speed
        speed = min(speed, of.job.items * FAST_SPEED)
        return of.undone_s <= speed * (of.job.deadline_s - now_s)

    def _choose(self, car: Car, now_s: float) -> Open | None:
        """The most urgent job whose model is resident, or one before it that wants more cars; else any."""
        resident = self._desk.resident[car.number]
        patience_s = 4 * self._desk.suite.cold_s
        elsewhere: Open | None = None
        for deadline_s, _, of in self._taken:
            if elsewhere is not None and deadline_s > elsewhere.job.deadline_s + patience_s:
                break
            if of.left and self._runs(of, car, now_s):
                if of.job.model == resident:
                    return of
                if elsewhere is None and self._wants_more(of, now_s):
                    elsewhere = of
        if elsewhere is not None:
            return elsewhere
        others = (*(of for _, _, of in self._taken), *self._waiting.values())
        return next((of for of in others if self._runs(of, car, now_s) and self._pays(of, resident)), None)

    def _runs(self, of: Open, car: Car, now_s: float) -> bool:
        """Whether the car could do an item of it in time."""
        if not of.left or (of.job.fast_only and car.speed <= 1):
            return False
        load_s = 0.0 if self._desk.resident[car.number] == of.job.model else self._desk.suite.cold_s
        return now_s + load_s + of.job.item_s / car.speed <= of.job.deadline_s

    def _pays(self, of: Open, resident: str) -> bool:
        """Whether the job lasts for longer than it takes to load its model."""
        return of.job.model == resident or of.left_s > 2 * self._desk.suite.cold_s * max(of.speed, 1.0)

    def _wants_more(self, of: Open, now_s: float) -> bool:
        """Whether the cars at work on it are too slow to be done in its time."""
        within_s = of.job.deadline_s - now_s - self._desk.suite.cold_s
        return of.undone_s > of.speed * within_s

    def _make_way(self, of: Open, now_s: float) -> list[int]:
        """Slices of later deadlines that give way, so that it can be done in time."""
        desk = self._desk
        wanted = 1.5 * of.left_s / max(of.job.deadline_s - now_s - desk.suite.cold_s, 60.0)
        wanted -= sum(car.speed for car in desk.free.values())
        later = [
            one
            for one in desk.running.values()
            if not one.of.job.interactive and not one.gives_way and one.of.job.deadline_s > of.job.deadline_s
        ]
        given: list[int] = []
        for one in sorted(
            later, key=lambda one: (desk.resident[one.slice.car] != of.job.model, -one.of.job.deadline_s)
        ):
            if wanted <= 0 or len(given) >= of.left:
                break
            car = desk.here[one.slice.car]
            if one.until_s - now_s > 60.0 and self._runs(of, car, now_s):
                one.gives_way = True
                given.append(one.slice.number)
                wanted -= car.speed
        return given


def _items(of: Open, car: Car) -> int:
    """A slice, smaller towards the end of a job that several cars work on."""
    work_s = min(SLICE_S * car.speed, of.left_s / (2 * max(1, of.cars)) if of.cars else of.left_s)
    return max(1, min(of.left, int(max(work_s, 60.0 * car.speed) / of.job.item_s)))
