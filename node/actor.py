"""Ray around the agent: one actor for each lot, restarted when it dies. The only file that knows Ray.

An actor that is killed comes back as a new process, so with a new incarnation. Ray's own settings are made
here on purpose: no statistics, no dashboard, no nice value, no token file in anybody's home, a short
temporary path. Ray is initialised on a thread beside the loop, so that a signal is heard meanwhile; every way
out passes through `ray.shutdown`, so no process is left.
"""

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from node.config import LotConfig

LONGEST_TEMPORARY_PATH = 60
"""Ray puts sockets of 107 bytes at most some 45 characters below its temporary directory."""
LEAVE_WITHIN_S = 3.0
"""Seconds that the actors get to say goodbye: an agent needs 2 at most."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""About the least that Ray accepts: nothing of ours lies in its store, weights are memory-mapped."""

_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # else workers run at nice 15, and a busy machine slows the fleet tenfold
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors that ask for no GPU still see it
    "RAY_DEDUP_LOGS": "0",
}


class LotActor:
    """One lot in one Ray worker."""

    def __init__(self, config: LotConfig) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()

    async def serve(self) -> None:
        """Run the lot until `stop`; Ray calls it again on a restarted actor."""
        from node.agent import Agent

        await Agent.equipped(self._config).run(self._stop, self._ready.set)

    async def ready(self) -> None:
        """Return when the first offers are made."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Ask the lot to leave on purpose."""
        self._stop.set()


async def serve(
    lots: Sequence[LotConfig],
    address: str | None,
    run_dir: Path | None,
    stop: asyncio.Event,
    ready: Callable[[LotConfig], None],
) -> None:
    """Serve these lots from actors until `stop` is set; raises what an agent cannot start with."""
    temporary = _prepare(run_dir) if address is None else None
    import ray

    try:
        await asyncio.to_thread(_initialise, ray, address, temporary)
        for number in (signal.SIGTERM, signal.SIGINT):  # again: Ray has put handlers of its own in place
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _serve(ray, lots, stop, ready)
    finally:
        await asyncio.to_thread(ray.shutdown)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


async def _serve(
    ray: Any, lots: Sequence[LotConfig], stop: asyncio.Event, ready: Callable[[LotConfig], None]
) -> None:
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 16}
    cards = ray.cluster_resources().get("GPU", 0)
    if lots[0].device == "cuda" and cards:
        options["num_gpus"] = min(1.0, cards / len(lots))
    actors = [ray.remote(LotActor).options(**options).remote(config) for config in lots]

    async def announce(actor: Any, config: LotConfig) -> None:
        await actor.ready.options(max_task_retries=0).remote()
        ready(config)

    async def leave() -> None:
        await stop.wait()
        await asyncio.gather(*(_answer(actor.stop.remote()) for actor in actors))

    running = [asyncio.ensure_future(_answer(actor.serve.remote())) for actor in actors]
    others = [asyncio.ensure_future(announce(*pair)) for pair in zip(actors, lots, strict=True)]
    others.append(asyncio.ensure_future(leave()))
    try:
        done, _ = await asyncio.wait(
            [*running, asyncio.ensure_future(stop.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        if stop.is_set():
            await asyncio.wait(running, timeout=LEAVE_WITHIN_S)
        for task in done:
            await task
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    finally:
        for task in (*running, *others):
            task.cancel()
        for actor in actors:
            with suppress(Exception):
                ray.kill(actor, no_restart=True)


async def _answer(reference: Any) -> object:
    return await reference


def _initialise(ray: Any, address: str | None, temporary: Path | None) -> None:
    if address is not None:
        ray.init(address=address, log_to_driver=False, namespace="carpool")
        return
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        namespace="carpool",
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(temporary),
    )


def _prepare(run_dir: Path | None) -> Path:
    """Set what Ray reads from the environment; its temporary directory."""
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost", "::1"]))
    if run_dir is not None and len(str(run_dir.absolute() / "ray")) < LONGEST_TEMPORARY_PATH:
        return run_dir.absolute() / "ray"
    return Path(tempfile.mkdtemp(prefix="carpool-ray-"))
