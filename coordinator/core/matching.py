"""Matching: which long item goes to which node, by the chance that the node will still be there when it ends.

An item that cannot be cut is lost whole with its node. What counts is not the chance alone but how it compares: a
node that is likelier than most to stay for long gets what takes long, one that leaves soon what is short.
"""

from collections.abc import Sequence

import numpy as np

from coordinator.core.job import Job
from coordinator.core.state import State
from coordinator.core.supply import Supply

LONG_S = 600.0
"""Work until the first item of a slice is done, loading included, from which on it is worth asking the forecast:
that takes some 100 us (assumed)."""

_HOPELESS = 0.25
"""A node is not given what it finishes so much more rarely than the fleet's nodes do."""


class Matching:
    """The forecast, asked about nodes that are free and jobs that wait."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._supply: Supply | None = None

    def plan(self, supply: Supply) -> None:
        """What the fleet's nodes are like from now on."""
        self._supply = supply

    def matters(self, job: Job, row: int) -> bool:
        """Whether a node may well leave before it has done one item of a batch job."""
        return (
            self._state.forecast is not None
            and self._supply is not None
            and not job.spec.interactive
            and self._first_s(job, row) >= LONG_S
        )

    def pairs(self, jobs: Sequence[Job], rows: Sequence[int], now_s: float) -> list[tuple[Job, int]]:
        """What to lend to whom, the best first; those alike in the order given, jobs before nodes."""
        forecast, supply = self._state.forecast, self._supply
        assert forecast is not None and supply is not None
        first_s = np.array([[self._first_s(job, row) for job in jobs] for row in rows])
        gain = np.minimum(forecast.stays(np.array(rows, np.int32), first_s, now_s) / supply.stays(first_s), 1.0)
        order = np.argsort(-gain.T.ravel(), kind="stable")
        best = order[gain.T.ravel()[order] >= _HOPELESS]
        return [(jobs[at // len(rows)], rows[at % len(rows)]) for at in best.tolist()]

    def _first_s(self, job: Job, row: int) -> float:
        """Until the first item is done."""
        speed = self._state.fleet.speed(row, job.spec.model, job.spec.item_work)
        return speed.load_s + 1.0 / speed.items_per_s
