"""Reading a store: SQL over a connection that cannot write, payloads out of segments. Blocks; for one thread.

Every record is checked when it is read, and what is missing is said: nothing is served short.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from coordinator.core.effects import Outcome
from coordinator.core.events import JobId
from coordinator.core.ranges import Range
from coordinator.errors import Failure
from coordinator.store import DAMAGED, Corrupt, NoSuchJob, Results, StoredJob
from coordinator.store.opening import opened
from coordinator.store.rows import JOB, Row, check_failure, stored_job
from coordinator.store.segments import Kind, Place
from coordinator.store.segments import Reader as SegmentReader

_KEPT_RECORDS = 64  # of inputs read last: slices of a job follow each other
_ROWS = 4096  # of one query of results
_SCRUBBED_RECORDS = 64  # at a time: a few milliseconds between two reads that somebody waits for
_PLACE = "segment, offset, length"


class Reader:
    """Answers from what is committed. Raises Corrupt."""

    def __init__(self, name: str, database: Path, segments: Path) -> None:
        """`name` is the database's URI; `database` is how messages name it."""
        self._name = name
        self._database = database
        self._segments = SegmentReader(segments)
        self._connection: apsw.Connection | None = None  # made by the thread that reads
        self._records: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()

    def close(self) -> None:
        """Let go of the files."""
        self._segments.close()
        if self._connection is not None:
            self._connection.close()

    def jobs(self, where: str, values: tuple[Any, ...]) -> list[StoredJob]:
        """Recorded jobs that fit a condition."""
        return [stored_job(row) for row in self._query(f"SELECT {JOB} FROM jobs WHERE {where}", values)]

    def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order."""
        found: list[bytes] = []
        for first, count in ranges:
            at, end = first, first + count
            rows = self._query(
                f"SELECT first, items, {_PLACE} FROM inputs WHERE job = ?1 AND first < ?3 AND first >="
                " (SELECT max(first) FROM inputs WHERE job = ?1 AND first <= ?2) ORDER BY first",
                (job, first, end),
            )
            for row_first, items, *place in rows:
                if row_first > at:
                    break
                record = self._record_of(job, row_first, Place(*place))
                if len(record) != items:
                    break
                found.extend(record[at - row_first : end - row_first])
                at = row_first + items
            if at < end:
                raise Corrupt(f"{self._database} names no input {at} of job {job}; restore a backup")
        return found

    def _record_of(self, job: JobId, first: int, place: Place) -> list[bytes]:
        record = self._records.get((job, first))
        if record is None:
            record = self._records[job, first] = self._segments.read(Kind.INPUTS, job, first, place)
            if len(self._records) > _KEPT_RECORDS:
                self._records.popitem(last=False)
        return record

    def results(self, job: JobId, first: int, limit_bytes: int, damage: list[str] | None = None) -> Results:
        """Results from item `first` on, up to the first gap or a little over `limit_bytes`. Raises NoSuchJob.

        With `damage`, items of damaged records are DAMAGED, and what is wrong is added there.
        """
        self._query("BEGIN", ())  # results that are recorded meanwhile are not missing
        try:
            return self._results(job, first, limit_bytes, damage)
        finally:
            self._query("COMMIT", ())

    def _results(self, job: JobId, first: int, limit_bytes: int, damage: list[str] | None) -> Results:
        payloads: list[bytes] = []
        failures: dict[int, Failure] = {}
        item = first
        rows = self._query(
            f"SELECT first, items, {_PLACE} FROM results WHERE job = ?1 AND first >= coalesce("
            "(SELECT max(first) FROM results WHERE job = ?1 AND first <= ?2), ?2) ORDER BY first LIMIT ?3",
            (job, first, _ROWS),
        )
        failed = self._query(
            "SELECT item, code, message, checksum FROM failures WHERE job = ? AND item >= ? ORDER BY item LIMIT ?",
            (job, first, _ROWS),
        )
        row, failure = next(rows, None), next(failed, None)
        while limit_bytes > 0:
            while row is not None and row[0] + row[1] <= item:
                row = next(rows, None)
            if failure is not None and failure[0] == item:
                failures[item] = _failure(job, failure, damage)
                payloads.append(b"")
                item += 1
                failure = next(failed, None)
            elif row is not None and row[0] <= item:
                part = self._part(job, row, damage)[item - row[0] :]
                if not part:
                    part = [b""] * (row[0] + row[1] - item)
                    failures.update(dict.fromkeys(range(item, item + len(part)), DAMAGED))
                payloads.extend(part)
                limit_bytes -= sum(map(len, part))
                item += len(part)
                row = next(rows, None)
            else:
                break
        if item == first and damage is None:
            stored = self.jobs("job = ?", (job,))
            if not stored:
                raise NoSuchJob
            if stored[0].outcome is Outcome.DONE and item < stored[0].spec.items:
                raise Corrupt(f"{self._database} names no result {item} of job {job}; restore a backup")
        return Results(payloads, failures)

    def _part(self, job: JobId, row: Row, damage: list[str] | None) -> list[bytes]:
        """The record that a row of `results` names; empty: it is damaged, and that is told, as when a row is that
        denies its record."""
        try:
            record = self._segments.read(Kind.RESULTS, job, row[0], Place(*row[2:]))
        except Corrupt as corrupt:
            _tell(corrupt, damage)
            return []
        if len(record) != row[1]:
            _tell(Corrupt(f"{self._database} is damaged at job {job}; restore a backup"), damage)
        return record

    def next_settled(self, job: JobId, first: int) -> int | None:
        """The first item from `first` on with a result or a failure whose record begins there or later."""
        ((found,),) = self._query(
            "SELECT min(item) FROM (SELECT min(first) AS item FROM results WHERE job = ?1 AND first >= ?2"
            " UNION ALL SELECT min(item) FROM failures WHERE job = ?1 AND item >= ?2)",
            (job, first),
        )
        return None if found is None else int(found)

    def rows(self, query: str, values: tuple[Any, ...]) -> list[Row]:
        """What a query finds."""
        return list(self._query(query, values))

    def delete(self, segments: Sequence[int]) -> None:
        """Delete segments that nothing names any more."""
        for segment in segments:
            self._segments.delete(segment)

    def scrub(self, kind: Kind, after: tuple[int, int]) -> tuple[tuple[int, int] | None, list[str]]:
        """Check a few records of a kind, those that follow this (job, first item).

        Gives the last of them, None at the end, and what was found wrong.
        """
        rows = list(
            self._query(
                f"SELECT job, first, {_PLACE} FROM {kind.table} WHERE (job, first) > (?, ?)"
                " ORDER BY job, first LIMIT ?",
                (*after, _SCRUBBED_RECORDS),
            )
        )
        troubles = []
        for job, first, *place in rows:
            try:
                self._segments.read(kind, job, first, Place(*place))
            except Corrupt as corrupt:
                troubles.append(str(corrupt))
        return ((rows[-1][0], rows[-1][1]) if rows else None), troubles

    def _query(self, query: str, values: tuple[Any, ...]) -> Iterator[Row]:
        try:
            if self._connection is None:
                self._connection = opened(self._name, apsw.SQLITE_OPEN_READONLY)
            return iter(self._connection.execute(query, values).fetchall())
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise Corrupt(f"{self._database} is damaged: {error}; restore a backup") from None


def _failure(job: JobId, row: Row, damage: list[str] | None) -> Failure:
    """What a row of `failures` tells, or DAMAGED."""
    try:
        check_failure(job, *row)
    except Corrupt as corrupt:
        _tell(corrupt, damage)
        return DAMAGED
    return Failure(row[1], row[2])


def _tell(corrupt: Corrupt, damage: list[str] | None) -> None:
    """Add it, or, where nobody takes it in, raise it."""
    if damage is None:
        raise corrupt
    damage.append(str(corrupt))
