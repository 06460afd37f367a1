"""A slow lot that writes down what it computes: one line for each item, in the file that RAN names."""

import os
import sys
from collections.abc import Sequence

import node.loading
from node.__main__ import main
from node.workloads import Control
from tests.slow_lot import SlowEcho


class CountingEcho(SlowEcho):
    """Echo that leaves a trace."""

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The inputs again; each is written down once it has been computed."""
        results = super().run(prepared, control)
        with open(os.environ["RAN"], "ab") as file:
            file.write(b"".join(item + b"\n" for item in results))
        return results


if __name__ == "__main__":
    node.loading.Echo = CountingEcho  # type: ignore[attr-defined]
    sys.exit(main())
