"""Echo: every item's result is its input. It needs neither files nor torch; it shows what the way there costs."""

from collections.abc import Sequence

from node.roofline import Cost
from node.workloads import Control


class Echo:
    """The built-in `noop` model."""

    kind = "echo"
    computes = False
    batch_items = 4096
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    context_tokens = 0

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The inputs themselves."""
        return inputs

    def plan(self, prepared: Sequence[bytes]) -> list[list[int]]:
        """All in one micro-batch, up to the size of a lease."""
        count = len(prepared)
        return [list(range(first, min(first + 4096, count))) for first in range(0, count, 4096)]

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The inputs again."""
        return prepared

    def cost(self, prepared: Sequence[bytes], outcomes: Sequence[object]) -> Cost:
        """Nothing."""
        return Cost(0.0, 0.0, len(prepared), {}, {})

    def ordinary_cost(self) -> Cost:
        """Nothing."""
        return Cost(0.0, 0.0, self.batch_items, {}, {})

    def items_per_s(self) -> float:
        """Assumed: nothing is computed, the wire sets the pace."""
        return 100_000.0
