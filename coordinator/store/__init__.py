"""The store: what survives. Here is the contract; `memory` forgets with its process, `sqlite` does not.

A store owns submissions, inputs, results, failures and ends of batch jobs. It knows no lease and no node. The
order in which a driver uses it (save, then send, then answer) is `perform`'s.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol

from coordinator.core.bits import positions
from coordinator.core.effects import Outcome, Record, ResultsRecord
from coordinator.core.events import JobId, JobSpec
from coordinator.core.ranges import Range
from coordinator.errors import Failure
from coordinator.items import Items
from coordinator.store.documents import Documents

Committed = Callable[[Exception | None], None]
"""Called on the driver's loop when operations are durable, or with what kept them from it."""


class Corrupt(Exception):
    """What is stored is not what was written. The message says where, and what to do."""


class Full(Exception):
    """There is no room for another submission. The message says how much there is, the limit and the remedy."""


class NoSuchJob(LookupError):
    """No job of this number is recorded, or none any more."""


class Intake(ABC):
    """The inputs of one batch job on their way in. Nothing of it is recorded before its `Submission` is."""

    def __init__(self, job: JobId, model: str) -> None:
        self.job = job
        self.model = model
        self.items = 0
        self.bytes = 0
        self._payloads, self._lengths = sha256(), sha256()

    async def add(self, items: Items) -> None:
        """Take the next items. Raises Full."""
        self._payloads.update(items.payload)
        self._lengths.update(items.lengths)
        self.bytes += len(items.payload)
        self.items += len(items)
        await self._keep(items)

    @property
    def digest(self) -> bytes:
        """What must be equal for a key to name the same job: over the model and every item, with its length."""
        return sha256(self._payloads.digest() + self._lengths.digest() + self.model.encode()).digest()

    @abstractmethod
    async def _keep(self, items: Items) -> None:
        """Put items where the store will find them."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch job as its tenant handed it in."""

    spec: JobSpec
    intake: Intake


class Operation(NamedTuple):
    """One thing to record: what the core says of it, and the bytes that the core never sees."""

    record: Record
    submission: Submission | None = None  # of a JobRecord
    payloads: Sequence[bytes] = ()  # of a ResultsRecord: one for each bit of `reported`


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A recorded job, as far as it is recorded."""

    spec: JobSpec
    digest: bytes
    age_s: float  # since its submission
    done: int  # items
    failed: int
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class Results:
    """Settled items without a gap, from the first one asked for; a failed item's payload is empty."""

    payloads: list[bytes]
    failures: dict[int, Failure]  # by item


DAMAGED = Failure("damaged", "the result of this request was damaged on the coordinator's disk; send it again")
"""What becomes of an item whose record is damaged, where the others are wanted all the same."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """How a store is, for metrics."""

    waiting: int = 0  # operations that were handed in and are not recorded
    log_bytes: int = 0  # of the write-ahead log
    free_bytes: int = 0  # on its disk
    disk_bytes: int = 0  # of that disk, used or free; 0 without one


class Store(Protocol):
    """What every store promises. Reads see what is committed; they raise Corrupt rather than serve what is not."""

    epoch: int
    """Number of this start: no earlier process with this store had it."""
    newest_job: JobId
    """The newest job that was recorded before this start, whether it is kept or not; 0 when there is none."""

    @property
    def documents(self) -> Documents:
        """What fronts keep beside jobs."""

    def intake(self, job: JobId, model: str) -> Intake:
        """Begin to take a job's inputs in. Raises Full."""

    def commit(self, operations: Sequence[Operation], committed: Committed) -> None:
        """Record operations, all or none, after all that was handed in before; an empty commit waits its turn."""

    async def find(self, tenant: str, key: str) -> StoredJob | None:
        """The recorded job of a tenant under this idempotency key."""

    async def job(self, job: JobId) -> StoredJob | None:
        """A recorded job."""

    async def jobs(self, tenant: str, limit: int) -> list[StoredJob]:
        """The newest recorded jobs of a tenant, the newest first."""

    async def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order."""

    async def results(self, job: JobId, first: int, limit_bytes: int, damage: list[str] | None = None) -> Results:
        """Results from item `first` on, as far as they are recorded, but not much over `limit_bytes`.

        Raises NoSuchJob. With `damage` nothing is raised: an item whose record is damaged is a failure, DAMAGED,
        and what is wrong with the record is added there; what is missing is a gap.
        """

    async def next_settled(self, job: JobId, first: int) -> int | None:
        """The first settled item from `first` on, which is not settled itself; None: there are no more."""

    def live(self) -> Iterable[Record]:
        """What was recorded of jobs that have not ended, for `Scheduler.restore`."""

    async def forget(self, older_s: float, over_bytes: int, spare_s: float, watched: Collection[JobId] = ()) -> int:
        """Forget some finished jobs: any that ended `older_s` ago, and while the payloads of all jobs are more than
        `over_bytes` those that ended first, `spare_s` ago at least; none that is `watched`. Gives how many; 0:
        there are no more."""

    async def scrub(self, trouble: Callable[[str], None]) -> None:
        """Go through all that is stored, slowly and for ever, and tell what is damaged."""

    def state(self) -> StoreState:
        """How it is now."""

    def close(self) -> None:
        """Finish what was handed in, and let go of everything."""


def accepted_payloads(record: ResultsRecord, payloads: Sequence[bytes]) -> Sequence[bytes]:
    """Of a report's payloads, those of the items that were accepted."""
    if record.accepted == record.reported:
        return payloads
    at = {bit: place for place, bit in enumerate(positions(record.reported))}
    return [payloads[at[bit]] for bit in positions(record.accepted)]
