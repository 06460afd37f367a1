"""Cars that leave in the middle of their work: by their driver's hand, or by a kill -9 of their process.

Owns the choice of a car that holds a live lease at that moment, and the account of what its leaving cost.
"""

import asyncio
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accounts import accounts
from benchmarks.figures import BenchmarkFailed
from coordinator.client import Client
from node.client import Parked, parked, unplug

NOTICED_WITHIN_S = 20.0  # silence is noticed after 15 s, a broken connection at once
BUSY_WITHIN_S = 60.0  # what a car may take to get work
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where to find one running cluster."""

    folder: Path
    client: Client
    metrics: str  # HOST:PORT


@dataclass(frozen=True, slots=True)
class Departure:
    """One car that left, and what that cost."""

    car: str
    killed: bool  # else unplugged
    leases: int  # live ones that it took away
    stop_s: float  # from the driver's hand to the last torch work; 0 when killed
    lost_s: float  # accelerator-seconds thrown away, as the coordinator counts them


async def unplug_one(fleet: Fleet, spared: Collection[str]) -> Departure:
    """The driver takes a car away that is at work and is none of those spared."""
    car = await _at_work(fleet, spared)
    before = await asyncio.to_thread(accounts, fleet.metrics)
    (stop,) = await asyncio.to_thread(unplug, fleet.folder, [car.name])
    await _noticed(fleet, car.name)
    after = await asyncio.to_thread(accounts, fleet.metrics)
    return Departure(car.name, False, stop.leases, stop.stop_s, after.lost_s - before.lost_s)


async def kill_one(fleet: Fleet, spared: Collection[str]) -> Departure:
    """The process of a car that is at work, and is none of those spared, dies without a word."""
    before = await asyncio.to_thread(accounts, fleet.metrics)
    car = await _at_work(fleet, spared)
    os.kill(car.process_id, signal.SIGKILL)
    await _noticed(fleet, car.name)
    after = await asyncio.to_thread(accounts, fleet.metrics)
    return Departure(car.name, True, after.leases_lost - before.leases_lost, 0.0, after.lost_s - before.lost_s)


async def _at_work(fleet: Fleet, spared: Collection[str]) -> Parked:
    """A car that holds a lease now, as its own lot says."""
    try:
        async with asyncio.timeout(BUSY_WITHIN_S):
            while True:
                for car in await asyncio.to_thread(parked, fleet.folder):
                    if car.leases and car.plugged_in and car.name not in spared:
                        return car
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BenchmarkFailed(f"no car that may leave held a lease within {BUSY_WITHIN_S:g} s") from None


async def _noticed(fleet: Fleet, name: str) -> None:
    """Returns when the coordinator knows that this car has left (it may be back already)."""
    try:
        async with asyncio.timeout(NOTICED_WITHIN_S):
            while True:
                if any(node.departures for node in await fleet.client.nodes() if node.name == name):
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BenchmarkFailed(f"nobody noticed within {NOTICED_WITHIN_S:g} s that {name} left") from None
