"""How fast the executor runs each model: as measured at the start, then as it turns out; and no faster, for all its
cars together, than their profiles would, where the lot keeps their pace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from node.messages import ModelOffer

TOLD_CHANGE = 0.25
"""A speed that moved by less than this part is not told again."""
TOLD_EVERY_S = 2.0
"""Speeds are told at most so often."""
MEMORY_S = 5.0
"""Busy seconds after which a measurement weighs 1/e (assumed: some tens of micro-batches)."""
LEAST_BUSY_S = 0.5
"""Busy seconds that a measurement needs before it counts (assumed)."""


@dataclass(slots=True)
class _Rate:
    """Items a second: as first said, until enough was seen."""

    said: float
    items: float = 0.0
    seconds: float = 0.0

    def add(self, items: int, seconds: float) -> None:
        """So many took so long."""
        weight = max(0.0, 1.0 - seconds / MEMORY_S)
        self.items = self.items * weight + items
        self.seconds = self.seconds * weight + seconds

    @property
    def now(self) -> float:
        """As far as is known."""
        return self.items / self.seconds if self.seconds >= LEAST_BUSY_S and self.items > 0 else self.said


class Speeds:
    """The lot's table of models."""

    def __init__(self, models: Sequence[ModelOffer], paced: Mapping[str, float] | None = None) -> None:
        """`paced` says how many items a second one car may do by its profile, modelled, by model."""
        self._models = {model.model: model for model in models}
        self._measured = {model.model: _Rate(model.items_per_s) for model in models}
        self._modelled = {name: _Rate(rate) for name, rate in (paced or {}).items()}
        self._cars = 1
        self._told_s = float("-inf")
        self._stale = True
        self._withheld: frozenset[str] = frozenset()

    def __contains__(self, model: str) -> bool:
        return model in self._models

    @property
    def stale(self) -> bool:
        """Whether the table has to be told again."""
        return self._stale

    def retell(self) -> None:
        """The coordinator does not know the table."""
        self._stale = True
        self._told_s = float("-inf")

    def withhold(self, models: frozenset[str]) -> None:
        """Offer all but these from now on; with no other left the table stands as it was."""
        if models != self._withheld and not models.issuperset(self._models):
            self._withheld = models
            self.retell()

    def reside(self, load_s: Mapping[str, float]) -> None:
        """What loading each model takes from now on, 0: it is resident. Those that are missing are offered no more:
        with no other left the coordinator is not told, and leases are refused."""
        models = [offer for name, offer in self._models.items() if name in load_s]
        self._models = {offer.model: replace(offer, load_s=load_s[offer.model]) for offer in models}
        self.retell()

    def record(self, model: str, items: int, busy_s: float, paced_s: float = 0.0) -> None:
        """A micro-batch of so many items took the executor so long, and would take a car `paced_s`."""
        if model not in self._models:
            return
        self._measured[model].add(items, busy_s)
        if model in self._modelled and paced_s > 0:
            self._modelled[model].add(items, paced_s)
        self._stale = self._stale or self._moved(model)

    def shared_by(self, cars: int) -> None:
        """So many cars are offered: each has its share of what the table says."""
        if not self._modelled or cars == self._cars or cars == 0:
            return
        self._cars = cars
        if any(map(self._moved, self._modelled.keys() & self._models.keys())):
            self.retell()  # at once: the shares are told now

    def table(self, now_s: float) -> tuple[ModelOffer, ...]:
        """The whole table when it has to be told now, else nothing."""
        if not self._stale or now_s < self._told_s + TOLD_EVERY_S:
            return ()
        self._stale = False
        self._told_s = now_s
        for name, offer in self._models.items():
            self._models[name] = replace(offer, items_per_s=self._speed(name))
        return tuple(offer for name, offer in self._models.items() if name not in self._withheld)

    def _moved(self, model: str) -> bool:
        offered = self._models[model].items_per_s
        return abs(self._speed(model) - offered) > TOLD_CHANGE * offered

    def _speed(self, model: str) -> float:
        modelled = self._modelled.get(model)
        return min(self._measured[model].now, inf if modelled is None else self._cars * modelled.now)
