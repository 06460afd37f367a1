"""What Carpool adds to a call and to an item: a model that echoes, beside a raw gRPC echo and Ray tasks.

One client process, one coordinator, two lots of one car each, and the raw echo server, all on this machine. The
client checks that every answer is its payload, for both by the same code.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import grpc

from benchmarks.cluster import ECHO, START_S, Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, ratio, seconds, terminal
from benchmarks.machine import Machine
from benchmarks.payloads import BYTES, payloads
from benchmarks.process import Process
from coordinator.client import Client
from coordinator.errors import CarpoolError
from protos import jobs_pb2, jobs_pb2_grpc

WIDTH = 64
MODEL = "noop"
WARM_UP_S = 1.0
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))  # every channel its connection


@dataclass(slots=True)
class _Side:
    """What was measured of one server, a sample for every pair."""

    one_per_s: list[float] = field(default_factory=list)
    one_p50_ms: list[float] = field(default_factory=list)
    one_p99_ms: list[float] = field(default_factory=list)
    many_per_s: list[float] = field(default_factory=list)
    many_p50_ms: list[float] = field(default_factory=list)
    many_p99_ms: list[float] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("dispatch", str(__doc__).partition("\n")[0])
    options.add_argument("--pairs", type=count, default=7, metavar="N", help="interleaved repetitions (7)")
    options.add_argument("--seconds", type=seconds, default=3.0, metavar="S", help="of each measurement (3)")
    options.add_argument("--items", type=count, default=100_000, metavar="N", help="of the batch job (100,000)")
    options.add_argument("--ray-repeats", type=int, default=3, metavar="N", help="0 leaves Ray out (3)")
    given = options.parse_args(arguments)
    machine = Machine.here()
    console = terminal()
    ours, echo = _Side(), _Side()
    batch_per_s: list[float] = []
    with TemporaryDirectory(prefix="carpool-") as name:
        folder = Path(name)
        with console.status("starting a coordinator, two lots and an echo server") as status:
            with (
                Cluster((1, 1), ECHO, folder) as cluster,
                Process.python("echo", "benchmarks.echo", folder=folder) as raw,
            ):
                target = raw.expect(r"echo ready grpc=(\S+)", START_S)[1]
                for pair in range(given.pairs):
                    status.update(f"pair {pair + 1} of {given.pairs}")
                    sides = [(ours, cluster.target), (echo, target)]
                    asyncio.run(_pair(sides if pair % 2 else sides[::-1], given.seconds))
                    batch_per_s.append(asyncio.run(_batch(cluster.target, given.items)))
            ray = _ray(folder, given.seconds, given.ray_repeats) if given.ray_repeats else None
    report = Report(
        "dispatch",
        f"{BYTES}-byte payloads, one client process, a coordinator, two lots of one thread",
        {"pairs": given.pairs, "seconds": given.seconds, "items": given.items, "width": WIDTH},
        machine,
        _figures(ours, echo, batch_per_s, ray, given.items),
    )
    report.publish(console, given.json)
    return 0


def _figures(
    ours: _Side, echo: _Side, batch_per_s: list[float], ray: dict[str, list[float]] | None, items: int
) -> list[Figure]:
    figures = [
        ratio(f"one by one, {WIDTH} at a time ÷ echo", ours.many_per_s, echo.many_per_s, Goal(at_least=0.6)),
        ratio("p50 one at a time ÷ echo's p50", ours.one_p50_ms, echo.one_p50_ms, Goal(at_most=2.2)),
        ratio(f"batch ÷ echo {WIDTH} at a time", batch_per_s, echo.many_per_s, Goal(at_least=15)),
        Figure(f"one by one, {WIDTH} at a time", "/s", ours.many_per_s),
        Figure(f"  echo, {WIDTH} at a time", "/s", echo.many_per_s),
        Figure(f"p50, {WIDTH} at a time", "ms", ours.many_p50_ms),
        Figure(f"p99, {WIDTH} at a time", "ms", ours.many_p99_ms),
        Figure(f"  echo's p99, {WIDTH} at a time", "ms", echo.many_p99_ms),
        Figure("one by one, 1 at a time", "/s", ours.one_per_s),
        Figure("  echo, 1 at a time", "/s", echo.one_per_s),
        Figure("p50, 1 at a time", "ms", ours.one_p50_ms),
        Figure("  echo's p50, 1 at a time", "ms", echo.one_p50_ms),
        Figure("p99, 1 at a time", "ms", ours.one_p99_ms),
        Figure("  echo's p99, 1 at a time", "ms", echo.one_p99_ms),
        Figure(f"batch of {items:,} items", "items/s", batch_per_s),
    ]
    if ray is not None:
        figures += [
            Figure(f"  Ray tasks, {WIDTH} at a time", "/s", ray["many_per_s"]),
            Figure("  Ray tasks, 1 at a time", "/s", ray["one_per_s"]),
            Figure("  Ray tasks' p50, 1 at a time", "ms", [1e3 * sample for sample in ray["one_s"]]),
            Figure("  Ray tasks in bulk", "/s", ray["bulk_per_s"]),
        ]
    return figures


async def _pair(sides: Sequence[tuple[_Side, str]], seconds: float) -> None:
    """Both servers, one after the other: many at a time, then one at a time."""
    for width in (WIDTH, 1):
        for side, target in sides:
            per_s, latencies_ms = await one_by_one(target, width, seconds)
            cuts = quantiles(latencies_ms, n=100)
            if width == 1:
                side.one_per_s.append(per_s)
                side.one_p50_ms.append(cuts[49])
                side.one_p99_ms.append(cuts[98])
            else:
                side.many_per_s.append(per_s)
                side.many_p50_ms.append(cuts[49])
                side.many_p99_ms.append(cuts[98])


async def one_by_one(target: str, width: int, seconds: float) -> tuple[float, list[float]]:
    """Calls a second, and what each took, milliseconds: `width` callers that each wait for their answers."""
    fresh = payloads()
    async with grpc.aio.insecure_channel(target, _OPTIONS) as channel:
        await asyncio.wait_for(channel.channel_ready(), START_S)
        stub: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(channel)
        await asyncio.gather(*(_caller(stub, fresh, WARM_UP_S * min(1, seconds)) for _ in range(width)))
        begun_s = time.perf_counter()
        took_ms = await asyncio.gather(*(_caller(stub, fresh, seconds) for _ in range(width)))
        elapsed_s = time.perf_counter() - begun_s
    latencies_ms = [latency_ms for caller in took_ms for latency_ms in caller]
    return len(latencies_ms) / elapsed_s, latencies_ms


async def _caller(stub: "jobs_pb2_grpc.JobServiceAsyncStub", fresh: Iterator[bytes], seconds: float) -> list[float]:
    took_ms: list[float] = []
    clock, run, request = time.perf_counter, stub.Run, jobs_pb2.RunRequest
    now_s = clock()
    until_s = now_s + seconds
    while now_s < until_s:
        payload = next(fresh)
        try:
            response = await run(request(model=MODEL, items=(payload,)))
        except grpc.aio.AioRpcError as error:
            raise BenchmarkFailed(f"a call failed: {error.details()}") from None
        if len(response.results) != 1 or response.results[0].payload != payload:
            raise BenchmarkFailed(f"the answer to {payload[:8].hex()} was another")
        then_s, now_s = now_s, clock()
        took_ms.append(1e3 * (now_s - then_s))
    return took_ms


async def _batch(target: str, items: int) -> float:
    """Items a second of one batch job, from its submission to the check of its last result."""
    sent = [payload for payload, _ in zip(payloads(), range(items), strict=False)]
    try:
        async with Client(target) as client:
            begun_s = time.perf_counter()
            job, _ = await client.submit(MODEL, sent)
            checked = 0
            async for results in client.results(job.job_id):
                if list(results.payloads) != sent[checked : checked + len(results.payloads)]:
                    raise BenchmarkFailed(f"the results from item {checked} on are not what was sent")
                checked += len(results.payloads)
            elapsed_s = time.perf_counter() - begun_s
    except CarpoolError as error:
        raise BenchmarkFailed(str(error)) from None
    if checked != items:
        raise BenchmarkFailed(f"{checked} of {items} results came")
    return items / elapsed_s


def _ray(folder: Path, seconds: float, repeats: int) -> dict[str, list[float]]:
    patience_s = START_S + 10 * repeats * (seconds + 10)
    with Process.python("ray", "benchmarks.ray_tasks", seconds, repeats, 5_000, folder=folder) as process:
        figures: dict[str, list[float]] = json.loads(process.line(patience_s))
    return figures
