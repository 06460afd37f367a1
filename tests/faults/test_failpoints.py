"""The coordinator dies at each place where the order of things matters: see `coordinator.store.failpoints`.

A kill at a random moment rarely meets these; here each is met once, under load. The turn at which it dies lies
behind the start, which commits, too.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from coordinator.client import Client
from coordinator.store.failpoints import NAMES
from tests.faults.durable import Handed, check_drained, check_recorded_once, kill, start_again, submit
from tests.live import Cluster, cluster, until

CLIENTS = 16
TURNS = {"in_checkpoint": 3, "after_checkpoint": 3}
LOG_PAGES = "256"
"""A checkpoint comes after so many, that is after some ten commits."""
OF_FILES = ("after_content",)
"""Jobs do not get there: see tests/test_openai_batches.py."""
TURN = 60
"""How often a coordinator gets to the place before it dies there, unless `TURNS` says otherwise."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_FILES])
def test_a_coordinator_that_dies_there_loses_and_doubles_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged: dict[Handed, str] = {}
    again = asyncio.Event()  # another coordinator serves

    async def keep_submitting(live: Cluster, number: int) -> None:
        turn = 0
        async with Client(live.coordinator.grpc) as client:
            while not again.is_set():
                turn += 1
                handed = Handed(f"client {number} turn {turn}", 1 + turn % 7)
                acknowledged[handed] = (await submit(client, handed)).job_id

    async def work(live: Cluster) -> None:
        async def status() -> int | None:
            return live.coordinator.process.poll()

        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(keep_submitting(live, number))
            assert await until(status) == -signal.SIGKILL
            await asyncio.to_thread(start_again, live, "--state", str(tmp_path))
            again.set()
        async with Client(live.coordinator.grpc) as client:
            await check_drained(client, acknowledged)
        kill(live)
        check_recorded_once(tmp_path, len(acknowledged))

    monkeypatch.setenv("CARPOOL_FAILPOINT", f"{name}:{TURNS.get(name, TURN)}")
    monkeypatch.setenv("CARPOOL_LOG_PAGES", LOG_PAGES)
    with cluster("--state", str(tmp_path), lots=2) as live:
        monkeypatch.delenv("CARPOOL_FAILPOINT")
        asyncio.run(work(live))
