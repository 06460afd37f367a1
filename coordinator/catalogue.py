"""The catalogue: models that some lot could run, and what is refused because none would."""

from collections.abc import Sequence
from typing import NoReturn

from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.wire import OfferedModel


class Catalogue:
    """What was offered since the coordinator started."""

    def __init__(self, metrics: Metrics) -> None:
        self.models: dict[str, OfferedModel] = {}
        self._metrics = metrics

    def offered(self, model: str) -> OfferedModel:
        """A model that some lot could run; refused when there is none."""
        offered = self.models.get(model)
        if offered is None:
            self._metrics.count_rejection("unknown_model")
            names = ", ".join(sorted(self.models)) or "none yet: no vehicle has joined"
            raise Refused(Refusal.NOT_FOUND, f"no vehicle here offers model {model!r}; offered: {names}")
        return offered

    def check_sizes(self, offered: OfferedModel, sizes: Sequence[int], first: int) -> None:
        """Refuse items of these sizes, the job's from `first` on, that no lot would run."""
        largest, smallest = max(sizes, default=1), min(sizes, default=1)
        if largest > offered.max_item_bytes:
            self._metrics.count_rejection("too_large")
            raise Refused(
                Refusal.BAD_INPUT,
                f"item {first + sizes.index(largest)} has {largest} bytes; {offered.name} takes at most "
                f"{offered.max_item_bytes}: split it",
            )
        if not smallest:
            self._metrics.count_rejection("empty")
            raise Refused(Refusal.BAD_INPUT, f"item {first + sizes.index(0)} is empty; leave it out")

    def refuse_empty(self) -> NoReturn:
        """Refuse a job without items."""
        self._metrics.count_rejection("empty")
        raise Refused(Refusal.BAD_INPUT, "the job has no items; give at least one")
