"""Seen from the kernel: no answer leaves before the sync that covers it."""

import asyncio
import re
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from coordinator.client import Client
from tests.live import Cluster, cluster, until

JOBS = 20
CALLS = "pwrite64,write,fsync,fdatasync,sendmsg,sendto,writev"


def finished(trace: str) -> list[str]:
    """Calls in the order in which they ended, each on one line."""
    begun: dict[str, str] = {}
    calls = []
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif (resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call)) is not None:
            calls.append(begun.pop(thread, "") + resumed[1])
        else:
            calls.append(call)
    return calls


def test_no_answer_leaves_before_the_sync_that_covers_it(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("system calls are seen by strace (Debian package strace)")
    trace = tmp_path / "trace"

    async def scene(live: Cluster) -> list[str]:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            flags = ("-f", "-y", "-s", "5000", "-e", f"trace={CALLS}", "-o", str(trace))
            watched = ("-p", str(live.coordinator.process.pid))
            watching = await asyncio.create_subprocess_exec("strace", *flags, *watched, stderr=PIPE)
            assert watching.stderr is not None
            told = await watching.stderr.readline()
            if b"attached" not in told:
                pytest.skip(f"strace may not look here: {told.decode().strip()}")
            jobs = []
            for number in range(JOBS):
                job, _ = await client.submit(
                    "noop", [b"payload-%03d" % number], idempotency_key=f"key-{number:03d}"
                )
                jobs.append(job.job_id)

            async def done() -> bool | None:
                return True if all(job.state == "done" for job in await client.jobs(JOBS)) else None

            await until(done)
            watching.terminate()
            await watching.wait()
            return jobs

    with cluster("--state", str(tmp_path / "state"), lots=1) as live:
        jobs = asyncio.run(asyncio.wait_for(scene(live), 60))
    calls = finished(trace.read_text(errors="replace"))
    for number, job in enumerate(jobs):
        payload, key = f"payload-{number:03d}", f"key-{number:03d}"
        answered = first(calls, 0, "send", job)
        in_segment = first(calls, 0, "pwrite64", "/segment-", payload)
        segment_synced = first(calls, in_segment, "fdatasync", "/segment-")
        in_log = first(calls, segment_synced, "pwrite64", "carpool.db-wal", key)
        log_synced = first(calls, in_log, "sync", "carpool.db-wal")
        assert in_segment < segment_synced < in_log < log_synced < answered, job


def first(calls: list[str], after: int, *parts: str) -> int:
    """Where the first call after this one is that has all these parts."""
    return next(at for at, call in enumerate(calls) if at > after - 1 and all(part in call for part in parts))
