"""The store: what survives. The contract, and the store that keeps everything in memory.

Owns submissions, inputs, results, failures and ends of batch jobs. Knows no lease and no node. The order in
which a driver uses it (save, then send, then answer) is `perform`'s.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple, Protocol, assert_never

from coordinator.core.bits import positions
from coordinator.core.effects import EndRecord, FailureRecord, JobRecord, Outcome, Record, ResultsRecord
from coordinator.core.events import JobId, JobSpec
from coordinator.core.lease import ranges_of
from coordinator.core.ranges import Range
from coordinator.errors import Failure

Committed = Callable[[Exception | None], None]
"""Called on the driver's loop when operations are durable, or with what kept them from it."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch job as its tenant handed it in."""

    spec: JobSpec
    inputs: Sequence[bytes]  # one for each item
    key: str = ""  # idempotency key; empty: none
    digest: bytes = b""  # over model and inputs: what must be equal for a key to be the same


class Operation(NamedTuple):
    """One thing to record: what the core says of it, and the bytes that the core never sees."""

    record: Record
    submission: Submission | None = None  # of a JobRecord
    payloads: Sequence[bytes] = ()  # of a ResultsRecord: one for each bit of `reported`


@dataclass(frozen=True, slots=True)
class Results:
    """Settled items without a gap, from the first one asked for; a failed item's payload is empty."""

    payloads: list[bytes]
    failures: dict[int, Failure]  # by item


class Store(Protocol):
    """What every store promises."""

    def commit(self, operations: Sequence[Operation], committed: Committed) -> None:
        """Record operations, all or none, after all that was handed in before; an empty commit waits its turn."""

    def find(self, tenant: str, key: str) -> Submission | None:
        """The recorded submission of a tenant under this idempotency key."""

    def key_of(self, job: JobId) -> str:
        """The idempotency key of a recorded job; empty when it has none."""

    def records(self) -> Iterable[Record]:
        """All that was recorded, for `Scheduler.restore`."""

    async def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order."""

    async def results(self, job: JobId, first: int, limit_bytes: int) -> Results:
        """Results from item `first` on, as far as they are recorded, but not much over `limit_bytes`."""


@dataclass(slots=True)
class _StoredJob:
    submission: Submission
    results: list[bytes | None]
    failures: dict[int, Failure] = field(default_factory=dict)
    ended: Outcome | None = None


class MemoryStore:
    """A store that forgets everything when the process ends: for tests and for a first look."""

    def __init__(self, observe: Callable[[float, int], None] = lambda duration_s, operations: None) -> None:
        """`observe` is told of each commit: its seconds, its operations."""
        self._observe = observe
        self._jobs: dict[JobId, _StoredJob] = {}
        self._keys: dict[tuple[str, str], JobId] = {}

    def commit(self, operations: Sequence[Operation], committed: Committed) -> None:
        """Record operations at once."""
        started_s = perf_counter()
        for operation in operations:
            self._record(operation)
        if operations:
            self._observe(perf_counter() - started_s, len(operations))
        committed(None)

    def find(self, tenant: str, key: str) -> Submission | None:
        """The recorded submission of a tenant under this idempotency key."""
        job = self._keys.get((tenant, key))
        return None if job is None else self._jobs[job].submission

    def key_of(self, job: JobId) -> str:
        """The idempotency key of a recorded job; empty when it has none."""
        return self._jobs[job].submission.key

    def records(self) -> Iterable[Record]:
        """All that was recorded: jobs in order, each followed by what is settled of it."""
        for job_id, job in self._jobs.items():
            yield JobRecord(job.submission.spec)
            for item, payload in enumerate(job.results):
                if item in job.failures:
                    failure = job.failures[item]
                    yield FailureRecord(job_id, item, failure.code, failure.message)
                elif payload is not None:
                    yield ResultsRecord(job_id, 0, ((item, 1),), 1, 1)
            if job.ended is not None:
                yield EndRecord(job_id, job.ended)

    async def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order."""
        inputs = self._jobs[job].submission.inputs
        return [payload for first, count in ranges for payload in inputs[first : first + count]]

    async def results(self, job: JobId, first: int, limit_bytes: int) -> Results:
        """Results from item `first` on, as far as they are recorded, but not much over `limit_bytes`."""
        stored = self._jobs[job]
        payloads: list[bytes] = []
        failures: dict[int, Failure] = {}
        for item in range(first, len(stored.results)):
            payload = stored.results[item]
            if payload is None or limit_bytes <= 0:
                break
            if not payload and item in stored.failures:
                failures[item] = stored.failures[item]
            payloads.append(payload)
            limit_bytes -= len(payload)
        return Results(payloads, failures)

    def _record(self, operation: Operation) -> None:
        match operation.record:
            case JobRecord(spec):
                submission = operation.submission
                assert submission is not None
                self._jobs[spec.job] = _StoredJob(submission, [None] * spec.items)
                if submission.key:
                    self._keys[spec.tenant, submission.key] = spec.job
            case ResultsRecord() as record:
                results = self._jobs[record.job].results
                payloads = accepted_payloads(record, operation.payloads)
                at = 0
                for first, count in ranges_of(record.ranges, record.accepted):
                    results[first : first + count] = payloads[at : at + count]
                    at += count
            case FailureRecord(job, item, code, message):
                self._jobs[job].failures[item] = Failure(code, message)
                self._jobs[job].results[item] = b""
            case EndRecord(job, outcome):
                self._jobs[job].ended = outcome
            case _:
                assert_never(operation.record)


def accepted_payloads(record: ResultsRecord, payloads: Sequence[bytes]) -> Sequence[bytes]:
    """Of a report's payloads, those of the items that were accepted."""
    if record.accepted == record.reported:
        return payloads
    at = {bit: place for place, bit in enumerate(positions(record.reported))}
    return [payloads[at[bit]] for bit in positions(record.accepted)]
