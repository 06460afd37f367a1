"""A coordinator and node processes on the loopback interface, as `carpool up` starts them."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.figures import BenchmarkFailed
from benchmarks.process import Process
from coordinator.client import Client
from coordinator.errors import CarpoolError

ECHO = ("--models", "", "--noop")
"""Flags of a node process that only echoes, and needs no torch."""
START_S = 120.0  # what a cluster may take until every car is offered
READY = r"coordinator ready grpc=(\S+) http=(\S+) metrics=(\S+)"
"""What a coordinator says when it serves."""
_POLL_S = 0.05


class Cluster:
    """A context manager: inside, every car is offered.

    One node process for each of `vehicles`, which says how many it has; all get the same `flags`, by which they
    offer one model. Lot and cars are named as `carpool up` names them; the process of number K is lot-K. `state`
    says where the coordinator keeps jobs, as its flag does; by default in `folder`. `node` is the module of a
    node process.
    """

    def __init__(
        self,
        vehicles: Sequence[int],
        flags: Sequence[object],
        folder: Path,
        state: Path | str | None = None,
        node: str = "node",
    ) -> None:
        self._state = folder / "state" if state is None else state
        self._sizes = vehicles
        self._flags = flags
        self._module = node
        self._folder = folder
        self._exits = ExitStack()
        self.lots: list[Process] = []

    def __enter__(self) -> Self:
        with self._exits:
            self._exits.callback(lambda: self.coordinator.stop())  # whichever it is by then
            self._start_coordinator(0)
            ready = self.coordinator.expect(READY, START_S)
            self.target, self.http, self.metrics = ready[1], ready[2], ready[3]
            first = 0
            for number, size in enumerate(self._sizes):
                self.lots.append(self._exits.enter_context(self._node(number, size, first)))
                first += size
            asyncio.run(self.all_offered())
            self._exits = self._exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def restart_coordinator(self) -> None:
        """Start another on the same port, after the old one was killed; returns while it starts."""
        self._start_coordinator(int(self.target.rpartition(":")[2]))

    def restart_lot(self, number: int) -> None:
        """Start another process in the place of one that was killed; returns while it starts."""
        first = sum(self._sizes[:number])
        self.lots[number] = self._exits.enter_context(self._node(number, self._sizes[number], first))

    async def all_offered(self) -> None:
        """Returns when every car is; BenchmarkFailed when that takes too long, or a process has ended."""
        offered, vehicles = 0, sum(self._sizes)
        try:
            async with asyncio.timeout(START_S), Client(self.target) as client:
                while (offered := sum(model.nodes for model in await client.models())) < vehicles:
                    for process in (self.coordinator, *self.lots):
                        process.check()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BenchmarkFailed(f"after {START_S:g} s {offered} of {vehicles} cars are offered") from None
        except CarpoolError as error:
            raise BenchmarkFailed(str(error)) from None

    def _start_coordinator(self, port: int) -> None:
        flags = ("--grpc-port", port, "--stop-at-eof", "--state", self._state)
        self.coordinator = Process.python("coordinator", "coordinator", *flags, folder=self._folder)

    def _node(self, number: int, size: int, first: int) -> Process:
        named = ("--coordinator", self.target, "--lot-id", f"lot-{number}", "--run-dir", self._folder)
        cars = ("--opt-in", "--vehicles", size, "--first-index", first, "--stop-at-eof")
        return Process.python(f"lot-{number}", self._module, *named, *cars, *self._flags, folder=self._folder)
