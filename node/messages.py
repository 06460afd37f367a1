"""What a lot and its coordinator tell each other, as plain data.

Mirrors protos/link.proto without protobuf, so that `lot` and `link` stay pure; `wire` converts. Bitmaps are
Python integers here: bit i stands for item i of the lease.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class EndCause(IntEnum):
    """Why a lease ended on this side; the values are the wire's."""

    FINISHED = 1
    UNPLUGGED = 2
    REVOKED = 3
    REFUSED = 4
    YIELDED = 5
    WITHHELD = 6


class DepartureCause(IntEnum):
    """Why a vehicle stopped serving; the values are the wire's."""

    UNPLUGGED = 1
    DRAINED = 2


class RevocationCause(IntEnum):
    """Why the coordinator wants a lease back; the values are the wire's."""

    CANCELLED = 1
    EXPIRED = 2
    UNKNOWN = 3
    YIELD = 4


@dataclass(frozen=True, slots=True)
class Token:
    """Names one lease for ever: boot epoch of the coordinator, number within it."""

    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Range:
    """Items [first, first + count) of a job."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Vehicle:
    """One car as the coordinator is told of it; power_w is its computer's modelled draw under load, 0: unknown."""

    name: str
    profile: str
    power_w: float
    site: str = ""  # where it stands; empty: not told
    awake_w: float = 0.0  # modelled draw of the car around the computer, watts; not told


@dataclass(frozen=True, slots=True)
class Ways:
    """What holds of all vehicles of a lot: whose habits their owners have, their clock, their electricity."""

    cohort: str = ""  # empty: nothing is known
    monday_s: float = 0.0  # of the cars' clock since Monday 00:00, at second 0 of the lot
    pace: float = 1.0  # seconds of the cars' clock in one of the lot
    price_per_kwh: float = 0.0  # in the unit of the jobs' values; 0: not given
    carbon_g_per_kwh: float = 0.0  # CO2, grams; 0: not given
    cohorts: tuple[str, ...] = ()  # one for each vehicle; empty: `cohort` is of all

    def hour_of_week(self, now_s: float) -> float:
        """Hours since Monday 00:00 by the cars' clock, at this second of the lot."""
        return (self.monday_s + self.pace * now_s) / 3600.0 % 168.0


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """One model that the executor runs; see ModelOffer in link.proto for the units."""

    model: str
    digest: str
    kind: str
    items_per_s: float
    load_s: float
    batch_items: int
    max_item_bytes: int
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    context_tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Offers:
    """Offers of N vehicles, in columns."""

    node: NDArray[np.int32]  # [N] indices of vehicles
    window_s: NDArray[np.float64]  # [N] expected real seconds until each leaves
    share: NDArray[np.float64]  # [N] part of the lot's measured speed, 0 to 1
    plugged_in_s: NDArray[np.float64]  # [N] since each was plugged in, of the cars' clock
    declared: NDArray[np.bool_]  # [N] the owner has said that it leaves when the window is over
    hour_of_week: float  # of the cars' clock, since Monday 00:00
    ways: Ways
    wake_j: NDArray[np.float64]  # [N] what waking each would take, modelled; 0: it is awake
    parked: NDArray[np.bool_]  # [N] it came parked off its charger: such a stay is like no other of its cohort


@dataclass(frozen=True, slots=True)
class ItemError:
    """An item that was tried alone and failed: its offset in the lease, a code, a sentence for people."""

    item: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What happened on one lease since its report before; `results` follow the bits of `done` in order."""

    token: Token
    items: int  # of the lease: length of its bitmaps
    done: int = 0
    results: Sequence[bytes] = ()
    errors: Sequence[ItemError] = ()
    running: int = 0
    ended: EndCause | None = None
    useful_s: float = 0.0
    lost_s: float = 0.0
    loading_s: float = 0.0
    energy_modelled_j: float = 0.0  # of the computer
    awake_modelled_j: float = 0.0  # of the car around it


@dataclass(frozen=True, slots=True)
class Partial:
    """What was said of one answer of a lease since the partial before; see Partial in link.proto."""

    token: Token
    item: int  # offset in the lease
    first: int  # place in the answer of the first of `tokens`
    tokens: Sequence[int]
    start: int  # characters of the answer before `text`
    text: str
    reused: int = 0  # tokens of the prompt and of what was begun that the car held from works before
    prompt_tokens: int = 0  # of the prompt, as the model reads it
    likelihoods: Sequence[bytes] = ()  # of each of `tokens`, if the request asks for them
    busy_s: float = 0.0  # accelerator-seconds that the lease has taken until then


@dataclass(frozen=True, slots=True)
class Departure:
    """A vehicle stopped serving."""

    node: int
    cause: DepartureCause


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that the lot holds, or has unacknowledged results of."""

    token: Token
    node: int
    job_id: str
    ranges: Sequence[Range]
    items: int
    done: int
    model: str


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of every stream."""

    lot_id: str
    incarnation: int
    vehicles: Sequence[Vehicle]
    held: Sequence[HeldLease]


@dataclass(frozen=True, slots=True)
class Message:
    """Lot to coordinator. `sequence` is 0 until the link has numbered it."""

    sequence: int = 0
    hello: Hello | None = None
    models: Sequence[ModelOffer] = ()
    offers: Offers | None = None
    reports: Sequence[Report] = ()
    departures: Sequence[Departure] = ()
    present: bytes | None = None  # heartbeat: bitmap over the lot's vehicles
    goodbye: bool = False
    partials: Sequence[Partial] = ()

    @property
    def lasting(self) -> bool:
        """Whether it must be kept until the coordinator acknowledges it."""
        return bool(self.reports or self.departures)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The first answer on every stream."""

    epoch: int
    heartbeat_s: float
    silent_after_s: float
    dropped: Sequence[Token]


@dataclass(frozen=True, slots=True)
class Granted:
    """A slice of a job was lent to one of the lot's vehicles."""

    token: Token
    node: int
    model: str
    job_id: str
    ranges: Sequence[Range]
    inputs: Sequence[bytes]
    deferred: Sequence[int]  # offsets of the inputs that are to be fetched
    lease_s: float
    interactive: bool
    solo: bool
    tenant: str = ""
    streamed: bool = False  # tell the tokens of its answers as they come
    begun: Mapping[int, Sequence[int]] = field(default_factory=dict)  # by offset: tokens that other cars have said


@dataclass(frozen=True, slots=True)
class Revoked:
    """The coordinator wants a lease back, or does not know it."""

    token: Token
    cause: RevocationCause


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """These vehicles shall finish what they hold and depart."""

    nodes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Answer:
    """Coordinator to lot."""

    welcome: Welcome | None = None
    acknowledged: int = 0
    events: Sequence[Revoked | Granted | DrainAsked] = field(default=())


def bitmap(items: Iterable[int]) -> int:
    """The integer whose bits are these item offsets."""
    offsets = items if isinstance(items, Sequence) else list(items)
    if len(offsets) < 32:
        bits = 0
        for item in offsets:
            bits |= 1 << item
        return bits
    flags = np.zeros(max(offsets) + 1, np.uint8)
    flags[np.asarray(offsets)] = 1
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def bitmap_bytes(bits: int, items: int) -> bytes:
    """A bitmap as the wire has it: bit i of byte i/8, least significant first; empty for no bits."""
    return bits.to_bytes((items + 7) // 8, "little") if bits else b""
