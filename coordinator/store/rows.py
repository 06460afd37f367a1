"""Rows of the database that are more than places: how they are written, read and checked."""

from collections.abc import Sequence
from math import inf
from time import monotonic, time
from typing import Any
from zlib import crc32

from coordinator.core.effects import Outcome
from coordinator.core.events import JobId, JobSpec
from coordinator.store import Corrupt, StoredJob

Row = tuple[Any, ...]

JOB = (
    "job, tenant, api, model, items, item_bytes, deadline, value, key, digest, submitted, item_work, checksum,"
    " done, failed, outcome"
)


def job_row(spec: JobSpec, digest: bytes) -> Row:
    """A submission as its row is inserted."""
    now_s = time()
    deadline = None if spec.deadline_s == inf else now_s + spec.deadline_s - monotonic()
    row = (
        spec.job,
        spec.tenant,
        spec.api,
        spec.model,
        spec.items,
        spec.item_bytes,
        deadline,
        spec.value,
        spec.key or None,
        digest,
        now_s,
        spec.item_work,
    )
    return (*row, _job_checksum(row))


def stored_job(row: Row) -> StoredJob:
    """The job of a row of the columns JOB. Raises Corrupt."""
    *fixed, checksum, done, failed, outcome = row
    job, tenant, api, model, items, item_bytes, deadline, value, key, digest, submitted, item_work = fixed
    if _job_checksum(fixed) != checksum or done + failed > items or outcome not in _OUTCOMES:
        raise Corrupt(f"the database's row of job {job} is damaged; restore a backup")
    now_s = time()
    deadline_s = inf if deadline is None else monotonic() + deadline - now_s
    spec = JobSpec(
        JobId(job), tenant, api, model, items, item_bytes, False, deadline_s, value, key or "", item_work
    )
    return StoredJob(spec, digest, max(0.0, now_s - submitted), done, failed, _OUTCOMES[outcome])


def _job_checksum(fixed: Sequence[object]) -> int:
    """Usual work is left out, as in rows of before it was kept."""
    *rest, item_work = fixed
    return checksum_of(*(rest if item_work == 1.0 else fixed))


_OUTCOMES: dict[str | None, Outcome | None] = {None: None, **{outcome.value: outcome for outcome in Outcome}}


def check_failure(job: int, item: int, code: str, message: str, checksum: int) -> None:
    """Raises Corrupt unless a row of `failures` is as it was written."""
    if checksum_of(job, item, code, message) != checksum:
        raise Corrupt(f"the database's row of item {item} of job {job} is damaged; restore a backup")


def checksum_of(*values: object) -> int:
    """What is kept in a row to know that the rest of it is as it was written."""
    return crc32(repr(values).encode())
