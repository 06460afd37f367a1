"""Whose micro-batch comes next: interactive works first, then cars in turn, each with its works in order.

Works that are not ready, since their model is not loaded, are passed over. Pure: it orders works, and knows neither
threads nor torch.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A work that waits for the accelerator."""

    @property
    def vehicle(self) -> int:
        """Index of its car."""

    @property
    def group(self) -> Hashable:
        """Works of one group may share a micro-batch."""

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

    def __init__(
        self,
        ready: Callable[[W], bool] = lambda work: True,
        gathered: Callable[[Sequence[W]], bool] | None = None,
    ) -> None:
        """`ready` says whether a work may have a turn at all, `gathered` whether interactive works that are to
        share a micro-batch wait for no others; without it none does."""
        self._ready = ready
        self._gathered = gathered
        self._urgent: deque[W] = deque()
        self._cars: OrderedDict[int, deque[W]] = OrderedDict()  # the car whose turn it is comes first

    def add(self, work: W, interactive: bool) -> None:
        """A work arrived."""
        if interactive:
            self._urgent.append(work)
        else:
            self._cars.setdefault(work.vehicle, deque()).append(work)

    @property
    def urgent(self) -> W | None:
        """The interactive work that came first."""
        return next(iter(self.urgent_ones()), None)

    def urgent_ones(self) -> list[W]:
        """The first interactive work of each group, in their order; those that are over are forgotten."""
        self._urgent = deque(work for work in self._urgent if not work.over)
        firsts: dict[Hashable, W] = {}
        for work in filter(self._ready, self._urgent):
            firsts.setdefault((work.group, id(work) if work.solo else None), work)
        if self._gathered is None:
            return list(firsts.values())
        return [first for first in firsts.values() if first.solo or self._gathered(self.sharing(first))]

    def waiting(self) -> list[W]:
        """All works that are not over, ready or not."""
        works = chain(self._urgent, *self._cars.values())
        return [work for work in works if not work.over]

    def sharing(self, first: W) -> list[W]:
        """The interactive works that may share micro-batches with this work, itself among them if it is one."""
        if first.solo:
            return [first]
        group = (work for work in self._urgent if work.group == first.group and not work.solo and not work.over)
        return list(filter(self._ready, group))

    def take(self, works: Collection[W]) -> None:
        """These interactive works wait no longer."""
        taken = set(map(id, works))
        self._urgent = deque(work for work in self._urgent if id(work) not in taken)

    def pass_urgent(self, works: Sequence[W]) -> None:
        """These interactive works have had a turn: the others come first now."""
        self.take(works)
        self._urgent.extend(works)

    def firsts(self) -> list[W]:
        """The batch work of each car that is next, if one is ready, the car whose turn it is first."""
        for vehicle, works in list(self._cars.items()):
            while works and works[0].over:
                works.popleft()
            if not works:
                del self._cars[vehicle]
        nexts = (next(self._in_order(works), None) for works in self._cars.values())
        return [work for work in nexts if work is not None]

    def _in_order(self, works: Iterable[W]) -> Iterator[W]:
        return (work for work in works if not work.over and self._ready(work))

    def in_line(self, vehicle: int, group: Hashable) -> list[W]:
        """The batch works of a car that may share micro-batches: as many as stand together at the front."""
        works = self._in_order(self._cars.get(vehicle, ()))
        return list(takewhile(lambda work: work.group == group and not work.solo, works))

    def following(self, work: W) -> W | None:
        """The batch work whose micro-batch comes after the next one of `work`, which is the first that is ready."""
        for vehicle, works in self._cars.items():
            for other in self._in_order(works) if vehicle != work.vehicle else ():
                return other
        if not work.last_batch:
            return work
        return next((other for other in self._in_order(self._cars[work.vehicle]) if other is not work), None)

    def pass_on(self, work: W) -> None:
        """A micro-batch of `work`, which is first, is about to run: the next car has its turn after it."""
        self._cars.move_to_end(work.vehicle)
