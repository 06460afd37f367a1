"""The driver's hand: what owners do with the vehicles of a lot, and what they see of them. Knows no protobuf."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from node.cars import Cars
from node.events import Event
from node.lot import Lot
from node.terms import Terms, changed
from node.vehicles import Nodes

TOLD_WITHIN_S = 1.5
"""What an unplugging waits for the coordinator to be told; with the rest it stays below 2 s."""


@dataclass(frozen=True, slots=True)
class ParkedVehicle:
    """One vehicle as its driver sees it."""

    name: str
    profile: str
    plugged_in: bool
    window_s: float  # what remains, real seconds
    state_of_charge: float  # 0 to 1, modelled
    leases: int
    terms: Terms  # the owner's
    withheld: str  # why these keep it from work, in words; empty: they do not
    site: str
    day: str
    parked: bool = False  # off its charger, and not driving


@dataclass(frozen=True, slots=True)
class Stop:
    """What an unplugging did."""

    stop_s: float  # until the last torch work of these vehicles had ended
    leases: int  # taken away


class Hand:
    """What a driver may do with a lot."""

    def __init__(
        self,
        cars: Cars,
        lot: Lot,
        handle: Callable[[Sequence[Event]], Awaitable[object] | None],
        flushed: Callable[[], Awaitable[None]],
        moved: Callable[[], None],
        said: Callable[[], None],
    ) -> None:
        """`handle` tells the lot, and gives what to await until its stops are done; after `flushed` the stream has
        the news. `moved` is called when cars were, `said` when owners have said something."""
        self._cars, self._lot = cars, lot
        self._handle, self._flushed = handle, flushed
        self._moved, self._said = moved, said
        self._loop = asyncio.get_running_loop()

    def parked(self) -> list[ParkedVehicle]:
        """Every vehicle as its driver sees it."""
        cars, vehicles = self._cars, self._lot.vehicles
        window_s = vehicles.window_s(self._loop.time())
        withheld = cars.guard.told(cars.config.speed)
        return [
            ParkedVehicle(
                name=row.name,
                profile=row.profile,
                plugged_in=bool(cars.day.plugged[node]),
                window_s=float(window_s[node]),
                state_of_charge=float(cars.guard.battery.state_of_charge[node]),
                leases=int(vehicles.leases[node]),
                terms=cars.guard.terms.rows[node],
                withheld=withheld[node],
                site=row.site,
                day=cars.days[node],
                parked=bool(cars.day.parked[node]),
            )
            for node, row in enumerate(vehicles.rows)
        ]

    def index(self, name: str) -> int | None:
        """Which vehicle this is, or None when it is not of this lot."""
        rows, number = self._lot.vehicles.rows, name.removeprefix("car-")
        node = int(number) - self._cars.config.first_index if number.isascii() and number.isdigit() else -1
        return node if 0 <= node < len(rows) and rows[node].name == name else None

    def plug(self, nodes: Sequence[int], window_s: float | None) -> None:
        """A driver plugs these in, for so many real seconds or until unplugged."""
        now_s = self._loop.time()
        events = self._cars.move(now_s, self._lot.vehicles)
        events.append(self._cars.plug(_rows(nodes), window_s, now_s))
        self._handle([*events, self._cars.look(now_s)])
        self._moved()
        self._said()

    async def unplug(self, nodes: Sequence[int]) -> Stop:
        """A driver takes these; returns when nothing of them runs and the stream has the news."""
        asked_s = time.monotonic()
        now_s, rows = self._loop.time(), _rows(nodes)
        leases = self._lot.live(rows)
        events = self._cars.move(now_s, self._lot.vehicles)
        events.append(self._cars.unplug(rows, now_s))
        self._moved()
        self._said()
        await _stopping(self._handle([*events, self._cars.look(now_s)]))
        stop_s = time.monotonic() - asked_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_WITHIN_S):
                await self._flushed()
        return Stop(stop_s, leases)

    async def set_terms(self, nodes: Sequence[int], change: Mapping[str, Any]) -> float:
        """Owners of these say otherwise; seconds until nothing runs that they forbid. Raises ValueError."""
        asked_s, now_s, rows = time.monotonic(), self._loop.time(), self._cars.guard.terms.rows
        said = [changed(rows[node], change) for node in nodes]
        events = self._cars.move(now_s, self._lot.vehicles)
        events += self._cars.say(nodes, said, now_s)
        self._said()
        await _stopping(self._handle([*events, self._cars.look(now_s)]))
        return time.monotonic() - asked_s


def _rows(nodes: Sequence[int]) -> Nodes:
    return np.unique(np.array(nodes, np.intp))


async def _stopping(stopping: Awaitable[object] | None) -> None:
    if stopping is not None:
        await stopping
