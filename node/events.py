"""What happens to a lot (events, facts) and what it wants done (effects, orders)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.lease import Lease
from node.messages import DrainAsked, Granted, ItemError, Revoked, Token
from node.vehicles import Looked, Nodes


@dataclass(frozen=True, slots=True, eq=False)
class PluggedIn:
    """These vehicles are on the charger; or the owner gave them another window."""

    nodes: Nodes  # [K]
    window_s: NDArray[np.float64]  # [K] real seconds they are expected to stay
    declared: bool = False  # the owners have said so
    age_s: NDArray[np.float64] | None = None  # [K] for so long already, of the cars' clock; None: just now
    parked: bool = False  # not on the charger: parked off it, and lent all the same


@dataclass(frozen=True, slots=True, eq=False)
class WindowsEstimated:
    """These vehicles are now expected to stay so long."""

    nodes: Nodes  # [K]
    window_s: NDArray[np.float64]  # [K] real seconds


@dataclass(frozen=True, slots=True, eq=False)
class Unplugged:
    """The drivers took these vehicles."""

    nodes: Nodes  # [K]


@dataclass(frozen=True, slots=True)
class RefusalsSaid:
    """Which models and tenants each of the N owners refuses."""

    models: Sequence[frozenset[str]]
    tenants: Sequence[frozenset[str]]


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The process is to end on purpose."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A stream opened: the coordinator knows no offer of ours, and these leases are ours no more."""

    dropped: Sequence[Token]


@dataclass(frozen=True, slots=True)
class InputsFetched:
    """The deferred inputs of this grant are here, in their places."""

    granted: Granted


@dataclass(frozen=True, slots=True)
class TransferRefused:
    """Inputs or results of this lease could not be transferred."""

    token: Token


@dataclass(frozen=True, slots=True)
class Announced:
    """The executor is about to run these items of a lease."""

    token: Token
    items: Sequence[int]


@dataclass(frozen=True, slots=True)
class Worked:
    """The executor finished a micro-batch."""

    token: Token
    items: Sequence[int]
    results: Sequence[bytes]
    errors: Sequence[ItemError]
    busy_s: float
    last: bool
    paced_s: float = 0.0  # what the car's profile takes for it, modelled, in real seconds; 0: not paced
    loading_s: float = 0.0  # what loading its model for it took before


@dataclass(frozen=True, slots=True)
class Said:
    """The executor said more of an answer; as `Spoken` in `work`."""

    token: Token
    item: int
    first: int
    tokens: Sequence[int]
    start: int
    text: str
    reused: int = 0
    prompt_tokens: int = 0
    likelihoods: Sequence[bytes] = ()
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ResultPut:
    """A large result is with the coordinator."""

    token: Token
    item: int


@dataclass(frozen=True, slots=True)
class ResidencyChanged:
    """Other models are in the executor's memory than before, or one cannot be loaded any more: it is missing."""

    load_s: Mapping[str, float]  # what loading each takes; 0: it is resident


@dataclass(frozen=True, slots=True)
class Stopped:
    """No work of these leases is left; accelerator-seconds thrown away for each."""

    lost_s: Mapping[Token, float]


Event = (
    PluggedIn
    | WindowsEstimated
    | Unplugged
    | Looked
    | RefusalsSaid
    | ShutDown
    | Welcomed
    | Granted
    | Revoked
    | DrainAsked
    | InputsFetched
    | TransferRefused
    | Announced
    | Worked
    | Said
    | ResultPut
    | ResidencyChanged
    | Stopped
)


@dataclass(frozen=True, slots=True)
class Put:
    """Send this result by PutResults, then tell `ResultPut`."""

    token: Token
    item: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Effects:
    """What is to be done now, in this order."""

    stop: list[Token] = field(default_factory=list)  # then tell `Stopped`
    wind_down: list[Token] = field(default_factory=list)  # begin no more of these; then tell `Stopped`
    fetch: list[Granted] = field(default_factory=list)  # then tell `InputsFetched`
    start: list[Granted] = field(default_factory=list)
    put: list[Put] = field(default_factory=list)
    began: list[Lease] = field(default_factory=list, compare=False)  # what there is to record: leases that came
    ended: list[Lease] = field(default_factory=list, compare=False)  # and those of which nothing runs any more
