"""The durable store: one SQLite database for what is decided, segments for payloads, both in one folder.

One thread writes and one reads; the event loop waits for neither.

    <folder>/carpool.db      jobs, where their payloads are, how they ended
    <folder>/segments/       payloads
    <folder>/files/          contents of documents
    <folder>/committed       number and chain of the last commit
    <folder>/lock            held while a process uses the folder
"""

import asyncio
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic, perf_counter, time
from typing import TypeVar

from coordinator.core.bits import mask
from coordinator.core.effects import EndRecord, FailureRecord, JobRecord, Record, ResultsRecord
from coordinator.core.events import JobId
from coordinator.core.ranges import Range
from coordinator.items import Items
from coordinator.store import (
    Committed,
    Corrupt,
    Full,
    Intake,
    Operation,
    Results,
    StoredJob,
    StoreState,
    Submission,
)
from coordinator.store.contents import CONTENTS, Contents
from coordinator.store.filing import Filing
from coordinator.store.opening import DATABASE, SEGMENTS, opened_store
from coordinator.store.reading import Reader
from coordinator.store.rows import JOB, check_failure, stored_job
from coordinator.store.segments import Appender, Kind
from coordinator.store.writing import Append, Commit, Forget, SegmentIntake, Writer

_ROOM_FOR_S = 0.5  # free space is looked at so often
_SCRUB_S = 0.5  # between two looks of the scrub: at most 8 MiB a second (assumed to disturb nobody)
_RECENT_BYTES = 64 << 20  # inputs of small jobs that are kept in memory until they ended

_T = TypeVar("_T")


class SqliteStore:
    """The store in a folder. Make it before the loop serves: it checks what is there.

    Raises Corrupt, Occupied, and OSError when the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        observe: Callable[[float, int], None] = lambda duration_s, operations: None,
        *,
        free_bytes: int = 0,
        in_memory: bool = False,
    ) -> None:
        """`observe` is told of each commit: seconds from the oldest of its operations' handing in, operations.

        With less than `free_bytes` on its disk no submission is taken in. With `in_memory` the database is; the
        segments are in the folder all the same.
        """
        self._folder = folder
        self._database = folder / DATABASE
        self._observe = observe
        self._free_bytes = free_bytes
        name = f"file:/carpool-{id(self)}?vfs=memdb" if in_memory else ""
        with ExitStack() as files:
            connection, mark, last = files.enter_context(opened_store(folder, name))
            appender = Appender(folder / SEGMENTS, last.record)
            files.callback(appender.close)
            self._writer = Writer(connection, appender, folder, mark, last.commit, self._tell)
            self._writer.boot()
            ((epoch, newest),) = connection.execute("SELECT epoch, newest FROM commits")
            self._connection = connection
            self._files = files.pop_all()
        self.epoch = int(epoch)
        """Number of this start, from 1: no earlier process of this folder had it."""
        self.newest_job = JobId(int(newest))
        """The newest job that was recorded before, whether it is still kept or not; 0 when there is none."""
        self._room: tuple[float, int, int] = (-inf, 0, 0)  # when it was looked at, bytes free, of the disk
        self._opened = (time(), monotonic())
        self._unanswered = 0  # commits handed in
        self._waiting = 0  # operations in them
        self._recent: dict[JobId, list[bytes]] = {}
        self._recent_bytes = 0
        self._readers = ThreadPoolExecutor(1, "store-reader")
        self._reader = Reader(name or f"file:{self._database}", self._database, folder / SEGMENTS)
        contents = Contents(folder / CONTENTS, self._check_room)
        contents.clear({name for (name,) in connection.execute("SELECT name FROM documents WHERE sha256 NOT NULL")})
        self.documents = Filing(
            contents, self._writer.put, lambda query, values: self._read(lambda reader: reader.rows(query, values))
        )
        """What fronts keep beside jobs."""
        self._writer.start()

    def intake(self, job: JobId, model: str) -> Intake:
        """Begin to take a job's inputs in. Raises Full."""
        self._check_room()
        return SegmentIntake(job, model, self._append)

    def commit(self, operations: Sequence[Operation], committed: Committed) -> None:
        """Record operations, all or none, after all that was handed in before; an empty commit waits its turn."""
        if not operations and not self._unanswered:
            committed(None)
            return
        for record, submission, _ in operations:
            if isinstance(record, JobRecord):
                assert submission is not None
                self._remember(submission)
            elif isinstance(record, EndRecord):
                self._recent_bytes -= sum(map(len, self._recent.pop(record.job, ())))
        self._unanswered += 1
        self._waiting += len(operations)
        self._writer.put(Commit(operations, committed, perf_counter()))

    async def find(self, tenant: str, key: str) -> StoredJob | None:
        """The recorded job of a tenant under this idempotency key."""
        found = await self._read(lambda reader: reader.jobs("tenant = ? AND key = ?", (tenant, key)))
        return found[0] if found else None

    async def job(self, job: JobId) -> StoredJob | None:
        """A recorded job."""
        found = await self._read(lambda reader: reader.jobs("job = ?", (job,)))
        return found[0] if found else None

    async def jobs(self, tenant: str, limit: int) -> list[StoredJob]:
        """The newest recorded jobs of a tenant, the newest first."""
        newest = "tenant = ? ORDER BY job DESC LIMIT ?"
        return await self._read(lambda reader: reader.jobs(newest, (tenant, limit)))

    async def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of these items, in order."""
        recent = self._recent.get(job)
        if recent is not None:
            return [payload for first, count in ranges for payload in recent[first : first + count]]
        return await self._read(lambda reader: reader.inputs(job, ranges))

    async def results(self, job: JobId, first: int, limit_bytes: int, damage: list[str] | None = None) -> Results:
        """Results from item `first` on, as far as they are recorded, but not much over `limit_bytes`.

        Raises NoSuchJob. With `damage` nothing is raised: an item whose record is damaged is a failure, DAMAGED,
        and what is wrong with the record is added there; what is missing is a gap.
        """
        return await self._read(lambda reader: reader.results(job, first, limit_bytes, damage))

    async def next_settled(self, job: JobId, first: int) -> int | None:
        """The first settled item from `first` on, which is not settled itself; None: there are no more."""
        return await self._read(lambda reader: reader.next_settled(job, first))

    def live(self) -> Iterator[Record]:
        """What was recorded of jobs that have not ended: each job, followed by what is settled of it.

        Before the first commit. Raises Corrupt.
        """
        settled = self._connection.execute(
            "SELECT job, first, results.items, NULL, NULL, NULL FROM results JOIN jobs USING (job)"
            " WHERE outcome IS NULL UNION ALL"
            " SELECT job, item, 1, code, message, failures.checksum FROM failures JOIN jobs USING (job)"
            " WHERE outcome IS NULL ORDER BY 1, 2"
        )
        following = next(settled, None)
        for row in self._connection.execute(f"SELECT {JOB} FROM jobs WHERE outcome IS NULL ORDER BY job"):
            stored = stored_job(row)
            yield JobRecord(stored.spec, stored.age_s)
            items = 0
            while following is not None and following[0] == stored.spec.job:
                job, first, count, code, message, checksum = following
                items += count
                if code is None:
                    yield ResultsRecord(job, 0, ((first, count),), mask(count), mask(count))
                else:
                    check_failure(job, first, code, message, checksum)
                    yield FailureRecord(job, first, code, message)
                following = next(settled, None)
            if items != stored.done + stored.failed:
                raise Corrupt(
                    f"{self._database} has {items} settled items of job {stored.spec.job}, and"
                    f" {stored.done + stored.failed} were recorded; restore a backup"
                )

    async def forget(self, older_s: float, over_bytes: int, spare_s: float, watched: Collection[JobId] = ()) -> int:
        """Forget some finished jobs: any that ended `older_s` ago, and while the payloads of all jobs are more than
        `over_bytes` those that ended first, `spare_s` ago at least; none that is `watched`. Gives how many; 0:
        there are no more.

        Ages are by the wall clock, which may be set meanwhile: what ended since this start is no older than it.
        """
        done: asyncio.Future[tuple[int, list[int]]] = asyncio.get_running_loop().create_future()
        before, spared = (self._ended_before(age_s) for age_s in (older_s, spare_s))
        self._writer.put(Forget(before, spared, over_bytes, watched, done))
        jobs, segments = await done
        if segments:
            await self._read(lambda reader: reader.delete(segments))  # whoever read of them has what it wanted
        return jobs

    async def scrub(self, trouble: Callable[[str], None]) -> None:
        """Go through all that is stored, slowly and for ever, and tell what is damaged."""
        while True:
            for kind in Kind:
                after: tuple[int, int] | None = (0, -1)
                while after is not None:
                    await asyncio.sleep(_SCRUB_S)
                    try:
                        after, troubles = await self._read(partial(Reader.scrub, kind=kind, after=after))
                    except Corrupt as corrupt:  # the database itself: what follows is not found any more
                        after, troubles = None, [str(corrupt)]
                    for message in troubles:
                        trouble(message)
            try:
                await self.documents.scrub(partial(asyncio.sleep, _SCRUB_S), trouble)
            except Corrupt as corrupt:
                trouble(str(corrupt))

    def state(self) -> StoreState:
        """How it is now."""
        with suppress(OSError):
            log_bytes = os.stat(f"{self._database}-wal").st_size
            return StoreState(self._waiting, log_bytes, *self._free())
        return StoreState(self._waiting, 0, *self._free())

    def close(self) -> None:
        """Finish what was handed in, and let go of everything."""
        self._writer.close()
        self._readers.submit(self._reader.close).result()
        self._readers.shutdown()
        self._files.close()

    async def _read(self, read: Callable[[Reader], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, read, self._reader)

    def _append(self, append: Append) -> None:
        self._check_room()
        self._writer.put(append)

    def _ended_before(self, age_s: float) -> float:
        opened_wall_s, opened_s = self._opened
        before = time() - age_s
        return before if monotonic() - opened_s >= age_s else min(before, opened_wall_s)

    def _remember(self, submission: Submission) -> None:
        """Keep the inputs of a small job at hand: it may run in a moment."""
        intake = submission.intake
        assert isinstance(intake, SegmentIntake), "an intake of this store"
        if intake.written is None and self._recent_bytes + intake.bytes <= _RECENT_BYTES:
            self._recent[intake.job] = Items.joined(intake.held).each()
            self._recent_bytes += intake.bytes

    def _check_room(self) -> None:
        free, _ = self._free()
        if free < self._free_bytes:
            raise Full(
                f"the coordinator's disk has {free >> 20} MiB free and takes nothing in below "
                f"{self._free_bytes >> 20} MiB; free some space or send it again later"
            )

    def _free(self) -> tuple[int, int]:
        looked_s, free, size = self._room
        if monotonic() - looked_s > _ROOM_FOR_S:
            disk = os.statvfs(self._folder)
            free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            self._room = (monotonic(), free, size)
        return free, size

    def _tell(self, commits: Sequence[Commit], error: Exception | None, over_s: float) -> None:
        """On the loop: these commits are over, since `over_s`."""
        operations = sum(len(commit.operations) for commit in commits)
        if operations and error is None:
            self._observe(over_s - commits[0].handed_in_s, operations)
        self._waiting -= operations
        for commit in commits:
            self._unanswered -= 1
            commit.committed(error)
