"""Writing a store: one thread, one connection. Whatever came while it was committing goes into the next commit.

The order that everything rests on is in `_commit`: payloads are synced, then the rows that name them are
committed, then it is told.
"""

import asyncio
import errno
import os
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep, time
from typing import Any, TypeVar, assert_never
from weakref import ref

import apsw

from coordinator.core.effects import EndRecord, FailureRecord, JobRecord, ResultsRecord
from coordinator.core.events import JobId
from coordinator.core.lease import ranges_of
from coordinator.items import Items
from coordinator.store import Committed, Full, Intake, Operation, accepted_payloads
from coordinator.store.checkpoints import Checkpoints
from coordinator.store.failpoints import reach
from coordinator.store.opening import SEGMENTS
from coordinator.store.recording import Recorder, Rows
from coordinator.store.rows import Row, checksum_of, job_row
from coordinator.store.segments import RECORD_BYTES, Appender, Kind, Place, numbers, parts_of

_MOST_OPERATIONS = 512  # in one commit
_FLUSH_BYTES = 1 << 20  # of submissions that are not complete, in memory
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_FORGOTTEN_JOBS, _FORGOTTEN_ROWS = 64, 20_000  # at a time, about: what is to be recorded waits for them
_RETRY_S = 0.25  # between two tries of a commit for which there was no room

_T = TypeVar("_T")


class SegmentIntake(Intake):
    """Inputs on their way into segments; what does not fill a record yet is held."""

    def __init__(self, job: JobId, model: str, append: Callable[["Append"], None]) -> None:
        super().__init__(job, model)
        self._append = append
        self.held: list[Items] = []
        self.held_bytes = 0
        self.written: asyncio.Future[None] | None = None  # the last that was handed to the writer
        self.rows: list[Row] = []  # of what is in segments already
        self.placed = 0  # items in `rows`

    async def _keep(self, items: Items) -> None:
        self.held.append(items)
        self.held_bytes += len(items.payload)
        if self.held_bytes > RECORD_BYTES:
            held, self.held, self.held_bytes = self.held, [], 0
            if self.written is not None:
                await self.written  # one is on its way while the next comes in
            self.written = asyncio.get_running_loop().create_future()
            self.written.add_done_callback(lambda written: written.cancelled() or written.exception())
            self._append(Append(self, held, self.written))


@dataclass(slots=True)
class Append:
    """Inputs of a submission that is not complete."""

    intake: SegmentIntake
    items: list[Items]
    written: asyncio.Future[None]


@dataclass(slots=True)
class Commit:
    """Operations to be recorded."""

    operations: Sequence[Operation]
    committed: Committed
    handed_in_s: float


@dataclass(slots=True)
class Forget:
    """Finished jobs to be forgotten: all that ended before `before`, by the wall clock, and while payloads are more
    than `over_bytes` those that ended first, up to `spared`.

    `done` gets how many they were, and the segments that are to be deleted.
    """

    before: float
    spared: float
    over_bytes: int
    watched: Collection[JobId]  # not these
    done: asyncio.Future[tuple[int, list[int]]]


@dataclass(slots=True)
class Put:
    """Documents to be recorded, and names of those to be forgotten, with whatever else is recorded then."""

    documents: Sequence[Row]
    dropped: Sequence[str]
    done: asyncio.Future[None]


Entry = Append | Commit | Forget | Put


class Writer:
    """The thread that writes. `tell` is called on the loop, in order, with commits and when they were over."""

    def __init__(
        self,
        connection: apsw.Connection,
        appender: Appender,
        folder: Path,
        mark: int,
        last: tuple[int, bytes],
        tell: Callable[[Sequence[Commit], Exception | None, float], None],
    ) -> None:
        """`last` is number and chain of the last commit, `mark` the file that keeps them."""
        self._connection = connection
        self._appender = appender
        self._folder = folder
        self._mark = mark
        self._open: dict[JobId, ref[SegmentIntake]] = {}  # with payloads that no row names yet
        self._recorder = Recorder(connection, mark, last)
        self._tell = tell
        self._checkpoints = Checkpoints(connection)
        self._loop: asyncio.AbstractEventLoop
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._failed: Exception | None = None  # nothing is recorded after a failure
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def boot(self) -> None:
        """Count this start of a coordinator, durably. Before `start`."""
        self._recorder.record(Rows(), boots=1)
        os.fsync(self._mark)

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Hand something in; from the loop."""
        self._loop = asyncio.get_running_loop()
        self._queue.put(entry)

    def close(self) -> None:
        """Finish what was handed in."""
        self._closing = True
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()
        self._checkpoints.close()

    def _run(self) -> None:
        over = False
        while not over:
            entries = [self._queue.get()]
            operations = 0
            while operations < _MOST_OPERATIONS:
                try:
                    entries.append(self._queue.get_nowait())
                except queue.Empty:
                    break
                if isinstance(entries[-1], Commit):
                    operations += len(entries[-1].operations)
            over = None in entries
            commits = [entry for entry in entries if isinstance(entry, Commit)]
            if self._failed is None:
                try:
                    self._handle(entries)
                except Exception as error:
                    self._failed = error
            over_s = perf_counter()
            if commits:
                reach("before_answer")
                self._loop.call_soon_threadsafe(self._tell, commits, self._failed, over_s)
            if self._failed is not None:
                for entry in entries:
                    if isinstance(entry, Append):
                        self._loop.call_soon_threadsafe(_settle, entry.written, None, self._failed)
                    elif isinstance(entry, Put):
                        self._loop.call_soon_threadsafe(_settle, entry.done, None, self._failed)
                    elif isinstance(entry, Forget):
                        self._loop.call_soon_threadsafe(_settle, entry.done, (0, []), self._failed)
            else:
                try:
                    self._checkpoints.go_on()
                except Exception as error:
                    self._failed = error

    def _handle(self, entries: Sequence[Entry | None]) -> None:
        rows = Rows()
        for entry in entries:
            if isinstance(entry, Append):
                self._place(entry.intake, entry.items)
                self._open[entry.intake.job] = ref(entry.intake)
                self._flush(entry)
            elif isinstance(entry, Commit):
                for operation in entry.operations:
                    self._stage(operation, rows)
            elif isinstance(entry, Put):
                rows.documents.extend(entry.documents)
                rows.dropped.extend(entry.dropped)
        puts = [entry for entry in entries if isinstance(entry, Put)]
        if puts or any(isinstance(entry, Commit) and entry.operations for entry in entries):
            self._commit(rows)
        for put in puts:
            self._loop.call_soon_threadsafe(_settle, put.done, None, None)
        for entry in entries:
            if isinstance(entry, Forget):
                self._loop.call_soon_threadsafe(_settle, entry.done, self._forget(entry), None)

    def _forget(self, forget: Forget) -> tuple[int, list[int]]:
        """Some of the jobs at a time: how many, and the segments in which nothing is left.

        It waits for no room: whatever else is to be recorded would wait with it.
        """
        rows, deleted = Rows(), 0

        def query(sql: str, *values: int) -> list[tuple[Any, ...]]:
            return self._connection.execute(sql, values).fetchall()

        ((named,),) = query("SELECT coalesce(sum(live), 0) FROM segments")
        places = " UNION ALL ".join(f"SELECT segment, length FROM {kind.table} WHERE job = ?1" for kind in Kind)
        for job, ended, failed in query(
            "SELECT job, ended, failed FROM jobs WHERE ended IS NOT NULL ORDER BY ended LIMIT ?", _FORGOTTEN_JOBS
        ):
            if ended >= forget.before and (ended >= forget.spared or named <= forget.over_bytes):
                break
            if job in forget.watched:
                continue
            rows.forgotten.append(job)
            deleted += failed
            for segment, freed, records in query(
                f"SELECT segment, sum(length), count(*) FROM ({places}) GROUP BY segment", job
            ):
                rows.freed[segment] += freed
                named -= freed
                deleted += records
            if deleted > _FORGOTTEN_ROWS:
                break
        intakes = {job: intake for job, weak in self._open.items() if (intake := weak()) is not None}
        self._open = {job: self._open[job] for job in intakes}
        needed = [intake.rows[0][3] for intake in intakes.values()]
        ((last,),) = query("SELECT coalesce(max(segment), 0) FROM segments")
        below = min([last, *needed])  # the last one stays
        dropped: list[int] = []
        if rows.forgotten or query("SELECT 1 FROM segments WHERE live = 0 AND segment < ? LIMIT 1", below):
            try:
                dropped = self._recorder.record(rows, drop_below=below)
            except (apsw.FullError, apsw.IOError):
                if not self._connection.get_autocommit():
                    self._connection.execute("ROLLBACK")
                return 0, []
        unnamed = numbers(self._folder / SEGMENTS) - {
            segment for (segment,) in query("SELECT segment FROM segments")
        }
        left = min([self._appender.number, *needed])  # of submissions that were never recorded
        return len(rows.forgotten), sorted({*dropped, *(segment for segment in unnamed if segment < left)})

    def _flush(self, append: Append) -> None:
        """Keep memory bounded while large submissions come in; one for which there is no room is told so."""
        full: Full | None = None
        try:
            if self._appender.buffered_bytes > _FLUSH_BYTES:
                self._appender.flush()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            full = Full("the coordinator's disk is full; submit again when there is room")
        self._loop.call_soon_threadsafe(_settle, append.written, None, full)

    def _place(self, intake: SegmentIntake, items: Sequence[Items]) -> None:
        for part in parts_of(Items.joined(items)) if items else ():
            place = self._append(Kind.INPUTS, intake.job, intake.placed, part)
            intake.rows.append((intake.job, intake.placed, len(part), *place))
            intake.placed += len(part)

    def _stage(self, operation: Operation, rows: Rows) -> None:
        """Place an operation's payloads and note its rows."""
        match operation.record:
            case JobRecord(spec):
                assert operation.submission is not None
                intake = operation.submission.intake
                assert isinstance(intake, SegmentIntake), "an intake of this store"
                self._place(intake, intake.held)
                rows.jobs.append(job_row(spec, intake.digest))
                rows.inputs.extend(intake.rows)
                self._open.pop(intake.job, None)
            case ResultsRecord() as record:
                payloads = accepted_payloads(record, operation.payloads)
                at = 0
                for first, count in ranges_of(record.ranges, record.accepted):
                    place = self._append(Kind.RESULTS, record.job, first, Items.of(payloads[at : at + count]))
                    rows.results.append((record.job, first, count, *place))
                    at += count
                rows.settled[record.job][0] += at
            case FailureRecord(job, item, code, message):
                rows.failures.append((job, item, code, message, checksum_of(job, item, code, message)))
                rows.settled[job][1] += 1
            case EndRecord(job, outcome):
                rows.ends.append((outcome.value, time(), job))
            case _:
                assert_never(operation.record)

    def _append(self, kind: Kind, job: int, first: int, items: Items) -> Place:
        return self._patiently(lambda: self._appender.append(kind, job, first, items))

    def _patiently(self, write: Callable[[], _T]) -> _T:
        """Write; where there is no room, wait for it."""
        while True:
            try:
                return write()
            except (OSError, apsw.FullError, apsw.IOError) as error:
                if not self._connection.get_autocommit():
                    self._connection.execute("ROLLBACK")
                no_room = isinstance(error, apsw.FullError) or getattr(error, "errno", None) in _NO_ROOM
                if not no_room and (isinstance(error, OSError) or self._room_for_a_page()):
                    raise
                if self._closing:
                    raise
                sleep(_RETRY_S)

    def _commit(self, rows: Rows) -> None:
        """Make it durable; waits for room where there is none."""
        self._patiently(self._appender.flush)
        self._appender.sync()  # whose failure is final: what it could not write, it may not try again
        reach("between_segment_and_row")
        self._patiently(lambda: self._recorder.record(rows))

    def _room_for_a_page(self) -> bool:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize > 1 << 20


def _settle(future: asyncio.Future[_T], result: _T, error: Exception | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
