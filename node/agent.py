"""The life of one lot: drives lot, link, day and guard by the clock, and hands work to the executor.

A plain async class: `actor` wraps it with Ray in a few lines, `python -m node` runs it without. It decides
nothing; it carries out the effects of `lot` and tells it what came of them.
"""

import asyncio
import contextlib
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import isfinite
from os import getpid
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from node import day, driver, plan, profile, site, storm
from node.address import LotAddress
from node.battery import Battery
from node.config import LotConfig
from node.events import (
    Announced,
    Event,
    InputsFetched,
    Put,
    RefusalsSaid,
    ResidencyChanged,
    ResultPut,
    Said,
    ShutDown,
    Stopped,
    TransferRefused,
    WindowsEstimated,
    Worked,
)
from node.executor import Executor
from node.facts import Facts
from node.guard import Guard, Reason
from node.kept import Kept
from node.lent import Lent
from node.link import Link
from node.lot import Lot
from node.messages import Granted, ItemError, ModelOffer, Token, Vehicle, Ways
from node.models import NOOP, ModelCache, ModelError
from node.neighbour import sharing
from node.pacing import Pace
from node.roofline import Machine
from node.terms import Terms, changed
from node.transfer import TransferFailed, Transfers
from node.uplink import CHANNEL_OPTIONS, Uplink, bearer
from node.vehicles import Looked, Nodes
from node.weights import Site, fetch_missing
from node.work import Finished, Key, Listener, ModelSpeed, Spoken, Work

ESTIMATE_EVERY_S = 600.0
"""Simulated seconds between two looks at how long the cars are expected to stay (assumed)."""
LEAST_ESTIMATE_S, MOST_ESTIMATE_S = 0.5, 60.0
"""The same in real seconds, at the least and at the most."""
LOOK_EVERY_S = 0.5
"""Real seconds between two looks at what the owners' terms make of the cars."""
STOP_WITHIN_S = 1.5
"""What a shutdown waits for the executor and the coordinator; with the rest it stays below 2 s."""


class Agent:
    """One lot from start to end."""

    def __init__(self, config: LotConfig, equip: Callable[[Listener], Executor], kept: Kept | None = None) -> None:
        """`kept` is what `keep` said in the process before, if this lot had one."""
        self._config = config
        self._kept = kept
        self.to_keep = asyncio.Event()
        self._executor = equip(self)
        self._inbox: deque[Event | tuple[Announced, threading.Event]] = deque()  # from other threads
        self._wanted = False  # whether a look into the inbox is under way
        self._transferring: dict[Token, set[asyncio.Task[None]]] = {}
        self._hand_moved = asyncio.Event()
        self._facts: Facts | None = None

    @classmethod
    def equipped(cls, config: LotConfig, kept: Kept | None = None) -> "Agent":
        """An agent with an executor of its own; raises ModelError when there is nothing to run."""
        cache = ModelCache.of_user()
        models = config.models
        if models is None:
            models = tuple(model.name for model in cache.models())
        if config.noop and NOOP not in models:
            models = (*models, NOOP)
        if not models:
            raise ModelError(f"no model in {cache.root}; add one with `carpool models add minilm`")

        def equip(listener: Listener) -> Executor:
            return Executor(
                listener,
                cache=cache,
                models=models,
                device=config.device,
                dtype=config.dtype,
                threads=config.threads,
                pace=_pace(config),
                memory_bytes=None if config.memory_gb is None else config.memory_gb * 1e9,
                positions=config.kv_positions,
                batch_delay_s=config.batch_delay_ms / 1000.0,
            )

        return cls(config, equip, kept)

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until `stop` is set, then leave on purpose; `ready` is called when the first offers are made.

        Raises CoordinatorRefused, and ModelError when the executor cannot start.
        """
        self._loop = asyncio.get_running_loop()
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
        told_s = self._told_s - self._started_s
        return deepcopy(Kept(self._began_unix_s, told_s, self._day, self._guard, self._lent.declared_until_s))

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
        kinds = {name: profile.load(name) for name in set(config.profiles)}
        profiles = [kinds[name] for name in config.profiles]
        self._days = plan.assign(config.day, len(profiles))
        plans = plan.lived_together(self._days, config.starts_as or self._days[0])
        storms = storm.parse(config.storms)
        metadata = bearer(config.api_key)
        speeds = await asyncio.to_thread(self._executor.start)
        models = [_offer(speed) for speed in speeds]
        self._vehicles = [
            Vehicle(name, kind.name, kind.board_w or 0.0, config.site, kind.awake_w or 0.0)
            for name, kind in zip(config.names, profiles, strict=True)
        ]
        kept, self._kept = deepcopy(self._kept), None  # columns that came by Ray cannot be written to
        self._started_s = self._told_s = self._loop.time()
        self._began_unix_s = time.time()
        if kept is not None:
            lasted_s = max(self._began_unix_s - kept.began_unix_s, kept.told_s)  # clocks of two machines differ
            self._began_unix_s = kept.began_unix_s
            self._started_s -= lasted_s
            self._told_s = self._started_s + kept.told_s
        ways = Ways(
            plans[0].cohort,
            plans[0].start_s - config.speed * self._started_s,
            config.speed,
            cohorts=tuple(one.cohort for one in plans),
        )
        incarnation = secrets.randbits(64) or 1
        paced = {s.name: s.paced_items_per_s for s in speeds if isfinite(s.paced_items_per_s)}
        self._lot = Lot(config.lot_id, incarnation, self._vehicles, models, ways, paced)
        link = Link(random.Random(f"{config.seed}/{config.lot_id}/{incarnation}"))
        self._uplink = Uplink(config.coordinator, metadata, self._lot, link, self._handle, ready)
        self._estimated_s = -np.inf
        names = [speed.name for speed in speeds]
        place = site.load(config.place).costing(config.price_per_kwh, config.carbon_g_per_kwh)
        if kept is None:
            self._day = day.Day(plans, len(profiles), config.first_index, config.seed, storms)
            battery = Battery(profiles, np.array([one.state_of_charge for one in plans]))
            ours = place.part(len(profiles), config.place_cars or len(profiles))
            terms = config.terms or (Terms(),) * len(profiles)
            lacking = _weights_bytes(names) if config.weights == "fetched" else 0
            self._guard = Guard(profiles, battery, ours, terms, names, self._day.start_s, lacking)
            self._lent = Lent(self._day, config.speed)
        else:
            self._day, self._guard = kept.day, kept.guard
            self._guard.offering(names)
            self._lent = Lent(self._day, config.speed)
            self._lent.declared_until_s = kept.declared_until_s
            here = self._lent.follow(self._guard.terms, self._simulated_s())  # the new lot is told anew
            self._lot.handle(here, self._loop.time())
        self._lot.handle((self._refusals(),), self._loop.time())
        if config.facts is not None:
            self._facts = Facts(config.facts, f"{config.lot_id}-{incarnation:x}", config.names)
            self._facts.cars(
                profiles, self._guard, config.site, place.limit_kw, self._simulated_s(), self._real_s()
            )
        self.to_keep.set()

    async def _serve(self, exits: contextlib.AsyncExitStack, stop: asyncio.Event) -> None:
        config = self._config
        server, address = await driver.serve(self)
        exits.push_async_callback(server.stop, 0.2)
        if config.run_dir is not None:
            written = LotAddress(config.lot_id, address, config.names, getpid()).write(config.run_dir)
            exits.callback(_remove, written)
        channel = await exits.enter_async_context(grpc.aio.insecure_channel(config.coordinator, CHANNEL_OPTIONS))
        self._transfers = Transfers(channel, self._uplink.metadata)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                living = self._tasks.create_task(self._live())
                linked = self._tasks.create_task(self._uplink.run())
                await stop.wait()
                living.cancel()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_WITHIN_S):
                        await self._leave(linked)
                linked.cancel()
                for task in [task for tasks in self._transferring.values() for task in tasks]:
                    task.cancel()
        except BaseExceptionGroup as troubles:
            raise troubles.exceptions[0] from None

    async def _leave(self, linked: asyncio.Task[None]) -> None:
        """Stop everything, report it, say goodbye; nobody to say it to is fine."""
        await self._stopping(self._handle((ShutDown(),)))
        await self._uplink.flushed()
        if self._lot.said_goodbye:
            await asyncio.wait((linked,))

    # The day.

    async def _live(self) -> None:
        """Windows open and close, batteries charge, expectations change, owners' terms come to bear."""
        while True:
            self._hand_moved.clear()
            self._pass_time()
            change_s = (self._day.next_change_s() - self._simulated_s()) / self._config.speed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(change_s, LOOK_EVERY_S))):
                    await self._hand_moved.wait()

    def _pass_time(self) -> None:
        events, simulated_s = self._move(), self._simulated_s()
        if self._loop.time() >= self._estimated_s + self._estimate_every_s:
            self._estimated_s = self._loop.time()
            here = np.flatnonzero(self._lent.cars)
            window_s = self._day.remaining_s(here, simulated_s) / self._config.speed
            events.append(WindowsEstimated(here, window_s))
        self._handle([*events, self._look()])

    @property
    def _estimate_every_s(self) -> float:
        return min(max(ESTIMATE_EVERY_S / self._config.speed, LEAST_ESTIMATE_S), MOST_ESTIMATE_S)

    def _move(self) -> list[Event]:
        """Cars and their surroundings up to now; who left and who came."""
        now_s = self._loop.time()
        seconds, self._told_s = (now_s - self._told_s) * self._config.speed, now_s
        simulated_s = self._simulated_s()
        vehicles = self._lot.vehicles
        there = self._day.plugged | self._day.parked
        self._guard.pass_time(simulated_s, seconds, self._day.plugged, self._day.parked, vehicles.leases > 0)
        self._guard.moved(simulated_s, vehicles.take_moved(), self._elsewhere())
        windows_s = vehicles.window_s(now_s) * self._config.speed
        fetched = self._guard.fetch(simulated_s, seconds, there, windows_s)
        if self._facts is not None:
            self._facts.fetched(fetched, self._guard.fetches.left_bytes, simulated_s, self._real_s())
        changes = self._day.advance(simulated_s)
        self._guard.battery.arrive(changes.travelled, changes.used_kwh)
        return self._lent.follow(self._guard.terms, simulated_s, changes)

    def _look(self) -> Looked:
        """What the owners' terms make of the cars now."""
        now_s, speed, guard = self._simulated_s(), self._config.speed, self._guard
        plugged, parked, elsewhere = self._day.plugged, self._day.parked, self._elsewhere()
        declared_s = self._lent.declared_until_s - now_s
        guard.look(now_s, 2.0 * LOOK_EVERY_S * speed, plugged, parked, declared_s, elsewhere)
        if self._facts is not None:
            since_s = now_s - self._day.age_s(np.arange(len(plugged)), now_s)
            self._facts.states(guard, plugged, parked, since_s, now_s, self._real_s(), elsewhere)
        price = guard.place.at(guard.place.price_per_kwh, now_s)
        carbon = guard.place.at(guard.place.carbon_g_per_kwh, now_s)
        left = guard.heat.speed()
        self._executor.throttle(left.tolist())
        return Looked(guard.reason != Reason.NONE, left, guard.wake_j(now_s), price, carbon)

    def _elsewhere(self) -> NDArray[np.bool_]:
        """Who is not at the lot's place [N]."""
        return ~self._day.plugged & ~(self._day.parked & self._day.by_charger)

    def _real_s(self) -> float:
        return self._loop.time() - self._started_s

    def _simulated_s(self) -> float:
        return self._day.start_s + (self._loop.time() - self._started_s) * self._config.speed

    # The driver's hand.

    def parked(self) -> list[driver.ParkedVehicle]:
        """Every vehicle as its driver sees it."""
        vehicles = self._lot.vehicles
        window_s = vehicles.window_s(self._loop.time())
        withheld = self._guard.told(self._config.speed)
        return [
            driver.ParkedVehicle(
                name=row.name,
                profile=row.profile,
                plugged_in=bool(self._day.plugged[node]),
                window_s=float(window_s[node]),
                state_of_charge=float(self._guard.battery.state_of_charge[node]),
                leases=int(vehicles.leases[node]),
                terms=self._guard.terms.rows[node],
                withheld=withheld[node],
                site=row.site,
                day=self._days[node],
                parked=bool(self._day.parked[node]),
            )
            for node, row in enumerate(self._vehicles)
        ]

    def index(self, name: str) -> int | None:
        """Which vehicle this is."""
        number = name.removeprefix("car-")
        node = int(number) - self._config.first_index if number.isascii() and number.isdigit() else -1
        return node if 0 <= node < len(self._vehicles) and self._vehicles[node].name == name else None

    def plug(self, nodes: Sequence[int], window_s: float | None) -> None:
        """A driver plugs these in, for so many real seconds or until unplugged."""
        rows = np.unique(np.array(nodes, np.intp))
        simulated_s = self._simulated_s()
        stay_s = None if window_s is None else window_s * self._config.speed
        events = self._move()
        self._day.plug(rows, simulated_s, stay_s)
        self._handle([*events, self._lent.plug(rows, simulated_s, stay_s), self._look()])
        self._hand_moved.set()
        self.to_keep.set()

    async def unplug(self, nodes: Sequence[int]) -> driver.Stop:
        """A driver takes these; returns when nothing of them runs and the stream has the news."""
        asked_s = time.monotonic()
        rows: Nodes = np.unique(np.array(nodes, np.intp))
        leases = self._lot.live(rows)
        events = self._move()
        self._day.unplug(rows, self._simulated_s())
        events.append(self._lent.unplug(rows))
        self._hand_moved.set()
        self.to_keep.set()
        await self._stopping(self._handle([*events, self._look()]))
        stop_s = time.monotonic() - asked_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await self._uplink.flushed()
        return driver.Stop(stop_s, leases)

    async def set_terms(self, nodes: Sequence[int], change: Mapping[str, Any]) -> float:
        """Owners of these say otherwise; returns when nothing runs that they forbid. Raises ValueError."""
        asked_s = time.monotonic()
        rows = self._guard.terms.rows
        said = [changed(rows[node], change) for node in nodes]
        events = self._move()
        self._guard.tell(self._guard.terms.with_rows(nodes, said))
        self.to_keep.set()
        if self._facts is not None:
            for node, terms in zip(nodes, said, strict=True):
                self._facts.terms(node, terms, self._simulated_s(), self._real_s())
        events += self._lent.follow(self._guard.terms, self._simulated_s())  # who lends a parked car now, who not
        await self._stopping(self._handle([*events, self._refusals(), self._look()]))
        return time.monotonic() - asked_s

    def _refusals(self) -> RefusalsSaid:
        rows = self._guard.terms.rows
        models = [frozenset(row.refused_models) for row in rows]
        return RefusalsSaid(models, [frozenset(row.refused_tenants) for row in rows])

    # The lot.

    def _handle(self, events: Sequence[Event]) -> Awaitable[object] | None:
        """Tell the lot, do what it wants; what to await until its stops are done, if there are any."""
        effects = self._lot.handle(events, self._loop.time())
        stopping = self._stop(effects.stop) if effects.stop else None
        if self._facts is not None:
            for lease in effects.began:
                self._facts.began(lease, self._simulated_s(), self._real_s())
            for lease in effects.ended:
                self._facts.ended(lease, self._simulated_s(), self._real_s())
        if effects.wind_down:
            self._wind_down(effects.wind_down)
        for granted in effects.start:
            self._executor.submit(_work(granted))
        for granted in effects.fetch:
            self._transfer(granted.token, partial(self._fetch, granted))
        for put in effects.put:
            self._transfer(put.token, partial(self._put, put))
        if self._lot.pending:
            self._uplink.news()
        return stopping

    def _stop(self, tokens: Sequence[Token]) -> Awaitable[object]:
        for token in tokens:
            for task in self._transferring.pop(token, ()):
                task.cancel()
        stopped = self._executor.stop(tokens)
        stopped.add_done_callback(lambda future: self._stopped(tokens, future))
        self._uplink.released(tokens)
        return asyncio.wrap_future(stopped)

    def _wind_down(self, tokens: Sequence[Token]) -> None:
        stopped = self._executor.stop(tokens, gently=True)
        stopped.add_done_callback(lambda future: self._stopped(tokens, future))

    def _stopped(self, tokens: Collection[Token], future: Future[dict[Key, float]]) -> None:
        lost_s = future.result()
        self._post(Stopped({token: lost_s.get(token, 0.0) for token in tokens}))

    async def _stopping(self, stopping: Awaitable[object] | None) -> None:
        if stopping is not None:
            await stopping

    # Large payloads.

    def _transfer(self, token: Token, transfer: Callable[[], Coroutine[None, None, Event]]) -> None:
        task = self._tasks.create_task(self._tell(token, transfer))
        tasks = self._transferring.setdefault(token, set())
        tasks.add(task)

        def forget(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not tasks:
                self._transferring.pop(token, None)

        task.add_done_callback(forget)

    async def _tell(self, token: Token, transfer: Callable[[], Coroutine[None, None, Event]]) -> None:
        try:
            event = await transfer()
        except TransferFailed:
            event = TransferRefused(token)
        self._handle((event,))

    async def _fetch(self, granted: Granted) -> Event:
        inputs = list(granted.inputs)
        for item, payload in (await self._transfers.fetch(granted.token, granted.deferred)).items():
            inputs[item] = payload
        return InputsFetched(replace(granted, inputs=inputs))

    async def _put(self, put: Put) -> Event:
        await self._transfers.put(put.token, put.item, put.payload)
        return ResultPut(put.token, put.item)

    # The executor calls these, on its thread as a rule.

    def announce(self, key: Key, items: Sequence[int]) -> threading.Event:
        """The executor is about to run these; the event is set when the coordinator has been told."""
        assert isinstance(key, Token), "the lot's works are keyed by token"
        on_wire = threading.Event()
        self._post((Announced(key, items), on_wire))
        return on_wire

    def finished(self, finished: Finished) -> None:
        """The executor finished a micro-batch."""
        assert isinstance(finished.key, Token), "the lot's works are keyed by token"
        errors = [ItemError(*error) for error in finished.errors]
        items, results = finished.items, finished.results
        took = finished.busy_s, finished.last, finished.paced_s, finished.loading_s
        self._post(Worked(finished.key, items, results, errors, *took))

    def spoke(self, spoken: Spoken) -> None:
        """The executor said more of an answer."""
        assert isinstance(spoken.key, Token), "the lot's works are keyed by token"
        passage = spoken.first, spoken.tokens, spoken.start, spoken.text
        beside = spoken.reused, spoken.prompt_tokens, spoken.likelihoods, spoken.busy_s
        self._post(Said(spoken.key, spoken.offset, *passage, *beside))

    def resident(self, load_s: Mapping[str, float]) -> None:
        """Other models are in the executor's memory."""
        self._post(ResidencyChanged(load_s))

    def _post(self, news: Event | tuple[Announced, threading.Event]) -> None:
        self._inbox.append(news)
        if not self._wanted:
            self._wanted = True
            self._loop.call_soon_threadsafe(self._open_inbox)

    def _open_inbox(self) -> None:
        self._wanted = False  # first: what comes from here on asks again
        events: list[Event] = []
        announcements = []
        while self._inbox:
            news = self._inbox.popleft()
            if isinstance(news, tuple):
                announcements.append(news)
                events.append(news[0])
            else:
                events.append(news)
        self._handle(events)
        for announced, on_wire in announcements:
            self._uplink.announced(announced.token, on_wire)


def _weights_bytes(models: Sequence[str]) -> int:
    """What all files of these models take."""
    cache = ModelCache.of_user()
    return sum(cache.get(name).bytes for name in models if name != NOOP)


def _pace(config: LotConfig) -> Pace | None:
    """What its cars keep; raises ValueError when their profile cannot be timed."""
    if config.pace == "host":
        return None
    (name,) = set(config.profiles)
    machine = Machine.of(profile.load(name))
    if config.memory_gb is not None:
        machine = replace(machine, memory_bytes=config.memory_gb * 1e9)
    return Pace(machine, config.speed, site.load(config.place).link)


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
