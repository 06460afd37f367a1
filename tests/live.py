"""Real coordinators and lots as child processes on loopback, for tests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from coordinator.client import Client, Node

_T = TypeVar("_T")

PATIENCE_S = 30.0


class Coordinator:
    """`python -m coordinator` as a child; `addresses` are those it printed, by name."""

    def __init__(self, *flags: str, module: str = "coordinator") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        words = line.split()
        assert words[:2] == ["coordinator", "ready"], line + self.errors()
        self.addresses = dict(word.split("=", 1) for word in words[2:])
        self.grpc = self.addresses["grpc"]

    def errors(self) -> str:
        """What it printed on standard error, once it has ended."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return errors


class Cluster:
    """A coordinator and the lots that were started with it, all ended when the test ends."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.lots: dict[str, subprocess.Popen[str]] = {}

    def add(self, name: str, *flags: str, vehicles: int = 1, first_index: int = 0, module: str = "node") -> None:
        """Start a lot that echoes, without torch unless a flag names other models."""
        self.lots[name] = subprocess.Popen(
            [
                *(sys.executable, "-m", module, "--coordinator", self.coordinator.grpc, "--lot-id", name),
                *(
                    "--models",
                    "",
                    "--noop",
                    "--opt-in",
                    "--vehicles",
                    str(vehicles),
                    "--first-index",
                    str(first_index),
                    *flags,
                ),
            ],
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def kill(self, name: str) -> None:
        """End a lot's process without a word."""
        self.lots[name].kill()
        self.lots[name].wait(PATIENCE_S)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a lot's process a signal."""
        os.kill(self.lots[name].pid, number)

    async def parked(self, client: Client, cars: int) -> list[Node]:
        """All nodes, once exactly so many take work."""

        async def nodes() -> list[Node] | None:
            found = await client.nodes()
            return found if sum(node.state in ("idle", "busy") for node in found) == cars else None

        return await until(nodes)


@contextmanager
def cluster(*flags: str, lots: int = 0, vehicles: int = 1) -> Iterator[Cluster]:
    """A coordinator with these flags, and so many lots of so many vehicles."""
    with TemporaryDirectory(prefix="carpool-state-") as state:  # it is killed, and clears nothing away
        live = Cluster(Coordinator(*(() if "--state" in flags else ("--state", state)), *flags))
        try:
            for number in range(lots):
                live.add(f"lot-{number}", vehicles=vehicles, first_index=number * vehicles)
            yield live
        finally:
            for process in (*live.lots.values(), live.coordinator.process):
                process.kill()
            for process in (*live.lots.values(), live.coordinator.process):
                process.communicate(timeout=PATIENCE_S)


@contextmanager
def patient_cluster(*flags: str, lots: int = 0) -> Iterator[Cluster]:
    """The same, with a coordinator that waits long for a sign of life: lots moved by hand give none."""
    with TemporaryDirectory(prefix="carpool-config-") as folder:
        config = Path(folder) / "carpool.toml"
        config.write_text("[scheduling]\nsilent_after_s = 90.0\n")
        with cluster("--config", str(config), *flags, lots=lots) as live:
            yield live


async def until(look: Callable[[], Awaitable[_T | None]], patience_s: float = PATIENCE_S) -> _T:
    """What `look` finds, as soon as it finds something; it is asked again and again."""
    async with asyncio.timeout(patience_s):
        while (found := await look()) is None:
            await asyncio.sleep(0.02)
        return found


def within(work: Coroutine[None, None, None], seconds: float = 90.0) -> None:
    """Run this to its end, which is to come within so much."""

    async def run() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(run())
