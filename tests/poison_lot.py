"""A lot whose echo model kills its process when it meets the item POISON, as a broken kernel would."""

import os
import signal
import sys
from collections.abc import Sequence

from node.__main__ import main
from node.workloads import Control
from node.workloads.echo import Echo

POISON = b"POISON"


class DeadlyEcho(Echo):
    """Echo, but for one input."""

    computes = True

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The inputs again, or the end of the process."""
        if POISON in prepared:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(prepared, control)


if __name__ == "__main__":
    import node.loading

    node.loading.Echo = DeadlyEcho  # type: ignore[attr-defined]
    sys.exit(main())
