"""The server: assembles core, store, runtime and services, and serves them until told to stop."""

import asyncio
import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from coordinator import cohorts, upkeep
from coordinator.batches import Batches
from coordinator.config import MEMORY, Config, StoreSettings
from coordinator.core.forecast import Forecast
from coordinator.core.scheduler import Scheduler
from coordinator.files import Files
from coordinator.keys import Keys
from coordinator.metrics import Metrics
from coordinator.runtime import Runtime
from coordinator.services.http import health_routes, listen, metrics_app
from coordinator.services.http import serve as serve_http
from coordinator.services.openai.app import openai_app
from coordinator.services.openai.batch_readers import READERS
from coordinator.services.rpc import RpcPort
from coordinator.store import Corrupt, Store
from coordinator.store.memory import MemoryStore
from coordinator.store.opening import Occupied
from coordinator.store.sqlite import SqliteStore
from coordinator.wire import Terms

_OPEN_FILES = 1 << 16
"""Sockets and files that the process may have open, if the system allows so many."""


class CannotServe(Exception):
    """The server cannot start; the message says why and what to do."""


async def serve(config: Config, keys: Keys, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Serve until `stop`; calls `ready` with one line when clients can connect.

    Raises CannotServe when an address cannot be had, and whatever the runtime failed with.
    """
    _allow_open_files()
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
        await _serve(config, keys, scheduler, store, runtime, terms, stop, ready)


def _allow_open_files() -> None:
    """Systems allow a process 1,024 until it asks for more; each client that is connected takes one."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    if least != resource.RLIM_INFINITY and least < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


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
                store: Store = MemoryStore(metrics.observe_commit, settings.memory_file_bytes)
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
    scheduler: Scheduler,
    store: Store,
    runtime: Runtime,
    terms: Terms,
    stop: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    host, metrics, trouble = config.listen.host, runtime.metrics, runtime.trouble

    def is_ready() -> bool:
        return not stop.is_set()

    rpc = RpcPort(runtime, keys, config.limits, terms, is_ready)
    try:
        grpc_port = rpc.listen(_address(host, config.listen.grpc_port))
    except RuntimeError as error:
        raise CannotServe(_in_use(host, config.listen.grpc_port, "--grpc-port")) from error
    sockets = {}
    for flag, port in (("--http-port", config.listen.http_port), ("--metrics-port", config.listen.metrics_port)):
        try:
            sockets[flag] = listen(host, port)
        except OSError as error:
            raise CannotServe(_in_use(host, port, flag)) from error
    files = Files(runtime, config.store)
    batches = Batches(runtime, files, READERS, config.limits, config.store.keep_finished_s)
    try:
        unended = await batches.unended()
    except Corrupt as corrupt:
        raise CannotServe(str(corrupt)) from None
    await rpc.start()
    ports = {flag: socket.getsockname()[1] for flag, socket in sockets.items()}
    http_stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        batches.resume(unended, tasks)
        openai = openai_app(runtime, keys, files, batches, config.limits, health_routes(is_ready))
        tasks.create_task(serve_http(openai, sockets["--http-port"], http_stop))
        tasks.create_task(serve_http(metrics_app(metrics), sockets["--metrics-port"], http_stop))
        watching = (
            tasks.create_task(upkeep.measure_lag(metrics)),
            tasks.create_task(upkeep.check_invariants(scheduler, metrics)),
            tasks.create_task(store.scrub(trouble.damaged)),
            tasks.create_task(upkeep.forget(store, runtime.shelf, trouble, runtime.jobs.kept, config.store)),
        )
        ready(
            f"coordinator ready grpc={_address(host, grpc_port)} http={_address(host, ports['--http-port'])} "
            f"metrics={_address(host, ports['--metrics-port'])}"
        )
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait((stopping, trouble.failed), return_when=asyncio.FIRST_COMPLETED)
        runtime.requests.close()
        await rpc.stop()
        http_stop.set()
        batches.close()
        for task in watching:
            task.cancel()
        stopping.cancel()
    if trouble.failed.done():
        trouble.failed.result()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _in_use(host: str, port: int, flag: str) -> str:
    return f"cannot listen on {_address(host, port)}: it is in use or not ours; choose another {flag} (0 for any)"
