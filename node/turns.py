"""Whose micro-batch comes next: interactive works first, then cars in turn, each with its works in order.

Pure: it orders works, and knows neither threads nor torch.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A work that waits for the accelerator."""

    @property
    def vehicle(self) -> int:
        """Index of its car."""

    @property
    def group(self) -> Hashable:
        """Interactive works of one group may share a micro-batch."""

    @property
    def solo(self) -> bool:
        """It shares nothing with anybody."""

    @property
    def over(self) -> bool:
        """Nothing of it is left to run, or nobody wants it any more."""

    @property
    def last_batch(self) -> bool:
        """Only one of its micro-batches is left."""


W = TypeVar("W", bound=Waiting)


class Turns(Generic[W]):
    """The works of one executor that wait."""

    def __init__(self) -> None:
        self._urgent: deque[W] = deque()
        self._cars: OrderedDict[int, deque[W]] = OrderedDict()  # the car whose turn it is comes first

    def __bool__(self) -> bool:
        return bool(self._urgent or self._cars)

    def add(self, work: W, interactive: bool) -> None:
        """A work arrived."""
        if interactive:
            self._urgent.append(work)
        else:
            self._cars.setdefault(work.vehicle, deque()).append(work)

    @property
    def urgent(self) -> W | None:
        """The interactive work that came first."""
        while self._urgent and self._urgent[0].over:
            self._urgent.popleft()
        return self._urgent[0] if self._urgent else None

    def take_urgent(self) -> list[W]:
        """The first interactive work, with all others that may share its micro-batches."""
        first = self.urgent
        if first is None:
            return []
        if first.solo:
            return [self._urgent.popleft()]
        taken = [work for work in self._urgent if work.group == first.group and not work.solo and not work.over]
        if len(taken) == len(self._urgent):
            self._urgent.clear()
        else:
            chosen = set(map(id, taken))
            self._urgent = deque(work for work in self._urgent if id(work) not in chosen)
        return taken

    def first(self, may_run: Callable[[W], bool] | None = None) -> W | None:
        """The batch work whose micro-batch is next, of those that may run now."""
        for vehicle, works in list(self._cars.items()):
            while works and works[0].over:
                works.popleft()
            if not works:
                del self._cars[vehicle]
            elif may_run is None or may_run(works[0]):
                return works[0]
        return None

    def following(self, work: W) -> W | None:
        """The batch work whose micro-batch comes after the next one of `work`, which is first."""
        cars = iter(self._cars.values())
        own = next(cars)
        for works in cars:
            for other in works:
                if not other.over:
                    return other
        if not work.last_batch:
            return work
        return next((other for other in own if other is not work and not other.over), None)

    def pass_on(self, work: W) -> None:
        """A micro-batch of `work`, which is first, is about to run: the next car has its turn after it."""
        self._cars.move_to_end(work.vehicle)
