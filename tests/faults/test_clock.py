"""The coordinator's wall clock jumps by an hour, both ways: nothing is lost, expires or is redone."""

import asyncio
import time
from pathlib import Path

import apsw
import pytest

from coordinator.client import Client, Job
from tests.faults.durable import Handed, collect, metric
from tests.live import Cluster, cluster, until

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
SLOW_LOT = "tests.slow_lot"


def test_leases_and_heartbeats_do_not_follow_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not LIBRARY.exists():
        pytest.skip("the clock of one process is moved by libfaketime (Debian package libfaketime)")
    offset = tmp_path / "offset"
    offset.write_text("+0")

    async def scene(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 2)
            handed = Handed("key", 4_000)
            job, _ = await client.submit("noop", handed.items, idempotency_key=handed.key, deadline_s=3000.0)
            assert job.age_s < 60
            for part, moved in enumerate(("+3600", "-3600", "+0"), 1):

                async def further(wanted: int = part * 800) -> Job | None:
                    now = await client.job(job.job_id)
                    return now if now.items_done >= wanted else None

                await until(further)
                offset.write_text(moved)
                await client.submit("noop", [b"x"], idempotency_key=moved)
            results, failures, job = await collect(client, job.job_id)
            assert results == handed.items
            assert (failures, job.state) == ({}, "done")
            assert await metric(live, "carpool_leases_expired_total") == 0
            assert await metric(live, "carpool_node_departures_total") == 0
            assert await metric(live, "carpool_results_rejected_total") == 0

    with monkeypatch.context() as patched:
        patched.setenv("LD_PRELOAD", str(LIBRARY))
        patched.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
        patched.setenv("FAKETIME_NO_CACHE", "1")
        patched.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        opened = cluster("--state", str(tmp_path / "state"))
        live = opened.__enter__()
    try:
        for number in range(2):
            live.add(f"lot-{number}", first_index=number, module=SLOW_LOT)
        asyncio.run(asyncio.wait_for(scene(live), 60))
    finally:
        opened.__exit__(None, None, None)
    rows = apsw.Connection(str(tmp_path / "state" / "carpool.db")).execute("SELECT key, submitted FROM jobs")
    submitted_s = {str(key): float(str(submitted)) for key, submitted in rows}
    for moved in ("+3600", "-3600", "+0"):
        assert submitted_s[moved] - time.time() == pytest.approx(int(moved), abs=90), "the clock was moved"
