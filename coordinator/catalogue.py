"""The catalogue: models that some lot could run, and what is refused because none would."""

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.wire import OfferedModel


class Catalogue:
    """What was offered since the coordinator started."""

    def __init__(self, metrics: Metrics) -> None:
        self.models: dict[str, OfferedModel] = {}
        self.unloaded: set[str] = set()
        """Models of which no new request or job is taken, for an operator said so since the coordinator started."""
        self._metrics = metrics
        self._awaited: dict[str, asyncio.Future[None]] = {}

    def add(self, model: OfferedModel) -> None:
        """A lot offers this model."""
        self.models[model.name] = model
        if model.name in self._awaited:
            self._awaited.pop(model.name).set_result(None)

    async def appears(self, model: str, patience_s: float) -> None:
        """Returns when some lot offers a model, or has not for so long: after a start lots come by and by."""
        if model not in self.models:
            awaited = self._awaited.setdefault(model, asyncio.get_running_loop().create_future())
            await asyncio.wait((awaited,), timeout=patience_s)

    def offered(self, model: str) -> OfferedModel:
        """A model that some lot could run, and may; refused when there is none."""
        if model in self.unloaded:
            self._metrics.count_rejection("unloaded")
            raise Refused(
                Refusal.UNAVAILABLE, f"model {model!r} is unloaded; ask the operator to load it, or use another"
            )
        return self.known(model)

    def known(self, model: str) -> OfferedModel:
        """A model that some lot could run, if it may or not; refused when there is none."""
        offered = self.models.get(model)
        if offered is None:
            self._metrics.count_rejection("unknown_model")
            names = ", ".join(sorted(self.models)) or "none yet: no vehicle has joined"
            raise Refused(Refusal.NOT_FOUND, f"no vehicle here offers model {model!r}; offered: {names}")
        return offered

    def unload(self, model: str) -> None:
        """Take no new request or job for a model, through any front."""
        self._in_repository(model)
        self.unloaded.add(model)

    def load(self, model: str) -> None:
        """Take requests and jobs for a model again."""
        self._in_repository(model)
        self.unloaded.discard(model)

    def _in_repository(self, model: str) -> None:
        if model not in self.models:
            raise Refused(
                Refusal.NOT_FOUND,
                f"no vehicle here has offered model {model!r}; add it with `carpool models add` where lots run, and"
                " start them again",
            )

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
