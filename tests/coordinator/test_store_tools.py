"""What operators do with a folder of state: check it, copy it while it is written to."""

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from coordinator.core.effects import EndRecord, FailureRecord, Outcome
from coordinator.core.events import JobId
from coordinator.store import Operation, segments
from coordinator.store.backup import NotCopied, backup
from coordinator.store.checks import Checked, check
from coordinator.store.opening import Occupied
from coordinator.store.sqlite import SqliteStore
from tests.coordinator.test_store import commit, play, results, submission


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of a finished, a failed and a live job, which nobody uses."""
    path = tmp_path / "state"
    store = SqliteStore(path)

    async def scene() -> None:
        for job in (1, 2, 3):
            await commit(store, await submission(store, job, [b"input"] * 5))
        await commit(store, results(1, ((0, 5),), 0b11111, 0b11111, b"answer"))
        await commit(store, Operation(EndRecord(JobId(1), Outcome.DONE)))
        await commit(store, results(2, ((0, 4),), 0b1111, 0b1111, b"other"))
        await commit(store, Operation(FailureRecord(JobId(2), 4, "model", "it raised")))
        await commit(store, Operation(EndRecord(JobId(2), Outcome.DONE)))
        await commit(store, results(3, ((2, 1),), 1, 1, b"early"))

    play(scene())
    store.close()
    return path


def flip(path: Path, wanted: bytes) -> None:
    """Change one bit of these bytes in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(wanted)] ^= 1
    path.write_bytes(data)


def carpool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_sound_store_has_no_troubles(folder: Path) -> None:
    found = check(folder)
    assert found == Checked(jobs=3, items=15, results=10, bytes=found.bytes)
    assert found.bytes > 15 * len(b"input")


def test_a_flipped_input_a_flipped_result_and_a_flipped_failure_are_named(folder: Path) -> None:
    segment = folder / "segments" / "segment-00000001"
    flip(segment, b"inputinput")
    flip(segment, b"answer0")
    flip(folder / "carpool.db", b"it raised")
    troubles = "\n".join(check(folder).troubles)
    assert f"{segment} at byte 8: " in troubles
    assert "job 1 has 0 inputs, 0 results and 0 failures, and 5, 5 and 0 were recorded" in troubles
    assert "the database's row of item 4 of job 2 is damaged" in troubles
    assert "job 3" not in troubles


def test_a_store_in_use_is_not_checked(folder: Path) -> None:
    store = SqliteStore(folder)
    with pytest.raises(Occupied, match="is in use by another coordinator"):
        check(folder)
    store.close()


def test_a_copy_that_was_taken_while_jobs_came_in_is_a_store(folder: Path, tmp_path: Path) -> None:
    store = SqliteStore(folder)

    async def scene() -> None:
        copying = asyncio.create_task(asyncio.to_thread(backup, folder, tmp_path / "copy"))
        job = 10
        while not copying.done():
            await commit(store, await submission(store, job, [b"more"] * 200))
            job += 1
        assert await copying > 0

    play(scene())
    store.close()
    assert check(tmp_path / "copy").troubles == []
    copy = SqliteStore(tmp_path / "copy")

    async def look() -> None:
        assert (await copy.results(JobId(1), 0, 1 << 20)).payloads == [b"answer%d" % item for item in range(5)]

    play(look())
    copy.close()


def test_a_copy_goes_to_a_new_folder_only(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotCopied, match="is there already; give a new folder"):
        backup(folder, folder)
    with pytest.raises(NotCopied, match="holds no store; give the folder of --state"):
        backup(tmp_path / "nothing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_rows_that_contradict_each_other_are_named(folder: Path) -> None:
    connection = apsw.Connection(str(folder / "carpool.db"))
    connection.execute("INSERT INTO failures SELECT job, 2, code, message, checksum FROM failures")
    connection.execute(
        "INSERT INTO inputs SELECT 99, first, items, segment, offset, length FROM inputs WHERE job = 1"
    )
    connection.execute("UPDATE segments SET live = live + 1")
    connection.close()
    troubles = "\n".join(check(folder).troubles)
    assert "item 2 of job 2 has a result and a failure; restore a backup" in troubles
    assert "has 1 rows of inputs that belong to no job; restore a backup" in troubles
    assert "bytes of segment 1, and " in troubles


def test_a_copy_and_what_the_original_becomes_have_no_epoch_in_common(folder: Path, tmp_path: Path) -> None:
    backup(folder, tmp_path / "copy")
    copy, original = SqliteStore(tmp_path / "copy"), SqliteStore(folder)
    assert copy.epoch > original.epoch + 100
    copy.close()
    original.close()


def test_a_vacuum_leaves_what_is_alive_and_gives_the_rest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 18)
    folder = tmp_path / "state"
    store = SqliteStore(folder)

    async def fill() -> None:
        for job in range(1, 21):
            await commit(store, await submission(store, job, [bytes([job]) * 20_000] * 2))
            if job % 4:
                await commit(store, results(job, ((0, 2),), 0b11, 0b11, b"%d." % job))
                await commit(store, Operation(EndRecord(JobId(job), Outcome.DONE)))
        assert await store.forget(-1.0, 1 << 30, 0.0) == 15

    play(fill())
    store.close()
    used = sum(path.stat().st_size for path in folder.rglob("*"))
    done = carpool("store", "vacuum", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{folder}: ")
    assert sum(path.stat().st_size for path in folder.rglob("*")) < used / 2
    assert check(folder) == Checked(jobs=5, items=10, results=0, bytes=check(folder).bytes)
    again = SqliteStore(folder)

    async def look() -> None:
        for job in range(4, 21, 4):
            assert await again.inputs(JobId(job), [(0, 2)]) == [bytes([job]) * 20_000] * 2
        await commit(again, await submission(again, 21, [b"after"]))

    play(look())
    again.close()
    assert check(folder).troubles == []


def test_a_vacuum_of_a_damaged_store_changes_nothing_of_it(folder: Path) -> None:
    store = SqliteStore(folder)

    async def forget() -> None:
        assert await store.forget(-1.0, 1 << 30, 0.0) == 2

    play(forget())
    store.close()
    segment = folder / "segments" / "segment-00000001"
    flip(segment, b"early")
    before = segment.read_bytes()
    refused = carpool("store", "vacuum", folder)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{segment} at byte" in refused.stderr
    assert segment.read_bytes() == before
    nothing = carpool("store", "vacuum", folder / "segments")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.endswith("holds no store; give the folder of --state\n")


def test_the_commands_say_what_they_found(folder: Path, tmp_path: Path) -> None:
    sound = carpool("store", "check", folder)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.startswith(f"{folder}: 3 jobs, 15 inputs, 10 results, ")
    assert sound.stdout.endswith(" bytes; no troubles\n")
    copied = carpool("store", "backup", folder, tmp_path / "copy")
    assert (copied.returncode, copied.stdout.split(": ")[0]) == (0, str(tmp_path / "copy"))
    flip(folder / "segments" / "segment-00000001", b"answer0")
    damaged = carpool("store", "check", folder)
    assert damaged.returncode == 1
    assert damaged.stdout.endswith(" bytes; 2 troubles\n")
    nothing = carpool("store", "backup", folder, tmp_path / "copy")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr == f"carpool: {tmp_path / 'copy'} is there already; give a new folder\n"
