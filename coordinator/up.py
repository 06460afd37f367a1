"""`carpool up`: a coordinator and its lots on this machine, as child processes.

Owns their command lines, the order in which they start and stop, and the wait until the fleet can take work.
Knows nothing of what they do. Each child watches its standard input, a pipe that this process holds and never
writes to: when this process is gone, for whatever reason, the children end.
"""

import asyncio
import os
import re
import signal
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from coordinator import rundir
from coordinator.child import Child
from coordinator.client import Client
from coordinator.errors import CarpoolError

POLL_S = 0.1  # between two looks at a fleet that starts
AWAY_S = 2.0  # after all lots have called: a car that is not offered by then is away
LOTS_STOP_S = 20.0  # how long the lots, and Ray below them, may take to end
COORDINATOR_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to bring up. An empty string, None or an empty tuple leaves the choice to the child."""

    vehicles: int
    profile: str
    vehicles_per_actor: int | None
    speed: float | None
    pace: str
    day: str
    storm: str
    models: tuple[str, ...]
    device: str
    dtype: str
    threads: int | None
    seed: int | None
    ray_address: str
    host: str
    grpc_port: int
    http_port: int
    metrics_port: int
    state: Path | None
    api_keys: Path | None
    config: Path | None
    site: str = ""
    place: str = ""
    weights: str = ""
    terms: Path | None = None  # None: every owner takes part, and asks for nothing
    facts: Path | None = None
    memory_gb: float | None = None
    kv_positions: int | None = None
    batch_delay_ms: float | None = None

    def coordinator(self, folder: Path) -> list[str]:
        """Arguments of `python -m`; `folder` is the cluster's, and goes with it."""
        state = self.state
        if state is None and self.config is None:  # which may say where
            state = folder / "state"
        flags: dict[str, object] = {
            "--host": self.host,
            "--grpc-port": self.grpc_port,
            "--http-port": self.http_port,
            "--metrics-port": self.metrics_port,
            "--state": state,
            "--api-keys": self.api_keys,
            "--config": self.config,
        }
        return ["coordinator", *_arguments(flags)]

    def lots(self, coordinator: str, folder: Path) -> list[str]:
        """Arguments of `python -m`."""
        flags: dict[str, object] = {
            "--coordinator": coordinator,
            "--run-dir": folder,
            "--vehicles": self.vehicles,
            "--profile": self.profile,
            "--vehicles-per-actor": self.vehicles_per_actor,
            "--speed": self.speed,
            "--pace": self.pace,
            "--day": self.day,
            "--storm": self.storm,
            "--models": ",".join(self.models),
            "--device": self.device,
            "--dtype": self.dtype,
            "--threads": self.threads,
            "--memory-gb": self.memory_gb,
            "--kv-positions": self.kv_positions,
            "--batch-delay-ms": self.batch_delay_ms,
            "--seed": self.seed,
            "--ray-address": self.ray_address,
            "--site": self.site,
            "--place": self.place,
            "--weights": self.weights,
            "--terms": self.terms and self.terms.absolute(),
            "--facts": self.facts and self.facts.absolute(),
        }
        willing = () if self.terms else ("--opt-in",)
        return ["node", "--ray", *willing, *_arguments(flags)]


def _arguments(flags: dict[str, object]) -> list[str]:
    return [text for flag, value in flags.items() if value not in (None, "") for text in (flag, str(value))]


async def up(
    plan: Plan, console: Console, announce: Callable[[rundir.Cluster], None], stop_at_eof: bool
) -> signal.Signals:
    """Bring the cluster up, announce it when it can take work, and keep it until a signal, which is returned.

    The end of standard input is taken for SIGTERM, if asked for. CarpoolError when a child ends by itself. No child
    is left either way.
    """
    node_key, operator_key = _keys(plan.api_keys) if plan.api_keys else ("", "")
    folder = rundir.create_cluster_dir()
    children: list[tuple[Child, float]] = []
    signals = _cancel_on_signals(children, stop_at_eof)
    logs_matter = False
    try:
        async with asyncio.TaskGroup() as group:
            coordinator = await Child.start("coordinator", plan.coordinator(folder), folder)
            children.append((coordinator, COORDINATOR_STOP_S))
            cluster = _cluster(await coordinator.first_line(), folder)
            group.create_task(coordinator.ended())
            lots = await Child.start("lots", plan.lots(cluster.grpc, folder), folder, node_key)
            children.append((lots, LOTS_STOP_S))
            group.create_task(lots.ended())
            await _can_take_work(plan, cluster.grpc, operator_key, console)
            rundir.write_last(cluster)
            announce(cluster)
        raise AssertionError("the children's tasks end by raising")
    except asyncio.CancelledError:
        if not signals:
            raise
        return signals[0]
    except BaseExceptionGroup as troubles:
        trouble = troubles.exceptions[0]
        logs_matter = not (isinstance(trouble, CarpoolError) and trouble.exit_code == 2)
        raise trouble from None
    finally:
        for child, patience_s in reversed(children):
            await child.stop(patience_s)
        rundir.forget(folder, keep=logs_matter)


def _cancel_on_signals(children: Sequence[tuple[Child, float]], stop_at_eof: bool) -> Sequence[signal.Signals]:
    """The signals that came: the first cancels the running task, each further one kills the children."""
    task = asyncio.current_task()
    assert task is not None
    came: list[signal.Signals] = []

    def take(number: signal.Signals) -> None:
        came.append(number)
        if len(came) == 1:
            task.cancel()
        else:
            for child, _ in children:
                child.kill()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            take(signal.SIGTERM)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, take, number)
    if stop_at_eof:
        loop.add_reader(0, read)
    return came


def models_to_offer(named: str, noop: bool) -> tuple[str, ...]:
    """The models of `--models a,b`, or all that the cache holds, and `noop` if that is wanted."""
    cache = Path(os.environ.get("CARPOOL_CACHE") or Path.home() / ".cache" / "carpool")
    cached = sorted(path.parent.name for path in cache.glob("models/[!.]*/manifest.json"))
    names = [name.strip() for name in named.split(",") if name.strip()] or cached
    for name in names:
        if name not in cached and name != "noop":
            held = f"it holds {', '.join(cached)}" if cached else "it is empty"
            raise CarpoolError(f"no model {name} in the cache {cache}: {held}; try `carpool models add {name}`")
    if noop and "noop" not in names:
        names.append("noop")
    if not names:
        raise CarpoolError(f"no model in the cache {cache}; add one, for example `carpool models add minilm`")
    return tuple(names)


def _keys(path: Path) -> tuple[str, str]:
    """The first key of [nodes] and of [operators]."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise CarpoolError(f"cannot read the key file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CarpoolError(f"the key file {path} is not TOML: {error}") from None
    first = {}
    for name in ("nodes", "operators"):
        table = tables.get(name)
        keys = list(table.values()) if isinstance(table, dict) else []
        if not keys or not isinstance(keys[0], str):
            raise CarpoolError(f"the key file {path} has no key under [{name}]; `carpool up` needs one")
        first[name] = keys[0]
    return first["nodes"], first["operators"]


def _cluster(line: str, folder: Path) -> rundir.Cluster:
    """From the line by which the coordinator says where it serves."""
    match = re.fullmatch(r"coordinator ready grpc=(\S+) http=(\S+) metrics=(\S+)", line)
    if match is None:
        raise CarpoolError(f"the coordinator said {line!r} where its addresses were due", exit_code=1)
    return rundir.Cluster(match[1], match[2], match[3], str(folder), os.getpid())


async def _can_take_work(plan: Plan, target: str, api_key: str, console: Console) -> None:
    """Returns when every vehicle that is plugged in is offered: all of them where none is away or has terms, and no
    place lacks Wi-Fi or is to fetch weights over."""
    everyone = plan.day in ("", "parked", "rack") and not plan.terms and not plan.place
    called_s = None
    async with Client(target, api_key) as client:
        with console.status("starting the cars") as status:
            while True:
                nodes = await client.nodes()
                offered = sum(node.state in ("idle", "busy") for node in nodes)
                if len(nodes) == plan.vehicles:
                    now_s = asyncio.get_running_loop().time()
                    called_s = now_s if called_s is None else called_s
                    if offered == plan.vehicles or (not everyone and now_s >= called_s + AWAY_S):
                        return
                status.update(f"starting the cars: {offered} of {plan.vehicles} are ready")
                await asyncio.sleep(POLL_S)
