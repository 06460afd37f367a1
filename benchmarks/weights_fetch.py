"""A fetch of model weights that is killed at 60 %, and goes on; then a neighbour that gets them from there.

A coordinator, and lots that each have a cache of their own and reach it through a relay that counts bytes. The
first lot's process is killed with SIGKILL when the relay has let 60 % through, and started again; the second is
started when the first has the model. Measured is what the coordinator sent, and how long it takes until the model
is in place.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cluster import READY, START_S
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, parser, terminal
from benchmarks.machine import Machine
from benchmarks.process import Process
from benchmarks.relay import Relay
from node.models import CachedModel, ModelCache, ModelError

PART = 0.6
MANIFEST_BYTES = 100_000
"""What is sent beside the files, at the most: the manifest, and what gRPC adds."""
CHUNK_BYTES = 1 << 20
LEAST_BYTES = 8 << 20
"""So that 60 % can be told from a chunk more or less."""
_LOOK_S = 0.005


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("weights-fetch", str(__doc__).partition("\n")[0])
    options.add_argument("--model", default="minilm", metavar="NAME", help="one in the cache (minilm)")
    given = options.parse_args(arguments)
    try:
        model = ModelCache.of_user().get(given.model)
    except ModelError as error:
        raise BenchmarkFailed(str(error)) from None
    if model.bytes < LEAST_BYTES:
        options.error(f"--model {model.name}: it has {model.bytes:,} bytes; choose one of at least {LEAST_BYTES:,}")
    machine, console = Machine.here(), terminal()
    with TemporaryDirectory(prefix="carpool-") as folder, console.status(f"fetching {model.name}"):
        figures = asyncio.run(_measure(model, Path(folder)))
    settings = {"model": model.name, "bytes": model.bytes, "killed at": PART}
    report = Report("weights-fetch", "a coordinator, 2 lots of one site", settings, machine, figures)
    report.publish(console, given.json)
    return 0


async def _measure(model: CachedModel, folder: Path) -> list[Figure]:
    flags = ("--grpc-port", 0, "--stop-at-eof", "--state", folder / "state")
    with Process.python("coordinator", "coordinator", *flags, folder=folder) as coordinator:
        target = (await asyncio.to_thread(coordinator.expect, READY, START_S))[1]
        async with Relay(target, PART * model.bytes) as relay:
            killed = _lot(0, relay.target, model.name, folder)
            with killed:
                # A file ends with a chunk, and there may be one in the air.
                await _until(
                    killed, lambda: _here(folder, 0, model) >= PART * model.bytes - MANIFEST_BYTES - CHUNK_BYTES
                )
                killed.kill()
            held = _here(folder, 0, model)
            relay.renew()
            async with Relay(target) as other:
                with _lot(0, relay.target, model.name, folder) as first:
                    again_s = await _in_place(first, 0, model, folder)
                    sent = relay.passed_bytes
                    with _lot(1, other.target, model.name, folder) as second:  # the first shares, and loads it yet
                        near_s = await _in_place(second, 1, model, folder)
                        sent_near = other.passed_bytes
                        second.kill()
                    first.kill()
    megabyte, lacking = 1e6, model.bytes - held
    return [
        Figure("the model", "MB", [model.bytes / megabyte]),
        Figure("on the disk when its fetch was killed", "MB", [held / megabyte]),
        Figure("lacking then", "MB", [lacking / megabyte]),
        Figure("sent by the coordinator after that", "MB", [sent / megabyte]),
        Figure("  over what was lacking", "x", [sent / lacking], Goal(at_most=1.01)),
        Figure("  until it was in place, from exec on", "s", [again_s]),
        Figure("  of that its fetch", "s", [_told_s(first)]),
        Figure("sent by the coordinator to a neighbour", "MB", [sent_near / megabyte], Goal(at_most=0.1)),
        Figure("  until it was in place there, from exec on", "s", [near_s]),
        Figure("  of that the neighbour's fetch", "s", [_told_s(second)]),
    ]


def _lot(number: int, coordinator: str, model: str, folder: Path) -> Process:
    """A lot of one car at the site, with a cache of its own."""
    named = ("--coordinator", coordinator, "--lot-id", f"lot-{number}", "--run-dir", folder, "--site", "here")
    flags = ("--first-index", number, "--models", model, "--opt-in", "--stop-at-eof")
    cache = _cache(folder, number)
    return Process.python(
        f"lot-{number}", "node", *named, *flags, folder=folder, CARPOOL_CACHE=os.fspath(cache.root)
    )


async def _in_place(lot: Process, number: int, model: CachedModel, folder: Path) -> float:
    """Seconds from its exec until it has the model; BenchmarkFailed when a byte of it is another."""
    await _until(lot, lambda: _cache(folder, number).find(model.name) is not None)
    took_s = time.monotonic() - lot.begun_s
    await _until(lot, lambda: " is here: " in lot.log.read_text())  # it says so next
    try:
        await asyncio.to_thread(_cache(folder, number).get(model.name).verify)
    except ModelError as error:
        raise BenchmarkFailed(str(error)) from None
    return took_s


def _told_s(lot: Process) -> float:
    """How long its fetch took, as it says."""
    return float(re.findall(r"model \S+ is here: .* in ([0-9.]+) s$", lot.log.read_text(), re.MULTILINE)[-1])


async def _until(lot: Process, look: Callable[[], bool]) -> None:
    until_s = time.monotonic() + START_S
    while not look():
        lot.check()
        if time.monotonic() > until_s:
            raise BenchmarkFailed(f"after {START_S:g} s lot {lot.name} is not there yet; see {lot.log}")
        await asyncio.sleep(_LOOK_S)


def _cache(folder: Path, number: int) -> ModelCache:
    return ModelCache(folder / f"cache-{number}")


def _here(folder: Path, number: int, model: CachedModel) -> int:
    """Bytes of its files that are on the disk, though not in place."""
    gathered = _cache(folder, number).root / "models" / f".{model.name}.part"
    places = (gathered / file.path for file in model.files)
    return sum(place.stat().st_size for place in places if place.exists())
