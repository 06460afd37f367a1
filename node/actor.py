"""Ray around the agent: one actor for each lot, restarted when it dies. With `cluster` all that knows Ray.

An actor that is killed comes back as a new process, on another node if its own is gone, and so with a new
incarnation. Its cars come back as they were: each lot hands what its next process must know (`Agent.keep`) to this
one, which outlives it and gives it to the next. Ray is initialised on a thread beside the loop, so that a signal is
heard meanwhile; every way out passes through `ray.shutdown`, so no process is left.
"""

import asyncio
import logging
import math
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node import cluster
from node.cluster import ClusterGone, ClusterUnusable
from node.config import LotConfig
from node.kept import Kept

if TYPE_CHECKING:
    from node.agent import Agent

logger = logging.getLogger(__name__)

LEAVE_WITHIN_S = 3.0
"""Seconds that the actors get to say goodbye: an agent needs 2 at most."""
KEEP_EVERY_S = 5.0
"""Real seconds between two times that a lot hands over how its cars are: so much of their charge and of the network
that they used is forgotten at most when it is killed. What owners say is handed over at once."""
PLACED_WITHIN_S = 30.0
"""Ray starts a process in seconds; what takes longer waits for a card, or a core of a full cluster (assumed)."""
LEAST_CPUS = 0.001
"""Ray places actors that ask for nothing at random, whatever the strategy."""
RAY_STEPS = 10_000
"""Ray counts resources in such parts of one; a share is rounded down, or the last lot of a card would not fit."""


@dataclass(frozen=True, slots=True)
class Life:
    """How a lot is doing."""

    kept: Kept  # what its next process must know
    ready: bool  # whether its first offers are made


class LotActor:
    """One lot in one Ray worker."""

    def __init__(self, config: LotConfig) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._running: asyncio.Future[None] | None = None
        self._told_of: Agent | None = None  # has cars, of which there is something to keep

    async def placed(self) -> tuple[str, float]:
        """The address of the Ray node that it is on, and what it was given of a card."""
        import ray

        gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
        return str(ray.util.get_node_ip_address()), float(gpus)

    async def serve(self, kept: Kept | None) -> AsyncIterator[Life]:
        """Run the lot until `stop`, and tell how it is doing; `kept` is from the process before. Called again in
        the same process it goes on with what that knows: what owners said last may not have come through."""
        from node.agent import Agent

        if self._running is not None:  # the network failed, not this process: the call before was given up
            self._running.cancel()
            await asyncio.wait((self._running,))
            kept = kept if self._told_of is None else self._told_of.keep()
        agent = Agent.equipped(self._config, kept)
        ready = asyncio.Event()

        def announce() -> None:
            ready.set()
            agent.to_keep.set()

        running = self._running = asyncio.ensure_future(agent.run(self._stop, announce))
        patience_s = None
        while True:
            telling = asyncio.ensure_future(agent.to_keep.wait())
            await asyncio.wait((running, telling), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            telling.cancel()
            if running.done():
                break
            agent.to_keep.clear()
            self._told_of = agent
            patience_s = KEEP_EVERY_S
            yield Life(agent.keep(), ready.is_set())
        await running

    async def stop(self) -> None:
        """Ask the lot to leave on purpose."""
        self._stop.set()


async def serve(
    lots: Sequence[LotConfig],
    address: str | None,
    stop: asyncio.Event,
    ready: Callable[[LotConfig, str], None],
) -> None:
    """Serve these lots from actors until `stop` is set; `ready` is called with where a lot is, each time that it is
    back. Raises ClusterUnusable, and what an agent cannot start with."""
    temporary = await asyncio.to_thread(cluster.prepare, address, lots[0].run_dir)
    import ray

    patience_s = None if address is None else cluster.LEFT_WITHIN_S  # one of our own must end
    try:
        await asyncio.to_thread(cluster.join, ray, address, temporary)
        for number in (signal.SIGTERM, signal.SIGINT):  # again: Ray has put handlers of its own in place
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _serve(ray, lots, stop, ready)
    except ClusterGone:
        patience_s = cluster.LEFT_WITHIN_S
        raise
    finally:
        await cluster.leave(ray, patience_s)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


async def _serve(
    ray: Any, lots: Sequence[LotConfig], stop: asyncio.Event, ready: Callable[[LotConfig, str], None]
) -> None:
    options = _options(ray, lots)
    actors = [ray.remote(LotActor).options(**options).remote(config) for config in lots]

    async def leave() -> None:
        await stop.wait()
        await asyncio.gather(*(_answer(actor.stop.remote()) for actor in actors), return_exceptions=True)

    running = [
        asyncio.ensure_future(_keep(ray, actor, config, ready)) for actor, config in zip(actors, lots, strict=True)
    ]
    watching = asyncio.ensure_future(cluster.gone(ray))
    leaving = asyncio.ensure_future(leave())
    stopping = asyncio.ensure_future(stop.wait())
    lost = False
    try:
        done, _ = await asyncio.wait([*running, watching, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await asyncio.wait(running, timeout=LEAVE_WITHIN_S)
        lost = watching in done
        for task in done:
            await task
    finally:
        for task in (*running, watching, leaving, stopping):
            task.cancel()
        for actor in () if lost else actors:
            with suppress(Exception):
                ray.kill(actor, no_restart=True)


def _options(ray: Any, lots: Sequence[LotConfig]) -> dict[str, Any]:
    """What each lot's actor asks Ray for: to be restarted, on whatever node, and to lie apart from the others."""
    cards = ray.cluster_resources().get("GPU", 0.0) if lots[0].device == "cuda" else 0.0
    asked = {"num_cpus": 0, "num_gpus": share_of_card(cards, len(lots))} if cards >= 1 else {"num_cpus": LEAST_CPUS}
    return {
        **asked,
        "scheduling_strategy": "SPREAD",
        "max_restarts": -1,
        "max_task_retries": 0,  # `_keep` calls again, with what it has kept
        "max_concurrency": 16,
    }


def share_of_card(cards: float, lots: int) -> float:
    """What each lot asks for of a card, at most a whole one, so that all find room on so many cards, at least 1."""
    return max(1, RAY_STEPS // math.ceil(lots / int(cards))) / RAY_STEPS


async def _keep(ray: Any, actor: Any, config: LotConfig, ready: Callable[[LotConfig, str], None]) -> None:
    """Have the lot served, by one process of its actor after the other, until it has left; raises what it cannot
    start with."""
    kept: Kept | None = None
    while True:
        was_ready = False
        try:
            placed = asyncio.ensure_future(_answer(actor.placed.options(max_task_retries=-1).remote()))
            if placed not in (await asyncio.wait((placed,), timeout=PLACED_WITHIN_S))[0]:
                logger.warning("lot %s waits until the Ray cluster has room for it", config.lot_id)
            ray_node, gpus = await placed
            async for reference in actor.serve.remote(kept):
                life: Life = await reference
                kept = life.kept
                if life.ready and not was_ready:
                    was_ready = True
                    ready(config, f" ray_node={ray_node} gpus={gpus:g}")
            return
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.ObjectLostError):
            logger.warning("lot %s is lost: its process, or its machine; Ray starts it again", config.lot_id)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except ray.exceptions.RayError as error:
            why = cluster.last_line(error)
            raise ClusterUnusable(
                f"lot {config.lot_id} cannot be started in the Ray cluster ({why}); its machines need the same "
                f"Carpool as this one"
            ) from None


async def _answer(reference: Any) -> Any:
    return await reference
