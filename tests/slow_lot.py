"""A lot whose echo model takes its time, as a real one would: 50 ms for a micro-batch of 64 items."""

import sys
import threading
from collections.abc import Sequence

import node.loading
from node.__main__ import main
from node.workloads import Control
from node.workloads.echo import Echo

_BATCH_S = 0.05


class SlowEcho(Echo):
    """Echo, at 1,280 items a second."""

    computes = True
    batch_items = 64

    def plan(self, prepared: Sequence[bytes]) -> list[list[int]]:
        """Micro-batches of 64."""
        count = len(prepared)
        return [list(range(first, min(first + 64, count))) for first in range(0, count, 64)]

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The inputs again, after a while, unless it is stopped before."""
        waited = threading.Event()
        for _ in range(10):
            control.check()
            waited.wait(_BATCH_S / 10)
        return prepared

    def items_per_s(self) -> float:
        """As it is."""
        return self.batch_items / _BATCH_S


if __name__ == "__main__":
    node.loading.Echo = SlowEcho  # type: ignore[attr-defined]
    sys.exit(main())
