"""Loss of power: what a disk holds at some instant, mounted afresh, has everything that was acknowledged by then.

The state is on a file system in an image file. While clients submit, the coordinator is stopped for a moment and
the image copied: what was written and not synced is not in the copy. A coordinator that syncs less must lose.
"""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.client import Client
from tests.faults.durable import Handed, submit
from tests.live import PATIENCE_S, Cluster, Coordinator, until

IMAGE_MIB = 96
CLIENTS = 8
CUTS = 4
BETWEEN_CUTS = 60  # submissions acknowledged


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The file system in an image; skips where there is no loop device to be had."""
    folder.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"an image cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty file system in a file."""
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting an image takes root and mkfs.ext4 (package e2fsprogs)")
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


async def cut_power(live: Cluster, image: Path, folder: Path) -> list[tuple[Path, dict[Handed, str]]]:
    """Copies of the disk at some instants while clients submit, each with what was acknowledged by then."""
    cuts: list[tuple[Path, dict[Handed, str]]] = []
    acknowledged: dict[Handed, str] = {}
    numbers = itertools.count()

    async def client() -> None:
        async with Client(live.coordinator.grpc) as client:
            while len(cuts) < CUTS:
                handed = Handed(f"key-{next(numbers)}", 3)
                acknowledged[handed] = (await submit(client, handed)).job_id

    async def cut() -> None:
        for number in range(1, CUTS + 1):

            async def enough(wanted: int = number * BETWEEN_CUTS) -> bool | None:
                return True if len(acknowledged) >= wanted else None

            await until(enough)
            live.coordinator.process.send_signal(signal.SIGSTOP)
            until_now = dict(acknowledged)
            copy = folder / f"cut-{number}"
            await asyncio.to_thread(shutil.copyfile, image, copy)
            live.coordinator.process.send_signal(signal.SIGCONT)
            cuts.append((copy, until_now))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cut())
        for _ in range(CLIENTS):
            tasks.create_task(client())
    return cuts


def play(image: Path, tmp_path: Path, module: str) -> list[int]:
    """For each cut, how many acknowledged submissions are not on that disk; all of them when it is refused."""
    config = tmp_path / "carpool.toml"
    config.write_text("[store]\nfree_bytes = 0\n")
    flags = ("--config", str(config), "--state")
    with mounted(image, tmp_path / "state") as state:
        live = Cluster(Coordinator(*flags, str(state), module=module))
        live.add("lot")
        try:
            cuts = asyncio.run(asyncio.wait_for(cut_power(live, image, tmp_path), 60))
        finally:
            for process in (*live.lots.values(), live.coordinator.process):
                process.kill()
                process.communicate(timeout=PATIENCE_S)
    lost = []
    for number, (copy, acknowledged) in enumerate(cuts):
        with mounted(copy, tmp_path / f"afresh-{number}") as folder:
            try:
                after = Coordinator(*flags, str(folder))
            except AssertionError:
                lost.append(len(acknowledged))
                continue
            try:
                lost.append(asyncio.run(missing(after.grpc, acknowledged)))
            finally:
                after.process.kill()
                after.process.communicate(timeout=PATIENCE_S)
    return lost


async def missing(target: str, acknowledged: dict[Handed, str]) -> int:
    """How many of these jobs a coordinator does not know."""
    async with Client(target) as client:
        known = {job.idempotency_key: job.job_id for job in await client.jobs(limit=10_000)}
    return sum(known.get(handed.key) != job_id for handed, job_id in acknowledged.items())


def test_nothing_acknowledged_is_lost_with_the_power(image: Path, tmp_path: Path) -> None:
    assert play(image, tmp_path, "coordinator") == [0] * CUTS


def test_a_coordinator_that_syncs_less_loses_what_it_acknowledged(image: Path, tmp_path: Path) -> None:
    assert any(play(image, tmp_path, "tests.faults.careless"))
