"""What requests of each model took, over all fronts, since the coordinator started. Knows no call and no clock."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

_MOST_RESPONSES = 1024
"""Responses of an answer that are told apart (assumed): whoever looks at the statistics is told of each."""


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
class BatchStatistics:
    """Requests of so many items that succeeded; `output` of those that came as tensors."""

    input: Spent = field(default_factory=Spent)
    """Reading tensors in a front, and the time on loan that was not computing: the ways, and waiting in the car."""
    infer: Spent = field(default_factory=Spent)  # computing, as all cars that did tell it
    output: Spent = field(default_factory=Spent)  # writing tensors in a front


@dataclass(slots=True)
class ResponseStatistics:
    """The n-th response of answers that were streamed as tensors."""

    infer: Spent = field(default_factory=Spent)  # computing since the response before; of those whose cars tell it
    output: Spent = field(default_factory=Spent)  # writing its tensors
    success: Spent = field(default_factory=Spent)  # both
    fail: Spent = field(default_factory=Spent)  # the answer failed instead; computing since the response before
    empty: Spent = field(default_factory=Spent)  # it only said that the answer has ended; likewise

    def tell(self, infer_s: float, output_s: float) -> None:
        """It was made once more; `infer_s` 0: no car told."""
        if infer_s:
            self.infer.add(infer_s)
        self.output.add(output_s)
        self.success.add(infer_s + output_s)


@dataclass(slots=True)
class ModelStatistics:
    """Requests of one model that have ended; `queue` is of those that succeeded."""

    success: Spent = field(default_factory=Spent)  # all their items were answered; from submission to end
    fail: Spent = field(default_factory=Spent)  # refused by cars, late, or given up by their callers
    queue: Spent = field(default_factory=Spent)  # until a car was lent it
    batches: dict[int, BatchStatistics] = field(default_factory=dict)  # by items of a request
    responses: list[ResponseStatistics] = field(default_factory=list)  # by place in the answer
    last_s: float = 0.0  # when the latest request ended, Unix seconds; 0: none did

    @property
    def items(self) -> int:
        """Items that were answered."""
        return sum(items * batch.infer.count for items, batch in self.batches.items())

    def all(self, of: Callable[[BatchStatistics], Spent]) -> Spent:
        """One figure of the batches of all sizes."""
        spent = [of(batch) for batch in self.batches.values()]
        return Spent(sum(each.count for each in spent), sum(each.seconds for each in spent))

    def batch(self, items: int) -> BatchStatistics:
        """Requests of so many items."""
        return self.batches.setdefault(items, BatchStatistics())

    def response(self, place: int) -> ResponseStatistics:
        """Responses at this place of an answer, from 0; those far behind are not kept."""
        if place >= _MOST_RESPONSES:
            return ResponseStatistics()
        while place >= len(self.responses):
            self.responses.append(ResponseStatistics())
        return self.responses[place]


class Statistics:
    """Those of all models."""

    def __init__(self) -> None:
        self._models: dict[str, ModelStatistics] = defaultdict(ModelStatistics)

    def of(self, model: str) -> ModelStatistics:
        """Those of one model, which is offered."""
        return self._models[model]
