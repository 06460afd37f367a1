"""A coordinator with 10,000 vehicles: its memory and idle share, coming back after a restart, and a silent loss.

The vehicles are in lots of a process each, without torch. A restart is a SIGKILL and a new process on the same
port, timed from before its exec until the last vehicle is offered; the pause in between differs, so that the
lots are met in any state of their back-off. A silent loss is a SIGSTOP of one lot: its connection stays open.
Then the same restarts with live jobs, while every vehicle is at work (`takeover`).
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from rich.status import Status

from benchmarks.cluster import ECHO, Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, seconds, terminal
from benchmarks.machine import Machine
from benchmarks.takeover import take_over
from coordinator.client import Client
from protos import jobs_pb2, jobs_pb2_grpc

SETTLE_S = 6.0  # a heartbeat and a little: nothing of the start is left
WINDOWS = 3  # of the idle time, each a sample
OUTAGES_S = (0.0, 1.0, 3.0, 0.3, 10.0)  # between a kill and the restart, in turn
POLL_S = 0.01
PATIENCE_S = 60.0
_IMPATIENT = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 10),
    ("grpc.max_reconnect_backoff_ms", 20),
)


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("fleet-size", str(__doc__).partition("\n")[0])
    options.add_argument("--vehicles", type=count, default=10_000, metavar="N", help="in all (10,000)")
    options.add_argument("--lots", type=count, default=4, metavar="N", help="processes they share (4)")
    options.add_argument("--idle-s", type=seconds, default=30.0, metavar="S", help="watched while idle (30)")
    options.add_argument("--restarts", type=count, default=5, metavar="N", help="repetitions (5)")
    options.add_argument("--losses", type=int, default=3, metavar="N", help="repetitions, some 20 s each (3)")
    options.add_argument("--live", type=count, default=100_000, metavar="N", help="jobs at a take-over (100,000)")
    options.add_argument("--take-overs", type=int, default=5, metavar="N", help="restarts of a fleet at work (5)")
    options.add_argument("--only-take-overs", action="store_true", help="nothing else")
    given = options.parse_args(arguments)
    if given.lots > given.vehicles:
        options.error(f"--lots {given.lots} is more than the {given.vehicles} vehicles; give at most as many")
    machine = Machine.here()
    console = terminal()
    sizes = [given.vehicles // given.lots + (lot < given.vehicles % given.lots) for lot in range(given.lots)]
    figures: list[Figure] = []
    with TemporaryDirectory(prefix="carpool-") as name, console.status("starting") as status:
        if not given.only_take_overs:
            figures += _idle_fleet(sizes, given, Path(name) / "idle", status)
        if given.take_overs:
            status.update(f"take-overs with {given.live:,} live jobs")
            folder = Path(name) / "at-work"
            folder.mkdir()
            figures += take_over(given.live, sizes, _outages_s(given.take_overs), folder).figures(given.live)
    report = Report(
        "fleet-size",
        f"{given.vehicles:,} vehicles in {given.lots} lots, a coordinator",
        {
            key: getattr(given, key)
            for key in ("vehicles", "lots", "idle_s", "restarts", "losses", "live", "take_overs", "only_take_overs")
        }
        | {"outages_s": OUTAGES_S},
        machine,
        figures,
    )
    report.publish(console, given.json)
    return 0


def _idle_fleet(sizes: Sequence[int], given: argparse.Namespace, folder: Path, status: Status) -> list[Figure]:
    """Vehicles that have nothing to do: watched, restarted below, lost for a while."""
    folder.mkdir()
    begun_s = time.monotonic()
    with Cluster(sizes, ECHO, folder) as cluster:
        fleet = _Fleet(cluster, sizes)
        started_s = time.monotonic() - begun_s
        status.update("idle")
        resident_mb, shares, lots_share = _idle(cluster, given.idle_s / WINDOWS)
        back_s = []
        for repeat, outage_s in enumerate(_outages_s(given.restarts), 1):
            status.update(f"restart {repeat} of {given.restarts}")
            back_s.append(asyncio.run(fleet.restart(outage_s)))
        noticed_s, returned_s = [], []
        for repeat in range(given.losses):
            status.update(f"silent loss {repeat + 1} of {given.losses}")
            lost_s, came_s = asyncio.run(fleet.lose(repeat % given.lots))
            noticed_s.append(lost_s)
            returned_s.append(came_s)
        after_mb = cluster.coordinator.resident_bytes / 1e6
    return [
        Figure("coordinator's resident memory", "MB", resident_mb, Goal(at_most=120)),
        Figure("coordinator's share of a core, idle", "cores", shares, Goal(at_most=0.02)),
        Figure("all back after a restart's exec", "s", back_s, Goal(at_most=2)),
        *([Figure("a silent lot noticed after", "s", noticed_s, Goal(at_most=15))] if noticed_s else ()),
        *([Figure("  and back after it goes on", "s", returned_s)] if returned_s else ()),
        Figure("all the lots' share of a core, idle", "cores", lots_share),
        Figure("resident memory at the end", "MB", [after_mb]),
        Figure("everything started, torch left out", "s", [started_s]),
    ]


def _outages_s(restarts: int) -> list[float]:
    return list(islice(cycle(OUTAGES_S), restarts))


def _idle(cluster: Cluster, window_s: float) -> tuple[list[float], list[float], list[float]]:
    """Resident MB and share of a core of the coordinator, and the share of all lots, for each window."""
    resident_mb, shares, lots_share = [], [], []
    time.sleep(SETTLE_S)
    for _ in range(WINDOWS):
        begun_s, own_s, lots_s = time.monotonic(), cluster.coordinator.cpu_s, [lot.cpu_s for lot in cluster.lots]
        time.sleep(window_s)
        elapsed_s = time.monotonic() - begun_s
        shares.append((cluster.coordinator.cpu_s - own_s) / elapsed_s)
        lots_share.append((sum(lot.cpu_s for lot in cluster.lots) - sum(lots_s)) / elapsed_s)
        resident_mb.append(cluster.coordinator.resident_bytes / 1e6)
    return resident_mb, shares, lots_share


class _Fleet:
    """The vehicles, as a client of the coordinator counts them."""

    def __init__(self, cluster: Cluster, sizes: Sequence[int]) -> None:
        self._cluster = cluster
        self._sizes = sizes

    async def restart(self, outage_s: float) -> float:
        """Seconds from the exec of a new coordinator until every vehicle is offered."""
        self._cluster.coordinator.kill()
        await asyncio.sleep(outage_s)
        self._cluster.restart_coordinator()
        begun_s = self._cluster.coordinator.begun_s
        await self._until(lambda offered: offered == sum(self._sizes))
        elapsed_s = time.monotonic() - begun_s
        await self._verify(silent=None)
        return elapsed_s

    async def lose(self, lot: int) -> tuple[float, float]:
        """Seconds until a lot that fell silent is taken for lost, and until it is back when it goes on."""
        begun_s = time.monotonic()
        self._cluster.lots[lot].pause()
        await self._until(lambda offered: offered <= sum(self._sizes) - self._sizes[lot])
        lost_s = time.monotonic() - begun_s
        await self._verify(silent=lot)
        begun_s = time.monotonic()
        self._cluster.lots[lot].resume()
        await self._until(lambda offered: offered == sum(self._sizes))
        came_s = time.monotonic() - begun_s
        await self._verify(silent=None)
        return lost_s, came_s

    async def _until(self, reached: Callable[[int], bool]) -> None:
        """Ask how many vehicles are offered until that is so; one call costs the coordinator half a millisecond."""
        offered = 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                async with grpc.aio.insecure_channel(self._cluster.target, _IMPATIENT) as channel:
                    stub: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(channel)
                    while True:
                        try:
                            answer = await stub.ListModels(jobs_pb2.ListModelsRequest())
                        except grpc.aio.AioRpcError:
                            self._cluster.coordinator.check()
                        else:
                            offered = sum(model.nodes for model in answer.models)
                            if reached(offered):
                                return
                        await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise BenchmarkFailed(
                f"after {PATIENCE_S:g} s {offered} of {sum(self._sizes)} vehicles are offered"
            ) from None

    async def _verify(self, silent: int | None) -> None:
        """Every vehicle is idle, but those of a silent lot, which are away."""
        async with Client(self._cluster.target) as client:
            nodes = await client.nodes()
        if len(nodes) != sum(self._sizes):
            raise BenchmarkFailed(f"the coordinator lists {len(nodes)} vehicles of {sum(self._sizes)}")
        for node in nodes:
            wanted = "idle" if silent is None or node.lot_id != f"lot-{silent}" else "away"
            if node.state != wanted:
                raise BenchmarkFailed(f"{node.name} of {node.lot_id} is {node.state}; it should be {wanted}")
