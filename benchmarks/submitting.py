"""Submissions as tenants send them: many callers that wait, arrivals that do not, one large job. Every one counts
when it is acknowledged."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from benchmarks.figures import BenchmarkFailed
from benchmarks.payloads import payloads
from coordinator.client import Client
from coordinator.errors import CarpoolError

MODEL = "noop"
WARM_UP_S = 1.0
_MOST_OPEN = 4096  # arrivals that are not answered: the coordinator does not keep up
_DRAINED_S = 120.0  # what a backlog may take to be run
_RESULT_S = 60.0  # within which a large job's next results come


async def closed_loop(target: str, callers: int, seconds: float) -> float:
    """Acknowledged jobs a second: callers that each submit one item, wait for its job, and submit the next."""
    fresh = payloads()
    try:
        async with Client(target) as client:
            await asyncio.gather(*(_caller(client, fresh, min(WARM_UP_S, seconds)) for _ in range(callers)))
            begun_s = time.perf_counter()
            counts = await asyncio.gather(*(_caller(client, fresh, seconds) for _ in range(callers)))
            elapsed_s = time.perf_counter() - begun_s
    except CarpoolError as error:
        raise BenchmarkFailed(str(error)) from None
    return sum(counts) / elapsed_s


async def _caller(client: Client, fresh: Iterator[bytes], seconds: float) -> int:
    until_s = time.perf_counter() + seconds
    acknowledged = 0
    while time.perf_counter() < until_s:
        await client.submit(MODEL, (next(fresh),))
        acknowledged += 1
    return acknowledged


async def open_loop(target: str, per_s: float, seconds: float, seed: int) -> list[float]:
    """Milliseconds from when each submission was due to its acknowledgement; they come whether or not those before
    were answered, after times that an exponential clock gives."""
    clock, fresh = Random(seed), payloads()
    took_ms: list[float] = []
    open_now = 0

    async def one(client: Client, due_s: float) -> None:
        nonlocal open_now
        await client.submit(MODEL, (next(fresh),))
        took_ms.append(1e3 * (time.perf_counter() - due_s))
        open_now -= 1

    try:
        async with Client(target) as client:
            await client.submit(MODEL, (next(fresh),))
            due_s = time.perf_counter()
            until_s = due_s + seconds
            async with asyncio.TaskGroup() as tasks:
                while (due_s := due_s + clock.expovariate(per_s)) < until_s:
                    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                    if open_now == _MOST_OPEN:
                        raise BenchmarkFailed(f"{open_now} submissions at {per_s:,.0f}/s wait for their answers")
                    open_now += 1
                    tasks.create_task(one(client, due_s))
    except* CarpoolError as errors:
        raise BenchmarkFailed(str(errors.exceptions[0])) from None
    except* BenchmarkFailed as failed:
        raise BenchmarkFailed(str(failed.exceptions[0])) from None
    return took_ms


async def drain(target: str) -> None:
    """Wait until what was submitted is run: a last job is, and they run in the order of their submission."""
    try:
        async with Client(target) as client, asyncio.timeout(_DRAINED_S):
            last, _ = await client.submit(MODEL, (next(payloads()),))
            async for results in client.results(last.job_id):
                if results.payloads:
                    return
    except CarpoolError as error:
        raise BenchmarkFailed(str(error)) from None
    except TimeoutError:
        raise BenchmarkFailed(f"what was submitted is not run within {_DRAINED_S:g} s") from None


async def submitted(target: str, items: int) -> float:
    """Items a second of one job, to its acknowledgement. Returns when it is run and its answers are checked."""
    sent = list(islice(payloads(), items))
    try:
        async with Client(target) as client:
            begun_s = time.perf_counter()
            job, _ = await client.submit(MODEL, sent)
            elapsed_s = time.perf_counter() - begun_s
            await _checked(client, job.job_id, sent)
    except CarpoolError as error:
        raise BenchmarkFailed(str(error)) from None
    return items / elapsed_s


async def through(target: str, items: int) -> float:
    """Seconds of one job of items of 16 bytes, in and out: all of it is streamed."""
    sent = [number.to_bytes(16, "little") for number in range(items)]
    begun_s = time.perf_counter()
    try:
        async with Client(target) as client:
            job, _ = await client.submit(MODEL, sent)
            await _checked(client, job.job_id, sent)
    except CarpoolError as error:
        raise BenchmarkFailed(str(error)) from None
    return time.perf_counter() - begun_s


async def _checked(client: Client, job_id: str, sent: Sequence[bytes]) -> None:
    checked, told_s = 0, time.perf_counter()
    async for results in client.results(job_id):
        if list(results.payloads) != list(sent[checked : checked + len(results.payloads)]):
            raise BenchmarkFailed(f"the results from item {checked} on are not what was sent")
        checked += len(results.payloads)
        told_s = time.perf_counter() if results.payloads else told_s
        if time.perf_counter() - told_s > _RESULT_S:
            raise BenchmarkFailed(f"after {checked} of {len(sent)} results none came within {_RESULT_S:g} s")
    if checked != len(sent):
        raise BenchmarkFailed(f"{checked} of {len(sent)} results came")
