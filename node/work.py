"""What the executor is given and what it gives back: the words between it and the agent."""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

Key = Hashable
"""Names one lease."""


@dataclass(frozen=True, slots=True)
class Work:
    """Items of one lease, or of a part of it."""

    key: Key
    vehicle: int  # index of the car in its lot
    model: str
    inputs: Sequence[bytes]
    offsets: Sequence[int]  # of each input in the lease
    interactive: bool
    solo: bool  # it may kill the process: announce it exactly, and run it with nothing else in flight


@dataclass(frozen=True, slots=True)
class Finished:
    """What one micro-batch gave for one work."""

    key: Key
    items: tuple[int, ...]  # offsets
    results: tuple[bytes, ...]  # one for each of `items`
    errors: tuple[tuple[int, str, str], ...]  # offset, code, message
    busy_s: float  # its part of the time that the executor was at work
    last: bool  # nothing of this work is left
    paced_s: float = 0.0  # what its car's profile takes for it, modelled, on the compressed clock; 0: not paced


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """A model that this executor offers, and how fast it runs here."""

    name: str
    digest: str  # empty for the built-in echo
    kind: str
    items_per_s: float  # of the whole executor, measured on ordinary items
    batch_items: int  # items that one micro-batch holds well
    max_item_bytes: int
    load_s: float  # what loading it took; it is resident now
    paced_items_per_s: float = inf  # of one car by its profile, modelled, on the compressed clock


class Listener(Protocol):
    """Whom the executor tells, on its own thread, for an echo on the caller's. Both calls return at once."""

    def announce(self, key: Key, items: Sequence[int]) -> threading.Event:
        """These items (offsets) run in this micro-batch or the next; the event is set once that is on the wire."""

    def finished(self, finished: Finished) -> None:
        """Some items of a work have ended."""
