"""How fast the executor runs each model: as measured at the start, then as it turns out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
class _Measured:
    items: float = 0.0
    busy_s: float = 0.0


class Speeds:
    """The lot's table of models."""

    def __init__(self, models: Sequence[ModelOffer]) -> None:
        self._models = {model.model: model for model in models}
        self._measured = {model.model: _Measured() for model in models}
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

    def record(self, model: str, items: int, busy_s: float) -> None:
        """A micro-batch of so many items took the executor so long."""
        measured = self._measured.get(model)
        if measured is None:
            return
        weight = max(0.0, 1.0 - busy_s / MEMORY_S)
        measured.items = measured.items * weight + items
        measured.busy_s = measured.busy_s * weight + busy_s
        if measured.busy_s >= LEAST_BUSY_S:
            offered = self._models[model].items_per_s
            if abs(self._speed(model) - offered) > TOLD_CHANGE * offered:
                self._stale = True

    def table(self, now_s: float) -> tuple[ModelOffer, ...]:
        """The whole table when it has to be told now, else nothing."""
        if not self._stale or now_s < self._told_s + TOLD_EVERY_S:
            return ()
        self._stale = False
        self._told_s = now_s
        for name, measured in self._measured.items():
            if measured.busy_s >= LEAST_BUSY_S and measured.items > 0:
                self._models[name] = replace(self._models[name], items_per_s=self._speed(name))
        return tuple(model for name, model in self._models.items() if name not in self._withheld)

    def _speed(self, model: str) -> float:
        return self._measured[model].items / self._measured[model].busy_s
