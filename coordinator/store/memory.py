"""The store that forgets everything when the process ends: for tests and for a first look."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic, perf_counter
from typing import assert_never

from coordinator.core.effects import EndRecord, FailureRecord, JobRecord, Outcome, Record, ResultsRecord
from coordinator.core.events import JobId
from coordinator.core.lease import ranges_of
from coordinator.core.ranges import Range
from coordinator.errors import Failure
from coordinator.items import Items
from coordinator.store import (
    Committed,
    Intake,
    NoSuchJob,
    Operation,
    Results,
    StoredJob,
    StoreState,
    Submission,
    accepted_payloads,
)
from coordinator.store.memory_documents import MemoryDocuments


class _Intake(Intake):
    """Inputs in a list."""

    def __init__(self, job: JobId, model: str) -> None:
        super().__init__(job, model)
        self.inputs: list[bytes] = []

    async def _keep(self, items: Items) -> None:
        self.inputs.extend(items.each())


@dataclass(slots=True)
class _Job:
    submission: Submission
    inputs: list[bytes]
    submitted_s: float
    results: list[bytes | None]
    done: int = 0
    failures: dict[int, Failure] = field(default_factory=dict)
    outcome: Outcome | None = None
    ended_s: float = inf
    bytes: int = 0  # of inputs and results


class MemoryStore:
    """Everything in dictionaries; a commit is done when it is asked for."""

    def __init__(
        self, observe: Callable[[float, int], None] = lambda duration_s, operations: None, file_bytes: float = inf
    ) -> None:
        """`observe` is told of each commit: its seconds, its operations. `file_bytes` bounds contents."""
        self.epoch, self.newest_job = 1, JobId(0)
        self._observe = observe
        self.documents = MemoryDocuments(file_bytes)
        """What fronts keep beside jobs."""
        self._jobs: dict[JobId, _Job] = {}
        self._keys: dict[tuple[str, str], JobId] = {}

    def intake(self, job: JobId, model: str) -> Intake:
        """Begin to take a job's inputs in."""
        return _Intake(job, model)

    def commit(self, operations: Sequence[Operation], committed: Committed) -> None:
        """Record operations at once."""
        started_s = perf_counter()
        for operation in operations:
            self._record(operation)
        if operations:
            self._observe(perf_counter() - started_s, len(operations))
        committed(None)

    async def find(self, tenant: str, key: str) -> StoredJob | None:
        """The recorded job of a tenant under this idempotency key."""
        job = self._keys.get((tenant, key))
        return None if job is None else self._stored(self._jobs[job])

    async def job(self, job: JobId) -> StoredJob | None:
        """A recorded job."""
        return self._stored(self._jobs[job]) if job in self._jobs else None

    async def jobs(self, tenant: str, limit: int) -> list[StoredJob]:
        """The newest recorded jobs of a tenant, the newest first."""
        newest = [
            job for _, job in sorted(self._jobs.items(), reverse=True) if job.submission.spec.tenant == tenant
        ]
        return [self._stored(job) for job in newest[:limit]]

    async def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order."""
        inputs = self._jobs[job].inputs
        return [payload for first, count in ranges for payload in inputs[first : first + count]]

    async def results(self, job: JobId, first: int, limit_bytes: int, damage: list[str] | None = None) -> Results:
        """Results from item `first` on, as far as they are recorded, but not much over `limit_bytes`.

        Raises NoSuchJob, without `damage`. Nothing is damaged.
        """
        stored = self._jobs.get(job)
        if stored is None:
            if damage is None:
                raise NoSuchJob
            return Results([], {})
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

    async def next_settled(self, job: JobId, first: int) -> int | None:
        """The first settled item from `first` on; None: there are no more."""
        settled = enumerate(self._jobs[job].results[first:] if job in self._jobs else (), first)
        return next((item for item, payload in settled if payload is not None), None)

    def live(self) -> Iterable[Record]:
        """What was recorded of jobs that have not ended: each job, followed by what is settled of it."""
        for job_id, job in self._jobs.items():
            if job.outcome is not None:
                continue
            yield JobRecord(job.submission.spec, monotonic() - job.submitted_s)
            for item, payload in enumerate(job.results):
                if item in job.failures:
                    failure = job.failures[item]
                    yield FailureRecord(job_id, item, failure.code, failure.message)
                elif payload is not None:
                    yield ResultsRecord(job_id, 0, ((item, 1),), 1, 1)

    async def forget(self, older_s: float, over_bytes: int, spare_s: float, watched: Collection[JobId] = ()) -> int:
        """Forget finished jobs: any that ended `older_s` ago, and while the payloads of all jobs are more than
        `over_bytes` those that ended first, `spare_s` ago at least; none that is `watched`. Gives how many."""
        now_s, kept = monotonic(), sum(job.bytes for job in self._jobs.values())
        ended = sorted((job.ended_s, job_id) for job_id, job in self._jobs.items() if job.outcome is not None)
        forgotten = 0
        for ended_s, job_id in ended:
            if ended_s >= now_s - older_s and (ended_s >= now_s - spare_s or kept <= over_bytes):
                break
            if job_id in watched:
                continue
            spec = self._jobs[job_id].submission.spec
            kept -= self._jobs.pop(job_id).bytes
            self._keys.pop((spec.tenant, spec.key), None)
            forgotten += 1
        return forgotten

    async def scrub(self, trouble: Callable[[str], None]) -> None:
        """Nothing is on a disk."""
        await asyncio.get_running_loop().create_future()

    def state(self) -> StoreState:
        """Nothing waits, nothing is written."""
        return StoreState()

    def close(self) -> None:
        """Nothing is held."""

    def _stored(self, job: _Job) -> StoredJob:
        spec, digest = job.submission.spec, job.submission.intake.digest
        return StoredJob(spec, digest, monotonic() - job.submitted_s, job.done, len(job.failures), job.outcome)

    def _record(self, operation: Operation) -> None:
        match operation.record:
            case JobRecord(spec):
                submission = operation.submission
                assert submission is not None
                assert isinstance(submission.intake, _Intake), "an intake of this store"
                assert not spec.key or (spec.tenant, spec.key) not in self._keys, "a key names one job"
                intake = submission.intake
                none: list[bytes | None] = [None] * spec.items
                self._jobs[spec.job] = _Job(submission, intake.inputs, monotonic(), none, bytes=intake.bytes)
                if spec.key:
                    self._keys[spec.tenant, spec.key] = spec.job
            case ResultsRecord() as record:
                job = self._jobs[record.job]
                payloads = accepted_payloads(record, operation.payloads)
                at = 0
                for first, count in ranges_of(record.ranges, record.accepted):
                    job.results[first : first + count] = payloads[at : at + count]
                    at += count
                job.done += at
                job.bytes += sum(map(len, payloads))
            case FailureRecord(job_id, item, code, message):
                self._jobs[job_id].failures[item] = Failure(code, message)
                self._jobs[job_id].results[item] = b""
            case EndRecord(job_id, outcome):
                self._jobs[job_id].outcome, self._jobs[job_id].ended_s = outcome, monotonic()
            case _:
                assert_never(operation.record)
