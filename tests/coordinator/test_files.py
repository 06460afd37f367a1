"""What is left in a store on a disk of files whose callers go, and of jobs that somebody still wants."""

import asyncio
import gc
import json
import subprocess
import sys
from contextlib import aclosing, suppress
from io import BytesIO
from math import inf
from pathlib import Path
from time import monotonic, time

import apsw
import pytest

from coordinator.batch import BATCH, Batch, Order
from coordinator.batch_input import BatchInput
from coordinator.batch_output import BatchOutput
from coordinator.batches import Batches
from coordinator.config import LimitSettings, StoreSettings
from coordinator.core.effects import Outcome
from coordinator.core.events import JobId
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from coordinator.errors import Failure
from coordinator.files import Files
from coordinator.metrics import Metrics
from coordinator.refusal import Refused
from coordinator.runtime import Runtime
from coordinator.services.openai.batch_readers import READERS
from coordinator.store.documents import Document, Draft
from coordinator.store.sqlite import SqliteStore
from coordinator.upkeep import forget
from tests.coordinator.test_store import finished, play

EMBEDDINGS = "/v1/embeddings"


def runtime_of(store: SqliteStore) -> Runtime:
    scheduler = Scheduler.restore(SchedulingSettings(), store.epoch, store.live(), monotonic())
    metrics = Metrics(lambda: scheduler.snapshot(monotonic()), store.state)
    return Runtime(scheduler, store, metrics, LimitSettings(), store.newest_job)


def test_nothing_stays_of_a_file_whose_caller_goes_as_it_is_kept(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        files = Files(runtime_of(store), StoreSettings())
        async with files.draft("local") as draft:
            await files.write(draft, b"a batch")
            adding = asyncio.create_task(files.add("local", draft, "a.jsonl", "batch", None, "key"))
            while not [*(tmp_path / "files").glob("file-*")]:
                await asyncio.sleep(0)
            adding.cancel()
            await asyncio.wait((adding,))
        assert adding.cancelled()
        assert await files.page("local", 10) == []
        await asyncio.get_running_loop().shutdown_default_executor()

    play(scene())
    store.close()
    assert [*(tmp_path / "files").iterdir()] == []


def test_a_content_is_not_given_up_while_a_thread_writes_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        files = Files(runtime_of(store), StoreSettings())
        made: list[Draft] = []

        async def upload() -> None:
            async with files.draft("local") as draft:
                made.append(draft)
                await files.write(draft, bytes(64 << 20))

        uploading = asyncio.create_task(upload())
        while not made or not made[0].admitted:
            await asyncio.sleep(0)
        uploading.cancel()
        await asyncio.wait((uploading,))
        assert uploading.cancelled()
        assert made[0].bytes == made[0].admitted, "the thread is through"

    play(scene())
    assert [*(tmp_path / "files").iterdir()] == []
    store.close()


def test_what_a_batch_writes_is_counted_as_its_tenants_until_it_is_recorded(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        runtime = runtime_of(store)
        files = Files(runtime, StoreSettings(tenant_file_bytes=10_000))
        request = {"model": "m", "input": "a"}
        line = {"custom_id": "c" * 5000, "method": "POST", "url": EMBEDDINGS, "body": request}
        reads = BatchInput(lambda: BytesIO(json.dumps(line).encode()), EMBEDDINGS, READERS[EMBEDDINGS], 0)
        batch = Batch("batch_1", "local", 0.0, Order(EMBEDDINGS, "file-1", "1h", 3600.0), items=1, total=1)
        undone = Failure("batch_expired", "it was over")
        async with files.draft("local") as upload:
            async with BatchOutput(runtime, files).made(batch, reads, undone) as output:
                await runtime.shelf.record(output.documents)
            assert (output.completed, output.failed, output.output_file_id) == (0, 1, None)
            with pytest.raises(Refused, match="your files take 5,"):
                await files.write(upload, bytes(5000))

    play(scene())
    store.close()


def test_of_two_batches_that_have_room_for_one_one_ends(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    items = 2000
    request = {"method": "POST", "url": EMBEDDINGS, "body": {"model": "m", "input": "a"}}
    asked = b"".join(json.dumps({"custom_id": f"{n:4000}", **request}).encode() + b"\n" for n in range(items))

    async def scene() -> None:
        runtime = runtime_of(store)
        files = Files(runtime, StoreSettings(tenant_file_bytes=len(asked) * 5 // 2))
        batches = Batches(runtime, files, READERS, LimitSettings(), 60.0)
        async with files.draft("local") as draft:
            await files.write(draft, asked)
            file = await files.add("local", draft, "a.jsonl", "batch", None, "")
        order = Order(EMBEDDINGS, file.id, "1h", 3600.0)
        for job in (1, 2):
            await finished(store, job, items)
            batch = Batch(f"batch_{job}", "local", time(), order, job=job, items=items, total=items)
            await runtime.shelf.record([batch.document(inf)])
        async with asyncio.TaskGroup() as tasks:
            batches.resume(await batches.unended(), tasks)
            while len(await batches.unended()) == 2:
                await asyncio.sleep(0)
            (left,) = await batches.unended()
            batches.close()
        assert left.output_file_id is None

    play(scene())
    store.close()


def test_a_job_whose_results_are_wanted_is_not_forgotten(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        runtime = runtime_of(store)
        await finished(store, 1, 10)
        await finished(store, 2, 10)
        with runtime.jobs.keeping(JobId(1)):
            keep = StoreSettings(keep_finished_s=0.0, spare_finished_s=0.0)
            forgetting = asyncio.create_task(forget(store, runtime.shelf, runtime.trouble, runtime.jobs.kept, keep))
            while await store.job(JobId(2)) is not None:
                await asyncio.sleep(0)
            assert await store.job(JobId(1)) is not None
            forgetting.cancel()
        store.close()

    play(scene())


def test_nothing_is_kept_of_watching_jobs_that_have_ended_or_never_were(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def watched(runtime: Runtime, job: int) -> None:
        with suppress(Refused):
            async with aclosing(runtime.jobs.watch("local", JobId(job))) as views:
                async for view in views:
                    assert view.ended is Outcome.DONE
                    return

    def futures() -> int:
        return sum(isinstance(one, asyncio.Future) for one in gc.get_objects())

    async def scene() -> None:
        runtime = runtime_of(store)
        await finished(store, 1, 10)
        before = futures()
        for job in range(1, 101):
            await watched(runtime, job)
        assert futures() < before + 50

    play(scene())
    store.close()


def test_a_coordinator_does_not_start_on_a_damaged_batch_and_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    play(store.documents.put([Document("batch_1", BATCH, "local", 0.0, {}, live=True)]))
    store.close()
    connection = apsw.Connection(str(tmp_path / "carpool.db"))
    connection.execute("UPDATE documents SET tenant = 'other'")
    connection.close()
    told = subprocess.run(
        [sys.executable, "-m", "coordinator", "--state", str(tmp_path)],
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "coordinator: the database's row of batch_1 is damaged; restore a backup\n"
