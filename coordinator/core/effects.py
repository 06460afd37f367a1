"""Orders of the core to whoever drives it: save, then send, then answer."""

from dataclasses import dataclass, field
from enum import Enum

from coordinator.core.events import JobId, JobSpec, LotId, Token
from coordinator.core.ranges import Range


class Outcome(Enum):
    """How a job ended. DONE: every item has a result or an error."""

    DONE = "done"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # an interactive request past its deadline


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Save: this submission. Restored, it was made `age_s` ago."""

    spec: JobSpec
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ResultsRecord:
    """Save (or, of an interactive job, hand on): results accepted from one report.

    `ranges` are the job's items in the order of the lease, `reported` the report's bitmap (one payload for each
    of its bits), `accepted` those of them that count.
    """

    job: JobId
    serial: int
    ranges: tuple[Range, ...]
    reported: int
    accepted: int


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Save (or hand on): this item failed for good."""

    job: JobId
    item: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class EndRecord:
    """Save (or hand on): the job ended."""

    job: JobId
    outcome: Outcome
    busy_s: tuple[tuple[Token, float], ...] = ()
    """Of an interactive job: accelerator-seconds that reports of its leases told, led they to a result or not."""


Record = JobRecord | ResultsRecord | FailureRecord | EndRecord


@dataclass(frozen=True, slots=True)
class Grant:
    """Send: lend these items to this vehicle."""

    lot: LotId
    node: int
    token: Token
    job: JobId
    model: str
    ranges: tuple[Range, ...]
    lease_s: float
    interactive: bool
    solo: bool
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Revoke:
    """Send: give this lease back."""

    lot: LotId
    token: Token
    cause: str  # cancelled, expired, unknown; yield: finish the items that run, then give it back


@dataclass(frozen=True, slots=True)
class Drop:
    """Send, with the welcome: these leases are not yours any more."""

    lot: LotId
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Send: finish what these vehicles hold, then let them leave."""

    lot: LotId
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Send: break this lot's link, so that it registers again if it is still there."""

    lot: LotId


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Send, after everything saved before it: the lot's messages up to this one are recorded."""

    lot: LotId
    sequence: int


Order = Grant | Revoke | Drop | Drain | Disconnect


@dataclass(slots=True)
class Effects:
    """What to do about a batch of events.

    `save` concerns batch jobs and is committed first; `acknowledge` waits for it, and for all that was saved
    before. `send` and `answer` have nothing to wait for: a grant of a batch job is only made when its submission
    is saved, and `answer` concerns interactive jobs, which are volatile.
    """

    save: list[Record] = field(default_factory=list)
    send: list[Order] = field(default_factory=list)
    answer: list[Record] = field(default_factory=list)
    acknowledge: list[Acknowledge] = field(default_factory=list)

    def record(self, interactive: bool, record: Record) -> None:
        """Note a record where it belongs: interactive jobs are answered, batch jobs are saved."""
        (self.answer if interactive else self.save).append(record)
