"""Flipped and truncated files: what is not as it was written is refused with a sentence, never served short.

Where the newest commits or records are damaged the coordinator does not start: something that was acknowledged
is gone, and only the operator has a backup. Where an older record is, everything else is served.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from coordinator.client import Client
from coordinator.errors import CarpoolError
from tests.faults.durable import Handed, collect, kill, refusal, start_again, submit
from tests.live import PATIENCE_S, Cluster, cluster

FINISHED = [Handed(f"finished {number}", 20) for number in range(30)]
LIVE = [Handed(f"live {number}", 20) for number in range(10)]
LARGE = Handed("large", 3, padding=100_000)
"""Each in a record of its own, and fetched beside the stream."""


def flip(path: Path, offset: int) -> None:
    """Another byte there; from the end when `offset` is negative."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(data)


def truncate(path: Path, by: int) -> None:
    """Without its last bytes."""
    data = path.read_bytes()
    path.write_bytes(data[:-by])


def log_of(state: Path) -> Path:
    return state / "carpool.db-wal"


def last_segment(state: Path) -> Path:
    return max((state / "segments").iterdir())


async def fill(live: Cluster) -> dict[Handed, str]:
    """Jobs that are done, and then jobs that nobody may run; their ids."""
    acknowledged: dict[Handed, str] = {}
    async with Client(live.coordinator.grpc) as client:
        await live.parked(client, 1)
        for handed in FINISHED:
            acknowledged[handed] = (await submit(client, handed)).job_id
            await collect(client, acknowledged[handed])
        await client.cordon(["car-0000"])
        for handed in (*LIVE, LARGE):
            acknowledged[handed] = (await submit(client, handed)).job_id
    return acknowledged


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a coordinator that was killed with jobs done and jobs to do."""
    with cluster("--state", str(tmp_path), lots=1) as live:
        asyncio.run(fill(live))
    return tmp_path


def flip_the_middle_of_the_log(state: Path) -> None:
    flip(log_of(state), log_of(state).stat().st_size // 2)


def truncate_the_log(state: Path) -> None:
    truncate(log_of(state), log_of(state).stat().st_size // 2)


def cut_the_last_commit_off_the_log(state: Path) -> None:
    truncate(log_of(state), 1)


def remove_the_log(state: Path) -> None:
    log_of(state).unlink()


def flip_the_note_of_the_last_commit(state: Path) -> None:
    flip(state / "committed", 0)


def empty_the_note_of_the_last_commit(state: Path) -> None:
    (state / "committed").write_bytes(b"")


def flip_the_last_record(state: Path) -> None:
    flip(last_segment(state), -1)


def truncate_the_last_segment(state: Path) -> None:
    truncate(last_segment(state), 1)


def remove_the_last_segment(state: Path) -> None:
    last_segment(state).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_the_middle_of_the_log, "its write-ahead log was damaged or removed; restore a backup"),
        (truncate_the_log, "its write-ahead log was damaged or removed; restore a backup"),
        (cut_the_last_commit_off_the_log, "its write-ahead log was damaged or removed; restore a backup"),
        (remove_the_log, "restore a backup"),
        (flip_the_note_of_the_last_commit, "the file `committed` beside the database is damaged"),
        (empty_the_note_of_the_last_commit, "the file `committed` beside the database is damaged"),
        (flip_the_last_record, "segment-00000001 at byte"),
        (truncate_the_last_segment, "segment-00000001 has"),
        (remove_the_last_segment, "segment-00000001 has"),
    ],
)
def test_a_coordinator_does_not_start_without_what_it_acknowledged_last(
    killed: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(killed)
    assert said in refusal("--state", str(killed))
    assert said in refusal("--state", str(killed)), "it was not mended by forgetting"


@pytest.mark.parametrize("offset", [0, 17, 18, 20])
def test_a_coordinator_does_not_start_with_a_damaged_database_header(killed: Path, offset: int) -> None:
    flip(killed / "carpool.db", offset)
    assert "carpool.db has a damaged header; restore a backup" in refusal("--state", str(killed))
    flip(killed / "carpool.db", offset)
    with cluster("--state", str(killed)) as live:
        live.coordinator.process.terminate()  # what stops in order leaves no log
        assert live.coordinator.process.wait(PATIENCE_S) == 0
    assert not log_of(killed).exists()
    flip(killed / "carpool.db", offset)
    assert "carpool.db has a damaged header; restore a backup" in refusal("--state", str(killed))


def after_damage(state: Path, text: bytes, scene: Callable[[Cluster, dict[Handed, str]], Awaitable[None]]) -> None:
    """Jobs, a kill, another byte where this text is in a segment for the last time, another start, the scene."""

    async def work(live: Cluster) -> None:
        acknowledged = await fill(live)
        kill(live)
        segment = last_segment(state)
        flip(segment, segment.read_bytes().rindex(text) + 1)
        start_again(live, "--state", str(state))
        await scene(live, acknowledged)

    with cluster("--state", str(state), lots=1) as live:
        asyncio.run(work(live))


def test_a_damaged_result_is_refused_and_all_others_are_served(tmp_path: Path) -> None:
    damaged = FINISHED[3]

    async def scene(live: Cluster, acknowledged: dict[Handed, str]) -> None:
        async with Client(live.coordinator.grpc) as client:
            with pytest.raises(CarpoolError, match=r"segment-00000001 at byte \d+: .* restore a backup$"):
                await collect(client, acknowledged[damaged])
            assert (await client.job(acknowledged[damaged])).state == "done"
            for handed, job_id in acknowledged.items():
                if handed != damaged:
                    assert (await collect(client, job_id))[0] == handed.items

    after_damage(tmp_path, damaged.items[10], scene)


@pytest.mark.parametrize(("damaged", "at", "failed"), [(LIVE[3], 10, range(20)), (LARGE, 1, [1])])
def test_a_damaged_record_of_inputs_is_never_run_and_all_others_are(
    tmp_path: Path, damaged: Handed, at: int, failed: Sequence[int]
) -> None:
    async def scene(live: Cluster, acknowledged: dict[Handed, str]) -> None:
        async with Client(live.coordinator.grpc) as client:
            for handed, job_id in acknowledged.items():
                results, failures, _ = await collect(client, job_id)
                if handed != damaged:
                    assert (results, failures) == (handed.items, {})
                    continue
                assert results == [b"" if item in failed else sent for item, sent in enumerate(handed.items)]
                assert failures.keys() == {*failed}
                for failure in failures.values():
                    assert re.search(r"segment-00000001 at byte \d+: .* restore a backup$", failure.message)

    after_damage(tmp_path, damaged.items[at], scene)
