"""What requests of each model took, over all fronts, since the coordinator started. Knows no call and no clock."""

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Spent:
    """How often something was done, and seconds that it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """It was done once more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class ModelStatistics:
    """Requests of one model that have ended. `queue`, `input` and `infer` are of those that succeeded, `output` of
    those that came as tensors."""

    success: Spent = field(default_factory=Spent)  # all their items were answered; from submission to end
    fail: Spent = field(default_factory=Spent)  # refused by cars, late, or given up by their callers
    queue: Spent = field(default_factory=Spent)  # until a car was lent it
    input: Spent = field(default_factory=Spent)
    """Reading tensors in a front, and the time on loan that was not computing: the ways, and waiting in the car."""
    infer: Spent = field(default_factory=Spent)  # computing, as the cars tell it
    output: Spent = field(default_factory=Spent)  # writing tensors in a front
    items: int = 0  # that were answered
    last_s: float = 0.0  # when the latest request ended, Unix seconds; 0: none did


class Statistics:
    """Those of all models."""

    def __init__(self) -> None:
        self._models: dict[str, ModelStatistics] = defaultdict(ModelStatistics)

    def of(self, model: str) -> ModelStatistics:
        """Those of one model, which is offered."""
        return self._models[model]
