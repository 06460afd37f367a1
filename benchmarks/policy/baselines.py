"""What others do: small policies of their own over the same simulator."""

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

from benchmarks.policy.cars import Car, Fleet
from benchmarks.policy.jobs import Job
from benchmarks.policy.mix import Suite
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


@dataclass(slots=True, eq=False)
class Open:
    """A job that has items to give out, or out."""

    job: Job
    ranges: list[Range]
    left: int  # to give out
    out: int = 0  # given out
    cars: int = 0  # at work on it

    @classmethod
    def of(cls, job: Job) -> "Open":
        """Nothing of it is done."""
        return cls(job, [(0, job.items)], job.items)

    @property
    def left_s(self) -> float:
        """Work to give out."""
        return self.left * self.job.item_s

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


@dataclass(slots=True, eq=False)
class Desk:
    """What every baseline keeps: who is here, what is open, what is out."""

    fleet: Fleet
    suite: Suite
    jobs: dict[int, Open] = field(default_factory=dict)
    free: dict[int, Car] = field(default_factory=dict)
    here: dict[int, Car] = field(default_factory=dict)
    resident: dict[int, str] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)
    speed: float = 0.0  # plugged in
    number: int = 0

    def take_in(self, fact: Fact) -> Job | None:
        """Keep the books; the job that was submitted, if one was."""
        match fact:
            case Plugged(number):
                car = self.fleet.cars[number]
                self.here[number] = self.free[number] = car
                self.resident[number] = ""
                self.speed += car.speed
            case Departed(number):
                self.speed -= self.here.pop(number).speed
                self.free.pop(number, None)
            case Submitted(job):
                self.jobs[job.number] = Open.of(job)
                return job
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
        load_s = 0.0 if self.resident[car.number] == of.job.model else self.suite.cold_s
        count = sum(size for _, size in made.ranges)
        self.running[self.number] = Running(made, of, now_s + load_s + count * of.job.item_s / car.speed)
        if not of.job.interactive:
            self.free.pop(car.number, None)
        return made

    def answering(self) -> Iterator[Car]:
        """Cars for a request, the best first: those that are free, the fast ones."""
        yield from sorted(self.free.values(), key=lambda car: -car.speed) or self.here.values()

    def _ended(self, fact: Reported) -> None:
        ended = self.running.pop(fact.slice)
        ended.of.give_back(ended.slice.ranges, fact.done)
        ended.of.cars -= 1
        if not ended.of.left and not ended.of.out:
            del self.jobs[fact.job]
        if not ended.of.job.interactive and fact.car in self.here:
            self.free[fact.car] = self.here[fact.car]


class Deadlines:
    """Earliest deadline first, with progress by the item, yielding and locality: as strong as it gets without values
    and forecasts."""

    def __init__(self, fleet: Fleet, suite: Suite) -> None:
        self._desk = Desk(fleet, suite)
        self._queue: list[tuple[float, int]] = []  # deadline and number of jobs that have work to give out

    def decide(self, facts: Sequence[Fact], now_s: float) -> Orders:
        """Serve the most urgent jobs that can still make it."""
        desk = self._desk
        slices: list[Slice] = []
        yields: list[int] = []
        fresh: list[Open] = []
        for fact in facts:
            job = desk.take_in(fact)
            if job is not None and job.interactive:
                car = next(desk.answering(), None)
                if car is not None:
                    slices.append(desk.slice(desk.jobs[job.number], car, 1, now_s))
            elif job is not None:
                fresh.append(desk.jobs[job.number])
            if isinstance(fact, Reported | Submitted):
                self._enqueue(fact.job if isinstance(fact, Reported) else fact.job.number)
        for car in sorted(desk.free.values(), key=lambda car: -car.speed):
            of = self._choose(car, now_s)
            if of is not None:
                slices.append(desk.slice(of, car, self._items(of, car), now_s))
        for of in fresh:
            yields += self._make_way(of, now_s, yields)
        return Orders(slices, yields)

    def wakeup_s(self) -> float | None:
        """Facts are enough."""
        return None

    def _enqueue(self, number: int) -> None:
        of = self._desk.jobs.get(number)
        if of is None or not of.left or of.job.interactive:
            return
        entry = of.job.deadline_s, number
        if entry not in self._queue:
            insort(self._queue, entry)

    def _choose(self, car: Car, now_s: float) -> Open | None:
        """The most urgent job that this car runs; one whose model is resident, where the other can wait."""
        desk = self._desk
        first: Open | None = None
        for deadline_s, number in tuple(self._queue):
            of = desk.jobs.get(number)
            if of is None or not of.left or not self._makes_it(of, now_s):
                if of is None or not of.left or now_s >= deadline_s:
                    self._queue.remove((deadline_s, number))
                continue
            if of.job.fast_only and car.speed <= 1:
                continue
            load_s = 0.0 if desk.resident[car.number] == of.job.model else desk.suite.cold_s
            if now_s + load_s + of.job.item_s / car.speed > deadline_s:
                continue
            if not load_s:
                return of
            if first is None:
                first = of
                if self._is_at_risk(of, now_s):
                    return of
        return first

    def _makes_it(self, of: Open, now_s: float) -> bool:
        """Whether the whole fleet, as far as the job has items, could do it in time."""
        speed = min(self._desk.speed, of.job.items * 8.0)
        return of.left_s / max(speed, 1e-9) <= of.job.deadline_s - now_s

    def _is_at_risk(self, of: Open, now_s: float) -> bool:
        """Whether it is late at half of the speed that it could have."""
        speed = min(self._desk.speed, of.left * 1.0) / 4
        return now_s + 2 * self._desk.suite.cold_s + 2 * of.left_s / max(speed, 1e-9) > of.job.deadline_s

    def _items(self, of: Open, car: Car) -> int:
        share = ceil(of.left / max(1, len(self._desk.here)))
        least = ceil(60.0 * car.speed / of.job.item_s)
        return max(1, min(int(SLICE_S * car.speed / of.job.item_s), max(share, least), of.left))

    def _make_way(self, of: Open, now_s: float, already: Sequence[int]) -> list[int]:
        """Slices of later deadlines that give way, so that this job is done in half its time."""
        if not of.left or not self._makes_it(of, now_s):
            return []
        wanted = 2 * of.left_s / max(of.job.deadline_s - now_s, 1.0)  # speed
        later = sorted(
            (one for one in self._desk.running.values() if one.of.job.deadline_s > of.job.deadline_s),
            key=lambda one: -one.of.job.deadline_s,
        )
        given: list[int] = []
        for one in later:
            if wanted <= 0 or len(given) >= of.left:
                break
            car = self._desk.here[one.slice.car]
            if one.of.job.interactive or one.slice.number in already or (of.job.fast_only and car.speed <= 1):
                continue
            if one.until_s - now_s > 60.0:
                given.append(one.slice.number)
                wanted -= car.speed
        return given
