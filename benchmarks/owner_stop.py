"""How soon an owner who unplugs a car has it for himself: until no torch work of it is left, under full load.

A lot of two cars in one process, which a batch of the longest inputs keeps at work. Again and again the driver's
hand takes the car that holds leases away, at any moment of a micro-batch, and brings it back. What is measured is
what the lot says: from the call until the executor has nothing of this car.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cluster import Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, percentile, terminal
from benchmarks.machine import Machine
from coordinator.client import Client
from node.client import parked, plug, unplug

LONGEST_TOKENS = {"minilm": 512, "smollm2": 8000}
"""What a model reads of one input at the most; of a chat a few are left for the answer."""
MOST_DELAY_S = 0.5
BUSY_WITHIN_S = 120.0
_POLL_S = 0.01


@dataclass(slots=True)
class _Stops:
    """What was measured with one model, a sample for every stop."""

    stop_ms: list[float] = field(default_factory=list)
    call_ms: list[float] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("owner-stop", str(__doc__).partition("\n")[0])
    names = ", ".join(LONGEST_TOKENS)
    options.add_argument("--models", default="minilm,smollm2", metavar="A,B", help=f"of {names} (both)")
    options.add_argument("--stops", type=count, default=200, metavar="N", help="with each model (200)")
    options.add_argument("--seed", type=int, default=1, metavar="N", help="of the moments (1)")
    given = options.parse_args(arguments)
    models = [name for name in given.models.split(",") if name]
    for name in models:
        if name not in LONGEST_TOKENS:
            options.error(f"--models {name}: no longest input is known of it; choose of {names}")
    machine, console = Machine.here(), terminal()
    figures: list[Figure] = []
    for name in models:
        with TemporaryDirectory(prefix="carpool-") as folder, console.status(f"{given.stops} stops of {name}"):
            stops = asyncio.run(_measure(name, given.stops, random.Random(given.seed), Path(folder)))
        figures += _figures(name, stops)
    settings = {"models": models, "stops": given.stops, "seed": given.seed, "tokens": LONGEST_TOKENS}
    report = Report("owner-stop", "2 cars in 1 process, at work on the longest inputs", settings, machine, figures)
    report.publish(console, given.json)
    return 0


async def _measure(model: str, stops: int, generator: random.Random, folder: Path) -> _Stops:
    """Stop cars that are at work, so often."""
    found = _Stops()
    flags = ("--models", model, "--threads", 1)
    cluster = Cluster([2], flags, folder)
    await asyncio.to_thread(cluster.__enter__)
    try:
        async with Client(cluster.target) as client:
            job, _ = await client.submit(model, [_longest(model)] * 4000)
            while len(found.stop_ms) < stops:
                car = await _at_work(folder)
                await asyncio.sleep(generator.random() * MOST_DELAY_S)  # any moment of what runs
                begun_s = time.monotonic()
                (stop,) = await asyncio.to_thread(unplug, folder, [car])
                call_s = time.monotonic() - begun_s
                if stop.leases:
                    found.stop_ms.append(stop.stop_s * 1000.0)
                    found.call_ms.append(call_s * 1000.0)
                await asyncio.to_thread(plug, folder, [car])
            await client.cancel(job.job_id)
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)
    return found


async def _at_work(folder: Path) -> str:
    """A car that holds a lease, as its lot says."""
    try:
        async with asyncio.timeout(BUSY_WITHIN_S):
            while True:
                for car in await asyncio.to_thread(parked, folder):
                    if car.leases and car.plugged_in:
                        return car.name
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BenchmarkFailed(f"no car held a lease within {BUSY_WITHIN_S:g} s") from None


def _longest(model: str) -> bytes:
    """An input of about as many tokens as the model reads: most are a word each."""
    text = "the car is parked and charges " * (LONGEST_TOKENS[model] // 6)
    if model == "smollm2":
        return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 8}).encode()
    return (text + text).encode()  # it is cut off at the longest


def _figures(model: str, stops: _Stops) -> list[Figure]:
    of = f"{model}, {LONGEST_TOKENS[model]:,} tokens"
    return [
        Figure(f"unplugged until no torch work, {of}", "ms", stops.stop_ms),
        Figure("  p99 of these", "ms", [percentile(stops.stop_ms, 99)], Goal(at_most=100)),
        Figure("  the longest of these", "ms", [max(stops.stop_ms)]),
        Figure("  the driver's whole call", "ms", stops.call_ms),
    ]
