"""What the executor is given and what it gives back: the words between it and the agent."""

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
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
    begun: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """By offset: tokens of its answer that another car has said. They are taken as they are, and gone on from."""
    streamed: bool = False  # tell the listener the tokens of its answers as they come
    tenant: str = ""  # whose it is: no other's work uses what is kept of it


@dataclass(frozen=True, slots=True)
class Spoken:
    """A part of an answer in the making, counted from the answer's true beginning, whoever began it.

    The text only grows: a character that is not whole and a possible beginning of a stop string are held back. What
    is held back when the answer ends comes in a last part, before `Finished`.
    """

    key: Key
    offset: int
    first: int  # index in the answer of the first of `tokens`
    tokens: tuple[int, ...]
    start: int  # characters of the answer before `text`
    text: str  # what these tokens made final
    reused: int = 0  # tokens of the prompt and of what was begun that the car held from works before
    prompt_tokens: int = 0  # of the prompt, as the model reads it
    likelihoods: tuple[bytes, ...] = ()  # of each of `tokens`, as the wire has them, if the request asks for them
    busy_s: float = 0.0  # its work's part of the time that the executor was at work until then


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
    loading_s: float = 0.0  # what loading its model for it took before


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """A model that this executor offers, and how fast it runs here."""

    name: str
    digest: str  # empty for the built-in echo
    kind: str
    items_per_s: float  # of the whole executor, measured on ordinary items
    batch_items: int  # items that one micro-batch holds well
    max_item_bytes: int
    load_s: float  # what loading it takes; 0: it is resident
    paced_items_per_s: float = inf  # of one car by its profile, modelled, on the compressed clock
    input_shape: tuple[int, ...] = ()  # these three as in `Workload`
    output_shape: tuple[int, ...] = ()
    context_tokens: int = 0


class Listener(Protocol):
    """Whom the executor tells, on its own thread, for an echo on the caller's. All calls return at once."""

    def announce(self, key: Key, items: Sequence[int]) -> threading.Event:
        """These items (offsets) run in this micro-batch or the next; the event is set once that is on the wire."""

    def spoke(self, spoken: Spoken) -> None:
        """An answer of a streamed work goes on."""

    def finished(self, finished: Finished) -> None:
        """Some items of a work have ended."""

    def resident(self, load_s: Mapping[str, float]) -> None:
        """What loading each model takes now, seconds; 0: it is resident. Those that are missing run here no
        more."""
