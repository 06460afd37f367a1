"""A coordinator whose database does not sync its log at every commit: the control for the loss of power."""

import sys

import apsw

import coordinator.store.opening
from coordinator.__main__ import main
from coordinator.store.opening import opened


def carelessly_opened(name: str, flags: int) -> apsw.Connection:
    """As ever, but for one word."""
    connection = opened(name, flags)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


if __name__ == "__main__":
    coordinator.store.opening.opened = carelessly_opened
    sys.exit(main())
