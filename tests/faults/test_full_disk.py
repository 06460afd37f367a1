"""A full disk: submissions are refused with a sentence, what was taken in goes on, and it ends by itself.

The disk is a small tmpfs that root mounts; whoever is not root cannot run this.
"""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.client import Client, Job
from coordinator.errors import CarpoolError
from tests.faults.durable import Handed, collect, submit
from tests.live import Cluster, cluster, until

DISK_MIB = 40
FREE_BYTES = 8 << 20
LEFT_BYTES = 4 << 20
REFUSED = (
    r"the coordinator's disk has \d MiB free and takes nothing in below 8 MiB; "
    "free some space or send it again later"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk, mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def free_bytes(disk: Path) -> int:
    now = os.statvfs(disk)
    return now.f_bavail * now.f_frsize


def test_a_full_disk_refuses_submissions_until_there_is_room_again(disk: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[store]\nfree_bytes = {FREE_BYTES}\n")
    ballast = disk / "ballast"
    before, running, late = Handed("before", 50), Handed("running", 5000), Handed("late", 50)

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            first = await submit(client, before)
            assert (await collect(client, first.job_id))[0] == before.items
            await client.cordon(["car-0000"])
            second = await submit(client, running)
            ballast.write_bytes(bytes(free_bytes(disk) - LEFT_BYTES))

            async def refused() -> str | None:
                try:
                    await client.submit("noop", [b"no room"])
                except CarpoolError as error:
                    return str(error)
                return None

            async def taken_in() -> Job | None:
                try:
                    return (await client.submit("noop", late.items, idempotency_key=late.key))[0]
                except CarpoolError:
                    return None

            said = await until(refused)
            assert re.search(REFUSED, said), said
            await client.cordon(["car-0000"], cordoned=False)
            assert (await collect(client, second.job_id))[0] == running.items
            assert (await collect(client, first.job_id))[0] == before.items
            assert await refused() is not None
            ballast.unlink()
            third = await until(taken_in)
            assert (await collect(client, third.job_id))[0] == late.items

    with cluster("--config", str(config), "--state", str(disk), lots=1) as live:
        asyncio.run(work(live))


def test_a_disk_without_a_byte_holds_results_up_and_loses_none(disk: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[store]\nfree_bytes = 0\n")
    ballast = disk / "ballast"
    running = Handed("running", 50_000)

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            await client.cordon(["car-0000"])
            job = await submit(client, running)
            ballast.write_bytes(bytes(free_bytes(disk)))
            await client.cordon(["car-0000"], cordoned=False)

            async def at_work() -> Job | None:
                now = await client.job(job.job_id)
                return now if now.items_done > 0 else None

            await until(at_work)  # the lot reports, and nothing can be recorded
            assert live.coordinator.process.poll() is None
            ballast.unlink()
            results, failures, job = await collect(client, job.job_id)
            assert (results, failures, job.state) == (running.items, {}, "done")

    with cluster("--config", str(config), "--state", str(disk), lots=1) as live:
        asyncio.run(work(live))
