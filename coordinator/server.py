"""The server: assembles core, store, runtime and services, and serves them until told to stop."""

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator import cohorts
from coordinator.config import MEMORY, Config, StoreSettings
from coordinator.core.forecast import Forecast
from coordinator.core.scheduler import Scheduler
from coordinator.keys import Keys
from coordinator.metrics import Metrics
from coordinator.runtime import Runtime
from coordinator.services.edge import Edge
from coordinator.services.fleet import FleetService
from coordinator.services.http import health_app, listen, metrics_app
from coordinator.services.http import serve as serve_http
from coordinator.services.jobs import JobService
from coordinator.services.link import LinkService
from coordinator.services.transfer import TransferService
from coordinator.services.weights import WeightsService
from coordinator.store import Corrupt, Store
from coordinator.store.memory import MemoryStore
from coordinator.store.opening import Occupied
from coordinator.store.sqlite import SqliteStore
from coordinator.wire import Terms
from protos import (
    fleet_pb2,
    fleet_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    link_pb2,
    link_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
)

_GRACE_S = 1.0  # for calls that are open when the server stops

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
    ("grpc.http2.lookahead_bytes", 1 << 20),  # on their way before they are asked for: one message of a submission
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)


class CannotServe(Exception):
    """The server cannot start; the message says why and what to do."""


async def serve(config: Config, keys: Keys, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Serve until `stop`; calls `ready` with one line when clients can connect.

    Raises CannotServe when an address cannot be had, and whatever the runtime failed with.
    """
    metrics = Metrics(lambda: scheduler.snapshot(monotonic()), lambda: store.state())
    with _store(config.store, metrics) as store:
        began_s = monotonic()
        forecast = Forecast(cohorts.load())
        try:
            with _uncollected():
                scheduler = Scheduler.restore(config.scheduling, store.epoch, store.live(), began_s, forecast)
        except Corrupt as corrupt:
            raise CannotServe(str(corrupt)) from None
        metrics.set_recovery(monotonic() - began_s)
        runtime = Runtime(scheduler, store, metrics, config.limits, store.newest_job)
        terms = Terms(
            store.epoch,
            config.scheduling.heartbeat_s,
            config.scheduling.silent_after_s,
            forecast.cohorts,
            config.scheduling.carbon_price_per_kg,
        )
        await _serve(config, keys, runtime, terms, stop, ready)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Whatever is made inside is there to stay: the collector walks it neither now, which would double the time
    that 100,000 jobs take, nor in a full collection later."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def _store(settings: StoreSettings, metrics: Metrics) -> Iterator[Store]:
    """The store that the settings name, closed at the end. Raises CannotServe."""
    with ExitStack() as exits:
        folder = settings.folder or exits.enter_context(TemporaryDirectory(prefix="carpool-state-"))
        try:
            if folder == MEMORY:
                store: Store = MemoryStore(metrics.observe_commit)
            else:
                store = SqliteStore(Path(folder), metrics.observe_commit, free_bytes=settings.free_bytes)
        except (Corrupt, Occupied) as error:
            raise CannotServe(str(error)) from None
        except OSError as error:
            raise CannotServe(f"cannot keep state in {folder}: {error.strerror}; choose another --state") from None
        exits.callback(store.close)
        yield store


async def _serve(
    config: Config,
    keys: Keys,
    runtime: Runtime,
    terms: Terms,
    stop: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    host, metrics = config.listen.host, runtime.metrics
    edge = Edge(keys, metrics)
    server = grpc.aio.server(options=_OPTIONS)
    jobs_pb2_grpc.add_JobServiceServicer_to_server(JobService(runtime, edge, config.limits), server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetService(runtime, edge), server)
    links = LinkService(runtime, edge, terms, config.limits.joins_per_s)
    link_pb2_grpc.add_LinkServiceServicer_to_server(links, server)
    link_pb2_grpc.add_TransferServiceServicer_to_server(TransferService(runtime, edge), server)
    weights_pb2_grpc.add_WeightsServiceServicer_to_server(WeightsService(edge, _cache()), server)
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs miss it
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = [
        *(
            service.full_name
            for file in (jobs_pb2.DESCRIPTOR, fleet_pb2.DESCRIPTOR, link_pb2.DESCRIPTOR, weights_pb2.DESCRIPTOR)
            for service in file.services_by_name.values()
        ),
        health.SERVICE_NAME,
    ]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    try:
        grpc_port = server.add_insecure_port(_address(host, config.listen.grpc_port))
    except RuntimeError as error:
        raise CannotServe(_in_use(host, config.listen.grpc_port, "--grpc-port")) from error
    sockets = {}
    for flag, port in (("--http-port", config.listen.http_port), ("--metrics-port", config.listen.metrics_port)):
        try:
            sockets[flag] = listen(host, port)
        except OSError as error:
            raise CannotServe(_in_use(host, port, flag)) from error
    await server.start()
    for name in ("", *names):
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    ports = {flag: socket.getsockname()[1] for flag, socket in sockets.items()}
    http_stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve_http(health_app(lambda: not stop.is_set()), sockets["--http-port"], http_stop))
        tasks.create_task(serve_http(metrics_app(metrics), sockets["--metrics-port"], http_stop))
        watching = (
            tasks.create_task(runtime.measure_lag()),
            tasks.create_task(runtime.check_invariants()),
            tasks.create_task(runtime.scrub()),
            tasks.create_task(runtime.forget(config.store)),
        )
        ready(
            f"coordinator ready grpc={_address(host, grpc_port)} http={_address(host, ports['--http-port'])} "
            f"metrics={_address(host, ports['--metrics-port'])}"
        )
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait((stopping, runtime.failed), return_when=asyncio.FIRST_COMPLETED)
        runtime.requests.close()
        await status.enter_graceful_shutdown()
        await server.stop(_GRACE_S)
        http_stop.set()
        for task in watching:
            task.cancel()
        stopping.cancel()
    if runtime.failed.done():
        runtime.failed.result()


def _cache() -> Path:
    """The model cache of this machine, as `carpool models` fills it."""
    return Path(os.environ.get("CARPOOL_CACHE") or Path.home() / ".cache" / "carpool")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _in_use(host: str, port: int, flag: str) -> str:
    return f"cannot listen on {_address(host, port)}: it is in use or not ours; choose another {flag} (0 for any)"
