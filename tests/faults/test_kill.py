"""kill -9 of the coordinator at random instants, while a Ray fleet works: whatever was acknowledged is there, once.

The instants come from `SEED`; what happens at them does not, so a failure is looked for with many seeds.
"""

import asyncio
import random
from pathlib import Path
from time import monotonic

import pytest

from coordinator.client import Client
from coordinator.errors import CarpoolError
from tests.faults.durable import (
    Handed,
    check_drained,
    check_recorded_once,
    collect,
    kill,
    ray_fleet,
    start_again,
    submit,
)
from tests.live import Cluster, cluster

SEED = 3
CLIENTS = 16
ACTORS, CARS_EACH = 2, 2
UNDER_FIRE_S = 30.0
LIFE_S = (0.05, 3.0)
"""How long a coordinator serves before it is killed: some have hardly taken a call."""
LOOK_EVERY = 4
"""A client reads so many of its jobs to the end while coordinators die: one in this many."""


def test_killing_the_coordinator_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    acknowledged: dict[Handed, str] = {}
    over = asyncio.Event()

    async def keep_submitting(live: Cluster, number: int) -> None:
        turns = random.Random(SEED + number)
        turn = 0
        async with Client(live.coordinator.grpc) as client:
            while not over.is_set():
                turn += 1
                handed = Handed(f"client {number} turn {turn}", turns.randint(1, 50))
                acknowledged[handed] = (await submit(client, handed)).job_id
                if turn % LOOK_EVERY == 0:
                    results, _, _ = await collect(client, acknowledged[handed])
                    assert results == handed.items

    async def keep_killing(live: Cluster) -> int:
        kills, until_s = 0, monotonic() + UNDER_FIRE_S
        while monotonic() < until_s:
            await asyncio.sleep(chance.uniform(*LIFE_S))  # the schedule of the fault
            await asyncio.to_thread(kill, live)
            await asyncio.to_thread(start_again, live, "--state", str(tmp_path))
            kills += 1
        return kills

    async def work(live: Cluster) -> None:
        async with ray_fleet(live, ACTORS, CARS_EACH):
            async with asyncio.TaskGroup() as tasks:
                for number in range(CLIENTS):
                    tasks.create_task(keep_submitting(live, number))
                kills = await keep_killing(live)
                over.set()
            assert kills >= 5
            assert len(acknowledged) > 10 * CLIENTS
            print(f"{kills} kills, {len(acknowledged)} jobs")
            async with Client(live.coordinator.grpc) as client:
                await check_drained(client, acknowledged)
                for handed in chance.sample([*acknowledged], CLIENTS):
                    job, existed = await client.submit("noop", handed.items, idempotency_key=handed.key)
                    assert (job.job_id, existed) == (acknowledged[handed], True)
                    with pytest.raises(CarpoolError, match="other content"):
                        await client.submit("noop", [*handed.items, b"more"], idempotency_key=handed.key)
        kill(live)
        check_recorded_once(tmp_path, len(acknowledged))

    with cluster("--state", str(tmp_path)) as live:
        asyncio.run(work(live))
