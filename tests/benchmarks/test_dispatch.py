"""The dispatch benchmark, end to end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from benchmarks import dispatch
from benchmarks.figures import BenchmarkFailed
from benchmarks.process import Process
from protos import jobs_pb2
from tests.benchmarks.running import measured, samples

Context = grpc.aio.ServicerContext[jobs_pb2.RunRequest, jobs_pb2.RunResponse]


@asynccontextmanager
async def liar() -> AsyncIterator[str]:
    """A server that answers every call with the payload that came first; its address."""
    first: list[bytes] = []

    async def run(request: jobs_pb2.RunRequest, context: Context) -> jobs_pb2.RunResponse:
        first.extend(request.items)
        return jobs_pb2.RunResponse(results=[jobs_pb2.ItemResult(payload=first[0])])

    handler = grpc.unary_unary_rpc_method_handler(
        run, jobs_pb2.RunRequest.FromString, jobs_pb2.RunResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("carpool.v1.JobService", {"Run": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def test_ours_and_the_echo_are_measured_in_pairs(tmp_path: Path) -> None:
    sizes = ("--pairs", 2, "--seconds", 0.2, "--items", 2_000, "--ray-repeats", 0)
    document = measured(tmp_path, "dispatch", *sizes)
    ours = samples(document, "one by one, 64 at a time")
    echo = samples(document, "echo, 64 at a time")
    assert len(ours) == len(echo) == 2
    assert samples(document, "one by one, 64 at a time ÷ echo") == [
        one / other for one, other in zip(ours, echo, strict=True)
    ]
    assert all(rate > 100 for rate in samples(document, "batch of 2,000 items"))


def test_an_answer_that_is_another_fails_the_benchmark() -> None:
    async def measure() -> None:
        async with liar() as target:
            await dispatch.one_by_one(target, 1, 0.2)

    with pytest.raises(BenchmarkFailed, match="was another"):
        asyncio.run(measure())


def test_ray_tasks_are_measured_beside(tmp_path: Path) -> None:
    with Process.python("ray", "benchmarks.ray_tasks", 0.2, 1, 50, folder=tmp_path) as process:
        figures = json.loads(process.line(60))
    assert all(sample > 0 for (sample,) in figures.values())
    assert figures.keys() == {"one_s", "one_per_s", "many_per_s", "bulk_per_s"}
