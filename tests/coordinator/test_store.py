"""What every store promises, asked of all of them."""

import asyncio
import shutil
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import apsw
import pytest

from coordinator.core.effects import EndRecord, FailureRecord, JobRecord, Outcome, ResultsRecord
from coordinator.core.events import JobId, JobSpec
from coordinator.errors import Failure
from coordinator.items import Items
from coordinator.store import DAMAGED, Corrupt, NoSuchJob, Operation, Store, Submission, checkpoints, segments
from coordinator.store.checks import check
from coordinator.store.memory import MemoryStore
from coordinator.store.opening import Occupied
from coordinator.store.schema import migrate
from coordinator.store.sqlite import SqliteStore

Opened = Callable[[], Store]
SCENE_S = 30.0
TABLES = ("jobs", "inputs", "results", "failures", "segments", "commits", "documents", "sizes")


@pytest.fixture(params=["memory", "sqlite in memory", "sqlite on disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One of each."""
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = SqliteStore(tmp_path, free_bytes=0, in_memory=request.param == "sqlite in memory")
    yield made
    made.close()


def play(scene: Awaitable[None]) -> None:
    """Run a test's coroutine."""

    async def within() -> None:
        async with asyncio.timeout(SCENE_S):
            await scene

    asyncio.run(within())


async def commit(store: Store, *operations: Operation) -> None:
    """Record these, and wait for it."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def committed(error: Exception | None) -> None:
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    store.commit(operations, committed)
    await done


async def submission(
    store: Store, job: int, inputs: Sequence[bytes], *, key: str = "", tenant: str = "local", **more: Any
) -> Operation:
    """A job of these inputs, handed in by the hundred."""
    intake = store.intake(JobId(job), "noop")
    for first in range(0, len(inputs), 100):
        await intake.add(Items.of(inputs[first : first + 100]))
    deadline_s, work = more.get("deadline_s", inf), more.get("item_work", 1.0)
    spec = JobSpec(JobId(job), tenant, "grpc", "noop", len(inputs), 1, False, deadline_s, 1.0, key, work)
    return Operation(JobRecord(spec), Submission(spec, intake))


def results(job: int, ranges: tuple[tuple[int, int], ...], reported: int, accepted: int, tag: bytes) -> Operation:
    """A report on these ranges."""
    payloads = [tag + b"%d" % bit for bit in range(reported.bit_length()) if reported >> bit & 1]
    return Operation(ResultsRecord(JobId(job), 0, ranges, reported, accepted), payloads=payloads)


def test_inputs_come_back_in_order_whatever_their_sizes(store: Store) -> None:
    async def scene() -> None:
        inputs = [bytes([at % 251]) * (at * 37 % 3000) + b"." for at in range(700)]
        inputs[350] = b"large" * 100_000
        await commit(store, await submission(store, 1, inputs), await submission(store, 2, [b"small"]))
        assert await store.inputs(JobId(1), [(0, 700)]) == inputs
        assert await store.inputs(JobId(1), [(345, 10), (3, 1), (699, 1)]) == [
            *inputs[345:355],
            inputs[3],
            inputs[699],
        ]
        assert await store.inputs(JobId(2), [(0, 1)]) == [b"small"]

    play(scene())


def test_results_come_back_as_far_as_there_is_no_gap(store: Store) -> None:
    async def scene() -> None:
        job = JobId(1)
        await commit(store, await submission(store, 1, [b"x"] * 10))
        assert (await store.results(job, 0, 1 << 20)).payloads == []
        await commit(store, results(1, ((0, 2), (6, 2)), 0b1111, 0b1101, b"a"))  # items 0, 6 and 7
        assert (await store.results(job, 0, 1 << 20)).payloads == [b"a0"]
        await commit(store, results(1, ((1, 4),), 0b1011, 0b1011, b"b"))  # items 1, 2 and 4
        await commit(store, Operation(FailureRecord(job, 3, "model", "it raised")))
        found = await store.results(job, 0, 1 << 20)
        assert found.payloads == [b"a0", b"b0", b"b1", b"", b"b3"]
        assert found.failures == {3: Failure("model", "it raised")}
        assert (await store.results(job, 2, 1 << 20)).payloads == [b"b1", b"", b"b3"]
        assert (await store.results(job, 0, 3)).payloads in ([b"a0", b"b0"], [b"a0", b"b0", b"b1"])
        await commit(store, results(1, ((5, 5),), 0b10001, 0b10001, b"c"), results(1, ((8, 1),), 1, 1, b"d"))
        found = await store.results(job, 4, 1 << 20)
        assert found.payloads == [b"b3", b"c0", b"a2", b"a3", b"d0", b"c4"]
        assert (await store.results(job, 10, 1 << 20)).payloads == []

    play(scene())


def test_a_job_is_found_by_its_number_and_by_its_tenants_key(store: Store) -> None:
    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"x"] * 3, key="k", deadline_s=inf))
        await commit(store, await submission(store, 2, [b"y"], key="k", tenant="other"))
        await commit(store, await submission(store, 3, [b"z"]))
        mine, theirs = await store.find("local", "k"), await store.find("other", "k")
        assert mine is not None
        assert theirs is not None
        assert (mine.spec.job, theirs.spec.job) == (1, 2)
        assert await store.find("local", "other") is None
        assert await store.find("local", "") is None
        assert [job.spec.job for job in await store.jobs("local", 10)] == [3, 1]
        assert [job.spec.job for job in await store.jobs("local", 1)] == [3]
        again = await store.job(JobId(1))
        assert again is not None
        assert (again.spec, again.digest) == (mine.spec, mine.digest)
        assert await store.job(JobId(9)) is None
        same = store.intake(JobId(4), "noop")
        await same.add(Items.of([b"x", b"x"]))
        await same.add(Items.of([b"x"]))
        assert same.digest == mine.digest
        other = store.intake(JobId(5), "noop")
        await other.add(Items.of([b"xx", b"x"]))
        assert other.digest != mine.digest

    play(scene())


def test_counts_and_the_end_are_kept(store: Store) -> None:
    async def scene() -> None:
        job = JobId(1)
        await commit(store, await submission(store, 1, [b"x"] * 3))
        await commit(store, results(1, ((0, 3),), 0b101, 0b101, b"a"))
        await commit(
            store, Operation(FailureRecord(job, 1, "model", "no")), Operation(EndRecord(job, Outcome.DONE))
        )
        stored = await store.job(job)
        assert stored is not None
        assert (stored.done, stored.failed, stored.outcome) == (2, 1, Outcome.DONE)
        assert [*store.live()] == []

    play(scene())


def test_what_has_not_ended_is_given_for_a_restart(store: Store) -> None:
    async def scene() -> None:
        for job in (1, 2, 3):
            await commit(store, await submission(store, job, [b"x"] * 4))
        await commit(store, results(1, ((0, 4),), 0b0110, 0b0110, b"a"))
        await commit(store, Operation(FailureRecord(JobId(1), 3, "model", "no")))
        await commit(store, Operation(EndRecord(JobId(2), Outcome.CANCELLED)))
        records = [*store.live()]
        assert [record.spec.job for record in records if isinstance(record, JobRecord)] == [1, 3]
        settled = {
            first + offset
            for record in records
            if isinstance(record, ResultsRecord) and record.job == 1
            for first, count in record.ranges
            for offset in range(count)
        }
        assert settled == {1, 2}
        assert FailureRecord(JobId(1), 3, "model", "no") in records

    play(scene())


def test_commits_are_answered_in_the_order_in_which_they_were_handed_in(store: Store) -> None:
    async def scene() -> None:
        answered: list[int] = []
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        jobs = [await submission(store, job, [b"x"]) for job in range(1, 101)]
        for number, job in enumerate(jobs):
            store.commit([job] if number % 3 else [], partial(lambda number, _: answered.append(number), number))
        store.commit([], lambda error: over.set_result(None))
        await over
        assert answered == [*range(100)]
        assert len(await store.jobs("local", 1000)) == 66

    play(scene())


def test_a_scrub_finds_a_damaged_record_and_a_read_of_it_refuses(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"precious"]), await submission(store, 2, [b"sound"]))
        await commit(store, results(1, ((0, 1),), 1, 1, b"answer"), results(2, ((0, 1),), 1, 1, b"other"))
        (segment,) = (tmp_path / "segments").iterdir()
        data = bytearray(segment.read_bytes())
        data[data.index(b"answer")] ^= 1
        segment.write_bytes(data)
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        scrubbing = asyncio.create_task(store.scrub(found.set_result))
        assert f"{segment} at byte" in await found
        scrubbing.cancel()
        with pytest.raises(Corrupt, match="checksum does not fit its bytes; restore a backup"):
            await store.results(JobId(1), 0, 100)
        assert (await store.results(JobId(2), 0, 100)).payloads == [b"other0"]

    play(scene())
    store.close()


def test_where_damage_is_asked_for_only_items_of_damaged_records_fail(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        job = JobId(1)
        await commit(store, await submission(store, 1, [b"x"] * 8))
        await commit(store, results(1, ((0, 2),), 0b11, 0b11, b"a"), results(1, ((2, 3),), 0b111, 0b111, b"b"))
        await commit(store, Operation(FailureRecord(job, 5, "model", "it raised")))
        await commit(store, Operation(FailureRecord(job, 6, "model", "it raised")))
        await commit(store, results(1, ((7, 1),), 1, 1, b"c"), Operation(EndRecord(job, Outcome.DONE)))
        (segment,) = (tmp_path / "segments").iterdir()
        segment.write_bytes(segment.read_bytes().replace(b"b1", b"b7"))
        connection = apsw.Connection(str(tmp_path / "carpool.db"))
        connection.execute("UPDATE failures SET message = 'it rained' WHERE item = 6")
        connection.execute("UPDATE jobs SET items = 9")
        connection.execute("UPDATE results SET items = 4 WHERE first = 0")  # which its record denies
        damage: list[str] = []
        found = await store.results(job, 0, 1 << 20, damage)
        assert found.payloads == [b"a0", b"a1", b"", b"", b"", b"", b"", b"c0"]
        assert found.failures == {**dict.fromkeys((2, 3, 4, 6), DAMAGED), 5: Failure("model", "it raised")}
        count, record, row = damage
        assert count == f"{tmp_path / 'carpool.db'} is damaged at job 1; restore a backup"
        assert f"{segment} at byte" in record
        assert row == "the database's row of item 6 of job 1 is damaged; restore a backup"
        assert (await store.results(job, 3, 1 << 20, damage)).payloads == found.payloads[3:]
        assert (await store.results(job, 8, 1 << 20, damage)).payloads == [], "its row is not wanted"
        with pytest.raises(Corrupt, match="checksum does not fit its bytes; restore a backup"):
            await store.results(job, 2, 1 << 20)
        connection.close()

    play(scene())
    store.close()


def test_a_store_that_lost_its_newest_commits_is_refused(tmp_path: Path) -> None:
    folder, older = tmp_path / "state", tmp_path / "older"

    async def scene(store: SqliteStore, job: int) -> None:
        await commit(store, await submission(store, job, [b"x"]))

    for job in (1, 2):
        store = SqliteStore(folder)
        play(scene(store, job))
        store.close()
        if job == 1:
            shutil.copytree(folder, older)
    shutil.copy(older / "carpool.db", folder / "carpool.db")
    (folder / "carpool.db-wal").unlink(missing_ok=True)
    with pytest.raises(Corrupt, match=r"the database ends at commit 2, and commit 4 was acknowledged"):
        SqliteStore(folder)


def test_one_process_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(Occupied, match="in use by another coordinator; stop that one or choose another folder"):
        SqliteStore(tmp_path)
    store.close()
    again = SqliteStore(tmp_path)
    assert (store.epoch, again.epoch) == (1, 2)
    again.close()


def test_a_store_on_a_disk_says_how_much_of_it_is_free(store: Store, tmp_path: Path) -> None:
    state, disk = store.state(), shutil.disk_usage(tmp_path)
    if isinstance(store, MemoryStore):
        assert (state.free_bytes, state.disk_bytes) == (0, 0)
    else:
        assert state.disk_bytes == disk.total
        assert 0 < state.free_bytes < disk.total


def test_a_key_names_one_job_in_the_database_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"x"], key="k"))
        with pytest.raises(apsw.ConstraintError):
            await commit(store, await submission(store, 2, [b"y"], key="k"))

    play(scene())
    store.close()


def test_large_submissions_do_not_stay_in_memory(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        intake = store.intake(JobId(1), "noop")
        tracemalloc.start()
        for part in range(64):
            await intake.add(Items.of([bytes([part]) * 1000] * 1000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert intake.bytes == 64_000_000
        assert peak < 16_000_000
        spec = JobSpec(JobId(1), "local", "grpc", "noop", intake.items, 1000, False, inf, 1.0)
        await commit(store, Operation(JobRecord(spec), Submission(spec, intake)))
        assert await store.inputs(JobId(1), [(63_500, 2)]) == [bytes([63]) * 1000] * 2

    play(scene())
    store.close()


def test_the_work_of_an_item_survives_a_restart_and_is_checked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"x"]), await submission(store, 2, [b"x"], item_work=2.5))

    play(scene())
    store.close()
    again = SqliteStore(tmp_path)
    assert [record.spec.item_work for record in again.live() if isinstance(record, JobRecord)] == [1.0, 2.5]
    again.close()
    connection = apsw.Connection(str(tmp_path / "carpool.db"))
    connection.execute("UPDATE jobs SET item_work = 3.5 - item_work")
    connection.close()
    assert [trouble.partition("; ")[0] for trouble in check(tmp_path).troubles] == [
        f"the database's row of job {job} is damaged" for job in (1, 2)
    ]


def test_a_scrub_goes_on_when_the_database_itself_is_damaged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"x"]))

    play(scene())
    store.close()
    damaged = SqliteStore(tmp_path)

    async def look() -> None:
        found: asyncio.Queue[str] = asyncio.Queue()
        scrubbing = asyncio.create_task(damaged.scrub(found.put_nowait))
        assert "carpool.db is damaged" in await found.get()
        assert not scrubbing.done()
        scrubbing.cancel()

    with (tmp_path / "carpool.db").open("r+b") as file:
        pages = file.seek(0, 2) // 4096
        for page in range(1, pages):
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)
    (tmp_path / "carpool.db-wal").write_bytes(b"")
    play(look())
    damaged.close()


async def finished(store: Store, job: int, size: int, key: str = "") -> None:
    """A job of one input of so many bytes that is done."""
    await commit(store, await submission(store, job, [b"x" * size], key=key))
    await commit(store, results(job, ((0, 1),), 1, 1, b"y"))
    await commit(store, Operation(EndRecord(JobId(job), Outcome.DONE)))


def test_finished_jobs_are_forgotten_by_age_and_others_are_not(store: Store) -> None:
    async def scene() -> None:
        await finished(store, 1, 10, key="k")
        await commit(store, await submission(store, 2, [b"live"], key="l"))
        await finished(store, 3, 10)
        assert await store.forget(60.0, 1 << 30, 0.0) == 0
        assert await store.forget(-1.0, 1 << 30, 0.0) == 2
        assert await store.forget(-1.0, 1 << 30, 0.0) == 0
        assert [job.spec.job for job in await store.jobs("local", 10)] == [2]
        assert (await store.job(JobId(1)), await store.find("local", "k")) == (None, None)
        with pytest.raises(NoSuchJob):
            await store.results(JobId(1), 0, 100)
        assert await store.inputs(JobId(2), [(0, 1)]) == [b"live"]
        await finished(store, 4, 10, key="k")
        again = await store.find("local", "k")
        assert again is not None
        assert again.spec.job == 4

    play(scene())


def test_finished_jobs_are_forgotten_when_there_is_too_much_the_first_that_ended_first(store: Store) -> None:
    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"x" * 10_000]))
        for job in (3, 2, 5, 4):
            await finished(store, job, 10_000)
        assert await store.forget(60.0, 35_000, 60.0) == 0, "they ended just now"
        assert await store.forget(60.0, 60_000, -1.0) == 0
        assert await store.forget(60.0, 35_000, -1.0) == 2
        assert await store.forget(60.0, 35_000, -1.0) == 0
        assert [job.spec.job for job in await store.jobs("local", 10)] == [5, 4, 1]
        assert await store.forget(60.0, 0, -1.0) == 2
        assert [job.spec.job for job in await store.jobs("local", 10)] == [1], "what is live stays"

    play(scene())


def test_a_segment_is_deleted_when_nothing_alive_is_in_it_nor_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 18)
    store = SqliteStore(tmp_path)

    def files() -> list[str]:
        return sorted(path.name[-1] for path in (tmp_path / "segments").iterdir())

    async def scene() -> None:
        await finished(store, 1, 150_000)
        await finished(store, 2, 150_000)
        slow = store.intake(JobId(3), "noop")  # begins in segment 2 and goes on in others
        await slow.add(Items.of([b"a" * 70_000]))
        for part in (b"b", b"c", b"d"):
            await slow.add(Items.of([part * 70_000]))
        await commit(store, await submission(store, 4, [b"z" * 150_000]))
        assert files() == ["1", "2", "3", "4"]
        assert await store.forget(-1.0, 1 << 30, 0.0) == 2
        assert files() == ["2", "3", "4"], "what is on its way is not deleted"
        spec = JobSpec(JobId(3), "local", "grpc", "noop", slow.items, 1, False, inf, 1.0)
        await commit(store, Operation(JobRecord(spec), Submission(spec, slow)))
        assert await store.inputs(JobId(3), [(0, 1), (3, 1)]) == [b"a" * 70_000, b"d" * 70_000]
        for job in (3, 4):
            await commit(store, Operation(EndRecord(JobId(job), Outcome.CANCELLED)))
        assert await store.forget(-1.0, 1 << 30, 0.0) == 2
        assert files() == ["4"], "the last one stays"

    play(scene())
    store.close()
    again = SqliteStore(tmp_path)
    assert again.newest_job == 4, "the number of a forgotten job is not given again"
    again.close()


def test_a_job_whose_results_are_fetched_is_not_forgotten(store: Store) -> None:
    async def scene() -> None:
        await finished(store, 1, 10)
        await finished(store, 2, 10)
        assert await store.forget(-1.0, 1 << 30, 0.0, {JobId(1)}) == 1
        assert [job.spec.job for job in await store.jobs("local", 10)] == [1]

    play(scene())


def test_a_submission_that_broke_off_leaves_no_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 18)
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        broken = store.intake(JobId(1), "noop")
        for _ in range(12):
            await broken.add(Items.of([b"x" * 70_000]))
        await commit(store)
        assert len([*(tmp_path / "segments").iterdir()]) == 4
        assert await store.forget(60.0, 1 << 30, 0.0) == 0
        assert len([*(tmp_path / "segments").iterdir()]) == 4, "it goes on"
        del broken
        assert await store.forget(60.0, 1 << 30, 0.0) == 0
        assert len([*(tmp_path / "segments").iterdir()]) == 1

    play(scene())
    store.close()


def test_a_store_without_its_database_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        await finished(store, 1, 10)

    play(scene())
    store.close()
    (tmp_path / "carpool.db").unlink()
    (tmp_path / "committed").unlink()
    with pytest.raises(Corrupt, match="holds payloads of another; restore all of a backup"):
        SqliteStore(tmp_path)
    assert [*(tmp_path / "segments").iterdir()]


def test_the_log_stays_short_while_commits_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_LONG", 64)
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        longest = 0
        for job in range(1, 400):
            await finished(store, job, 10)
            longest = max(longest, store.state().log_bytes)
        assert 64 * 4096 < longest < 1024 * 4096, "some 12 pages a commit, 1,200 commits"
        assert (await store.results(JobId(399), 0, 100)).payloads == [b"y0"]

    play(scene())
    store.close()
    assert check(tmp_path).troubles == []


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def before() -> None:
        await finished(store, 6, 1000)
        await finished(store, 7, 1000)

    play(before())
    store.close()
    connection = apsw.Connection(str(tmp_path / "carpool.db"))
    rows = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    for table in TABLES:
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version = 0")
    migrate(connection, to=1)
    connection.execute("DELETE FROM commits")
    for table in TABLES:
        for row in rows[table]:
            known = {"commits": row[:5], "jobs": row[:-1]}.get(table, row)
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(known))})", known)
    connection.execute("UPDATE segments SET records = 4")
    connection.close()
    (old,) = check(tmp_path).troubles
    assert old.endswith("is of version 1, this Carpool reads 4; start a coordinator on it once")
    again = SqliteStore(tmp_path)
    assert again.newest_job == 7

    async def after() -> None:
        assert (await again.results(JobId(7), 0, 100)).payloads == [b"y0"]
        assert await again.forget(60.0, 1500, -1.0) == 1, "it knows how much is alive"

    play(after())
    again.close()
    assert check(tmp_path).troubles == []
