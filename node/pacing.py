"""Pacing: a car answers no sooner than its profile would, though it is this machine that computes.

Pure; seconds are real ones and come in as parameters. Each car has a chip of its own: what was computed here is
held back until that chip would have computed it, and the next batch work of the car is begun only then. Interactive
work goes first on the chip, too: it begins at once, and what the chip was at ends later by so much. A chip that is
hot is slower, from when it is said to be. Each car has a link of its own as well: the inputs of a work come over it
from its submission on, after those of works before it; the chip begins when they are there, and goes on while
results are sent. That cars share the line of their place is left out: this is the least that it takes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Generic, TypeVar

from node.roofline import Cost, Machine, seconds
from node.site import UNLIMITED, Rates

PACES = ("host", "profile")
"""As fast as this machine computes; or no faster than the profile."""

STILL = 1e-6
"""Of its speed, what a chip is left with that heat stops: what it still has to do is not lost from sight."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Passage:
    """Bytes over a link: how long they keep it, and how much longer each is on its way."""

    takes_s: float = 0.0
    way_s: float = 0.0


AT_ONCE = Passage()


@dataclass(frozen=True, slots=True)
class Pace:
    """A profile's computer, and its link, on a compressed clock."""

    machine: Machine
    speed: float  # simulated seconds in a real one
    rates: Rates = UNLIMITED

    def real_s(self, cost: Cost) -> float:
        """How long a micro-batch takes there."""
        return seconds(self.machine, cost) / self.speed

    def coming(self, payload: int) -> Passage:
        """How so many bytes of inputs come."""
        return Passage(self.rates.down_s(payload) / self.speed, self.rates.latency_s / 2.0 / self.speed)

    def sending(self, payload: int) -> Passage:
        """How so many bytes of results are sent."""
        return Passage(self.rates.up_s(payload) / self.speed, self.rates.latency_s / 2.0 / self.speed)


@dataclass(slots=True)
class _Held(Generic[T]):
    vehicle: int
    done_s: float  # by the chip
    due_s: float  # and sent
    interactive: bool
    results: list[T]
    sending: Passage


@dataclass(slots=True)
class _Way:
    """One direction of the cars' links: what is to pass waits for what came before it, but for urgent things."""

    _free_s: dict[int, float] = field(default_factory=dict)

    def passed_s(self, vehicle: int, ready_s: float, passage: Passage, urgent: bool) -> float:
        """When something is there that is ready then."""
        free_s = max(ready_s, self._free_s.get(vehicle, -inf))
        self._free_s[vehicle] = free_s + passage.takes_s
        return (ready_s if urgent else free_s) + passage.takes_s + passage.way_s

    def clear(self, vehicle: int) -> None:
        """Nothing is to pass any more."""
        self._free_s.pop(vehicle, None)


@dataclass(slots=True)
class Chips(Generic[T]):
    """The chips of a lot's cars and their links, and the results that would still be on them."""

    _held: list[_Held[T]] = field(default_factory=list)
    _free_s: dict[int, float] = field(default_factory=dict)  # of batch work, by car
    _interactive_free_s: dict[int, float] = field(default_factory=dict)
    _speed: dict[int, float] = field(default_factory=dict)  # the part that heat leaves, by car; 1 if not said
    _down: _Way = field(default_factory=_Way)
    _up: _Way = field(default_factory=_Way)

    @property
    def next_s(self) -> float:
        """When the next result is due; infinite when none is held."""
        return min((held.due_s for held in self._held), default=inf)

    def change_s(self, now_s: float) -> float:
        """When there is something to do: a result is due, or a chip that is at work now is free, which it is while
        its results are sent; infinite when there is neither."""
        return min(self.next_s, *(free_s for free_s in self._free_s.values() if free_s > now_s), inf)

    @property
    def holding(self) -> bool:
        """Whether any result is held."""
        return bool(self._held)

    def free(self, vehicle: int, now_s: float) -> bool:
        """Whether a car's chip may begin batch work."""
        return self._free_s.get(vehicle, -inf) <= now_s

    def receive(self, vehicle: int, now_s: float, coming: Passage, interactive: bool) -> float:
        """When inputs are there that are asked for now."""
        return self._down.passed_s(vehicle, now_s, coming, interactive)

    def hang_up(self, vehicle: int) -> None:
        """Nothing is to come to this car any more, and nothing to be sent."""
        self._down.clear(vehicle)
        self._up.clear(vehicle)

    def hold(
        self,
        vehicle: int,
        results: list[T],
        began_s: float,
        takes_s: float,
        interactive: bool,
        sending: Passage = AT_ONCE,
    ) -> None:
        """Hold these results of a micro-batch that was begun then, until the chip would have them (a cool one takes
        so long) and they would be sent."""
        takes_s /= self._speed.get(vehicle, 1.0)
        if interactive:
            start_s = max(began_s, self._interactive_free_s.get(vehicle, -inf))
            self._interactive_free_s[vehicle] = start_s + takes_s
            self._free_s[vehicle] = max(start_s, self._free_s.get(vehicle, -inf)) + takes_s
            self._move((vehicle,), lambda held: 0.0 if held.interactive or held.done_s <= start_s else takes_s)
        else:
            start_s = max(began_s, self._free_s.get(vehicle, -inf))
            self._free_s[vehicle] = start_s + takes_s
        done_s = start_s + takes_s
        due_s = self._up.passed_s(vehicle, done_s, sending, interactive)
        self._held.append(_Held(vehicle, done_s, due_s, interactive, results, sending))

    def throttle(self, speeds: Sequence[float], now_s: float) -> bool:
        """Heat leaves cars 0, 1, ... so much of their speed (0 to 1) from now on; whether any is done sooner."""
        longer: dict[int, float] = {}
        for vehicle, said in enumerate(speeds):
            speed, before = max(said, STILL), self._speed.get(vehicle, 1.0)
            if speed != before:
                self._speed[vehicle] = speed
                longer[vehicle] = before / speed
        for times_s in (self._free_s, self._interactive_free_s):
            for vehicle in longer.keys() & times_s.keys():
                times_s[vehicle] += max(0.0, times_s[vehicle] - now_s) * (longer[vehicle] - 1.0)
        self._move(longer, lambda held: max(0.0, held.done_s - now_s) * (longer[held.vehicle] - 1.0))
        return any(factor < 1.0 for factor in longer.values())

    def take(self, now_s: float) -> list[T] | None:
        """The results of a micro-batch that is due, the earliest first; None when none is."""
        first = min(self._held, key=lambda held: held.due_s, default=None)
        if first is None or first.due_s > now_s:
            return None
        self._held.remove(first)
        return first.results

    def any(self, wanted: Callable[[T], bool]) -> bool:
        """Whether a result of this kind is held."""
        return any(wanted(result) for held in self._held for result in held.results)

    def drop(self, unwanted: Callable[[T], bool], now_s: float) -> list[T]:
        """Take away what nobody waits for any more; a chip that computed nothing else is free."""
        dropped = [result for held in self._held for result in held.results if unwanted(result)]
        touched = {held.vehicle for held in self._held if any(map(unwanted, held.results))}
        for held in self._held:
            held.results = [result for result in held.results if not unwanted(result)]
        self._held = [held for held in self._held if held.results]
        for vehicle in touched:
            left = [held for held in self._held if held.vehicle == vehicle]
            self._free_s[vehicle] = max((held.done_s for held in left), default=now_s)
            self._interactive_free_s[vehicle] = max(
                (held.done_s for held in left if held.interactive), default=now_s
            )
        return dropped

    def _move(self, vehicles: Collection[int], later_s: Callable[[_Held[T]], float]) -> None:
        """The chips of these cars have what is held so much later, each. To send it takes as long as before, and
        waits as before for what goes first."""
        for vehicle in vehicles:
            self._up.clear(vehicle)  # what was sent and is not held any more has arrived
        for held in self._held:
            if held.vehicle in vehicles:
                by_s, sent_s = later_s(held), held.due_s - held.sending.way_s - held.sending.takes_s
                held.done_s += by_s
                ready_s = held.done_s if by_s < 0.0 else max(sent_s, held.done_s)
                held.due_s = self._up.passed_s(held.vehicle, ready_s, held.sending, held.interactive)
