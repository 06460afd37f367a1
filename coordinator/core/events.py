"""Facts that happened outside, as the core is told of them. They come in batches; times are coordinator seconds."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, NewType

import numpy as np
from numpy.typing import NDArray

from coordinator.core.ranges import Range

JobId = NewType("JobId", int)
LotId = NewType("LotId", int)
Rows = NDArray[np.int32]
"""Rows of the node table, [N]. The caller gives every vehicle a row of its own and never reuses it."""


class Token(NamedTuple):
    """Names one lease for ever: the boot epoch that granted it, and its number within that epoch."""

    epoch: int
    attempt: int


class Cause(IntEnum):
    """Why a node stopped serving."""

    UNPLUGGED = 0
    DRAINED = 1
    SILENT = 2  # no heartbeat: a tunnel, a stopped process
    DIED = 3  # its process ended without a word: what it ran is suspect


class LeaseEnd(IntEnum):
    """Why a lease ended."""

    FINISHED = 0
    UNPLUGGED = 1
    REVOKED = 2
    REFUSED = 3
    EXPIRED = 4
    SILENT = 5
    DIED = 6
    DRAINED = 7
    YIELDED = 8  # to more urgent work, at the boundary of an item
    WITHHELD = 9  # by its owner, from a node that is still here


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A divisible range of items [0, items) for one model, of one tenant."""

    job: JobId
    tenant: str
    api: str  # the front it came through: a label
    model: str
    items: int
    item_bytes: int  # mean size of an input
    interactive: bool
    deadline_s: float  # coordinator seconds; infinity when there is none
    value: float  # of the whole job, if it is done by its deadline; compares with jobs of the same tenant only
    key: str = ""  # its idempotency key; empty: none
    item_work: float = 1.0  # of one item, in items of the speed that was measured for the model
    least_on_time: float = 0.0  # refuse it at submission if its chance to be done by its deadline is below this
    prefer: int | None = None  # row of a node that would be done sooner, by what it has in memory
    twin: JobId | None = None  # an interactive job that asks for the same: no lot is lent both

    @property
    def label(self) -> str:
        """The class, as metrics name it."""
        return "interactive" if self.interactive else "batch"


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """How a lot runs one model: items a second of its whole executor, and seconds to load (0 when resident)."""

    items_per_s: float
    load_s: float
    batch_items: int


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that a lot says it still holds when it (re)joins."""

    token: Token
    node: int
    job: JobId
    model: str
    ranges: tuple[Range, ...]
    done: int  # bitmap: finished there, reported or not


@dataclass(frozen=True, slots=True)
class Report:
    """News of one lease. Offsets and bits count items within the lease."""

    token: Token
    serial: int  # the caller's number for this report's payloads; echoed in effects
    done: int = 0  # bitmap of newly finished items
    errors: tuple[tuple[int, str, str], ...] = ()  # (offset, code, message) of items that failed alone
    running: int | None = None  # bitmap of items on the accelerator or next; None says nothing
    ended: LeaseEnd | None = None
    useful_s: float = 0.0
    lost_s: float = 0.0
    loading_s: float = 0.0
    energy_modelled_j: float = 0.0
    awake_modelled_j: float = 0.0
    spoke: bool = False  # tokens of its answers came, of which the core hears no more than this

    @property
    def busy_s(self) -> float:
        """Accelerator-seconds that it tells, whatever came of them."""
        return self.useful_s + self.lost_s


@dataclass(frozen=True, slots=True, eq=False)
class LotJoined:
    """A lot opened its link: these vehicles are on it, whether or not they offer anything yet."""

    lot: LotId
    incarnation: int  # another number means another process
    node: Rows
    profile: tuple[str, ...]  # [N] opaque labels
    power_w: NDArray[np.float64]  # [N] modelled draw under load
    held: tuple[HeldLease, ...] = ()
    site: tuple[str, ...] = ()  # [N] where it stands: those of one site may leave together; empty: unknown


@dataclass(frozen=True, slots=True)
class LotLost:
    """The link of a lot ended without goodbye."""

    lot: LotId


@dataclass(frozen=True, slots=True)
class LotLeft:
    """A lot said goodbye: all its vehicles have left."""

    lot: LotId


@dataclass(frozen=True, slots=True)
class SpeedsMeasured:
    """What the executor of a lot can run now; replaces what it said before."""

    lot: LotId
    speeds: dict[str, ModelSpeed]


@dataclass(frozen=True, slots=True, eq=False)
class Habits:
    """What the forecast is told of stays. Columns of equal length N, of the vehicle's own clock."""

    cohort: NDArray[np.intp]  # [N] place among the cohorts of the forecast
    hour_of_week: NDArray[np.float64]  # [N] hours since Monday 00:00
    age_s: NDArray[np.float64]  # [N] since it was plugged in
    pace: NDArray[np.float64]  # [N] its seconds in one of the coordinator's
    declared: NDArray[np.bool_]  # [N] whether the owner has said that it leaves at `until_s`


@dataclass(frozen=True, slots=True, eq=False)
class NodesOffered:
    """These vehicles are plugged in and would work. Columns of equal length N."""

    node: Rows
    until_s: NDArray[np.float64]  # [N] expected end of the window, coordinator seconds
    share: NDArray[np.float64]  # [N] part of the lot's speed, 0 to 1; 0 withdraws the offer
    habits: Habits | None = None  # nothing is known of them
    cost_per_h: NDArray[np.float64] | None = None  # [N] of an hour of work, in the unit of `value`; None: not told


@dataclass(frozen=True, slots=True, eq=False)
class NodesLeft:
    """These vehicles stopped serving. Columns of equal length N."""

    node: Rows
    cause: NDArray[np.uint8]  # [N] Cause


@dataclass(frozen=True, slots=True, eq=False)
class Beats:
    """These vehicles gave a sign of life."""

    node: Rows


@dataclass(frozen=True, slots=True, eq=False)
class NodesCordoned:
    """An operator wants these vehicles to get no new work, or to get work again."""

    node: Rows
    cordoned: bool


@dataclass(frozen=True, slots=True, eq=False)
class NodesDrained:
    """An operator wants these vehicles to finish what they hold and then leave."""

    node: Rows


@dataclass(frozen=True, slots=True)
class JobsSubmitted:
    """These jobs were asked for. Batch jobs wait for `JobsSaved`; interactive ones are placed at once."""

    jobs: tuple[JobSpec, ...]


@dataclass(frozen=True, slots=True)
class JobsSaved:
    """The store has recorded these submissions: they may run."""

    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class JobsClosed:
    """The store has recorded that these jobs ended: nobody asks the core for them any more."""

    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class JobsCancelled:
    """Nobody wants these jobs any more."""

    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class Progressed:
    """A lot reports on its leases. Its message is acknowledged once what it brought is recorded.

    One that comes again is known by its sequence, and of it only ends count, of leases that its lot still named
    when it came back: not its departures, since those who left may be back by now.
    """

    lot: LotId
    sequence: int  # of the message; 0: needs no acknowledgement
    reports: tuple[Report, ...]
    left: NodesLeft | None = None  # after the reports


Event = (
    LotJoined
    | LotLost
    | LotLeft
    | SpeedsMeasured
    | NodesOffered
    | NodesLeft
    | Beats
    | NodesCordoned
    | NodesDrained
    | JobsSubmitted
    | JobsSaved
    | JobsClosed
    | JobsCancelled
    | Progressed
)
