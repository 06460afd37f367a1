"""`python -m benchmarks.slow_lot`: a node process whose echo takes a second for an item, so that leases last."""

import sys
import threading
from collections.abc import Sequence

import node.loading
from node.__main__ import main
from node.workloads import Control
from node.workloads.echo import Echo

ITEM_S = 1.0
_LOOK_S = 0.01  # between two looks for a stop


class SlowEcho(Echo):
    """Echo, an item at a time."""

    computes = True
    batch_items = 1

    def plan(self, prepared: Sequence[bytes]) -> list[list[int]]:
        """Micro-batches of one."""
        return [[item] for item in range(len(prepared))]

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The input again, after a while, unless it is stopped before."""
        waited = threading.Event()
        for _ in range(round(ITEM_S / _LOOK_S)):
            control.check()
            waited.wait(_LOOK_S)
        return prepared

    def items_per_s(self) -> float:
        """As it is."""
        return 1 / ITEM_S


if __name__ == "__main__":
    node.loading.Echo = SlowEcho  # type: ignore[attr-defined]
    sys.exit(main())
