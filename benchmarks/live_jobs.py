"""Live jobs in a state folder, put there through the store: `python -m benchmarks.live_jobs DIR N`.

Each is of one item for the model noop, and nothing of it is settled. It says "made" when they are durable.
"""

import asyncio
import sys
from math import inf
from pathlib import Path

from benchmarks.payloads import BYTES, payloads
from coordinator.core.effects import JobRecord
from coordinator.core.events import JobId, JobSpec
from coordinator.items import Items
from coordinator.store import Operation, Submission
from coordinator.store.sqlite import SqliteStore

_TOGETHER = 512  # in one commit


async def make(folder: Path, jobs: int) -> None:
    """Record so many jobs in a folder that has none."""
    store = SqliteStore(folder)
    fresh = payloads()
    try:
        for first in range(1, jobs + 1, _TOGETHER):
            operations = []
            for number in range(first, min(first + _TOGETHER, jobs + 1)):
                intake = store.intake(JobId(number), "noop")
                await intake.add(Items.of([next(fresh)]))
                spec = JobSpec(JobId(number), "default", "grpc", "noop", 1, BYTES, False, inf, 1.0)
                operations.append(Operation(JobRecord(spec), Submission(spec, intake)))
            await _committed(store, operations)
    finally:
        store.close()


async def _committed(store: SqliteStore, operations: list[Operation]) -> None:
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def told(error: Exception | None) -> None:
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)

    store.commit(operations, told)
    await over


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1]), int(sys.argv[2])))
    print("made", flush=True)
    sys.stdin.read()
