"""The life of one lot: opens it, keeps its cars and its stream going, hands work to the executor, and leaves.

A plain async class: `actor` wraps it with Ray in a few lines, `python -m node` runs it without. It decides
nothing; it carries out the effects of `lot` and tells it what came of them.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from math import isfinite
from os import getpid
from pathlib import Path

import grpc

from node import driver
from node.address import LotAddress
from node.cars import Cars
from node.config import LotConfig
from node.equipment import equipment
from node.errands import Errands
from node.events import Event, ShutDown, Stopped
from node.executor import Executor
from node.facts import Facts
from node.hand import Hand
from node.inbox import Inbox
from node.kept import Kept
from node.link import Link
from node.lot import Lot
from node.messages import Granted, ModelOffer, Token
from node.models import NOOP, ModelCache
from node.neighbour import sharing
from node.transfer import Transfers
from node.uplink import CHANNEL_OPTIONS, Uplink, bearer
from node.weights import Site, fetch_missing
from node.work import Key, Listener, ModelSpeed, Work

STOP_WITHIN_S = 1.5
"""What a shutdown waits for the executor and the coordinator; with the rest it stays below 2 s."""


class Agent:
    """One lot from start to end."""

    def __init__(self, config: LotConfig, equip: Callable[[Listener], Executor], kept: Kept | None = None) -> None:
        """Made on its loop. `kept` is what `keep` said in the process before, if this lot had one."""
        self._config = config
        self._kept = kept
        self.to_keep = asyncio.Event()
        self._inbox = Inbox(self._handle, lambda token, on_wire: self._uplink.announced(token, on_wire))
        self._executor = equip(self._inbox)
        self._loop = asyncio.get_running_loop()
        self._hand_moved = asyncio.Event()
        self._facts: Facts | None = None
        self.hand: Hand
        """The driver's, once the lot has cars."""

    @classmethod
    def equipped(cls, config: LotConfig, kept: Kept | None = None) -> "Agent":
        """An agent with an executor of its own; raises ModelError when there is nothing to run."""
        return cls(config, equipment(config), kept)

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until `stop` is set, then leave on purpose; `ready` is called when the first offers are made.

        Raises CoordinatorRefused, and ModelError when the executor cannot start.
        """
        try:
            async with contextlib.AsyncExitStack() as exits:
                if await self._fetched(exits, stop):
                    await self._open(ready)
                    await self._serve(exits, stop)
        finally:
            await asyncio.to_thread(self._executor.close)
            if self._facts is not None:
                await asyncio.to_thread(self._facts.close)

    def keep(self) -> Kept:
        """A copy of what the next process of this lot must know. `to_keep` is set when owners have said something;
        charge and heat move all the time."""
        return self._cars.kept()

    async def _fetched(self, exits: contextlib.AsyncExitStack, stop: asyncio.Event) -> bool:
        """Bring the models here that are to be offered; False when there was no time left for that."""
        config, cache = self._config, ModelCache.of_user()
        site = Site(config.run_dir, config.site, config.lot_id) if config.run_dir and config.site else None
        await exits.enter_async_context(sharing(site, cache))
        metadata = bearer(config.api_key)
        fetching = asyncio.ensure_future(
            fetch_missing(config.models or (), cache, config.coordinator, metadata, site)
        )
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
            if fetching.done():
                fetching.result()
            return fetching.done()
        finally:
            fetching.cancel()
            stopping.cancel()
            await asyncio.wait((fetching, stopping))

    async def _open(self, ready: Callable[[], None]) -> None:
        """Everything that needs no coordinator."""
        config = self._config
        speeds = await asyncio.to_thread(self._executor.start)
        names = [speed.name for speed in speeds]
        lacking = _weights_bytes(names) if config.weights == "fetched" and self._kept is None else 0
        now_s, throttle = self._loop.time(), self._executor.throttle
        self._cars = Cars(config, self._kept, names, lacking, now_s, time.time(), throttle)
        incarnation = secrets.randbits(64) or 1
        paced = {s.name: s.paced_items_per_s for s in speeds if isfinite(s.paced_items_per_s)}
        models = [_offer(speed) for speed in speeds]
        self._lot = Lot(config.lot_id, incarnation, self._cars.rows(), models, self._cars.ways(), paced)
        link = Link(random.Random(f"{config.seed}/{config.lot_id}/{incarnation}"))
        metadata = bearer(config.api_key)
        self._uplink = Uplink(config.coordinator, metadata, self._lot, link, self._handle, ready)
        self.hand = Hand(
            self._cars, self._lot, self._handle, self._uplink.flushed, self._hand_moved.set, self.to_keep.set
        )
        told = [] if self._kept is None else self._cars.lend(now_s)  # the new lot is told anew
        self._kept = None
        self._lot.handle([*told, self._cars.refusals()], now_s)
        if config.facts is not None:
            self._facts = Facts(config.facts, f"{config.lot_id}-{incarnation:x}", config.names)
            self._cars.write(self._facts, now_s)
        self.to_keep.set()

    async def _serve(self, exits: contextlib.AsyncExitStack, stop: asyncio.Event) -> None:
        config = self._config
        server, address = await driver.serve(self.hand)
        exits.push_async_callback(server.stop, 0.2)
        if config.run_dir is not None:
            written = LotAddress(config.lot_id, address, config.names, getpid()).write(config.run_dir)
            exits.callback(_remove, written)
        channel = await exits.enter_async_context(grpc.aio.insecure_channel(config.coordinator, CHANNEL_OPTIONS))
        try:
            async with asyncio.TaskGroup() as tasks:
                self._errands = Errands(Transfers(channel, self._uplink.metadata), tasks, self._handle)
                living = tasks.create_task(self._live())
                linked = tasks.create_task(self._uplink.run())
                await stop.wait()
                living.cancel()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_WITHIN_S):
                        await self._leave(linked)
                linked.cancel()
                self._errands.close()
        except BaseExceptionGroup as troubles:
            raise troubles.exceptions[0] from None

    async def _live(self) -> None:
        """Windows open and close, batteries charge, expectations change, owners' terms come to bear."""
        while True:
            self._hand_moved.clear()
            self._handle(self._cars.pass_time(self._loop.time(), self._lot.vehicles))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._cars.wait_s(self._loop.time())):
                    await self._hand_moved.wait()

    async def _leave(self, linked: asyncio.Task[None]) -> None:
        """Stop everything, report it, say goodbye; nobody to say it to is fine."""
        stopping = self._handle((ShutDown(),))
        if stopping is not None:
            await stopping
        await self._uplink.flushed()
        if self._lot.said_goodbye:
            await asyncio.wait((linked,))

    # What the lot wants done

    def _handle(self, events: Sequence[Event]) -> Awaitable[object] | None:
        """Tell the lot, do what it wants; what to await until its stops are done, if there are any."""
        effects = self._lot.handle(events, self._loop.time())
        stopping = self._stop(effects.stop) if effects.stop else None
        if self._facts is not None:
            self._cars.write_leases(self._facts, effects.began, effects.ended, self._loop.time())
        if effects.wind_down:
            self._end(effects.wind_down, gently=True)
        for granted in effects.start:
            self._executor.submit(_work(granted))
        for granted in effects.fetch:
            self._errands.begin(granted)
        for put in effects.put:
            self._errands.begin(put)
        if self._lot.pending:
            self._uplink.news()
        return stopping

    def _stop(self, tokens: Sequence[Token]) -> Awaitable[object]:
        self._errands.stop(tokens)
        stopped = self._end(tokens, gently=False)
        self._uplink.released(tokens)
        return asyncio.wrap_future(stopped)

    def _end(self, tokens: Sequence[Token], *, gently: bool) -> Future[dict[Key, float]]:
        """Have the executor end these, and tell the lot when it has."""

        def told(future: Future[dict[Key, float]]) -> None:
            lost_s = future.result()
            self._inbox.put(Stopped({token: lost_s.get(token, 0.0) for token in tokens}))

        stopped = self._executor.stop(tokens, gently=gently)
        stopped.add_done_callback(told)
        return stopped


def _weights_bytes(models: Sequence[str]) -> int:
    """What all files of these models take."""
    cache = ModelCache.of_user()
    return sum(cache.get(name).bytes for name in models if name != NOOP)


def _offer(speed: ModelSpeed) -> ModelOffer:
    return ModelOffer(
        model=speed.name,
        digest=speed.digest,
        kind=speed.kind,
        items_per_s=speed.items_per_s,
        load_s=speed.load_s,
        batch_items=speed.batch_items,
        max_item_bytes=speed.max_item_bytes,
        input_shape=speed.input_shape,
        output_shape=speed.output_shape,
        context_tokens=speed.context_tokens,
    )


def _work(granted: Granted) -> Work:
    return Work(
        key=granted.token,
        vehicle=granted.node,
        model=granted.model,
        inputs=granted.inputs,
        offsets=range(len(granted.inputs)),
        interactive=granted.interactive,
        solo=granted.solo,
        begun=granted.begun,
        streamed=granted.streamed,
        tenant=granted.tenant,
    )


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
