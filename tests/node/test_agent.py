"""A whole lot against a coordinator's end of the wire: a real gRPC server on loopback, a real executor."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.audit import audit
from node import client, profile, site
from node.address import addresses
from node.agent import Agent
from node.config import LotConfig
from node.models import ModelCache
from node.roofline import Machine, seconds
from node.terms import WILLING
from node.uplink import CoordinatorRefused
from node.workloads import load
from protos import jobs_pb2, link_pb2, link_pb2_grpc

WITHIN_S = 20.0
Context = Any


class Coordinator(link_pb2_grpc.LinkServiceServicer, link_pb2_grpc.TransferServiceServicer):
    """The coordinator's end of one lot's streams: keeps what it hears, says what the test wants said."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[link_pb2.ConnectRequest] = asyncio.Queue()
        self.hellos: asyncio.Queue[link_pb2.Hello] = asyncio.Queue()
        self.to_say: asyncio.Queue[link_pb2.ConnectResponse] = asyncio.Queue()
        self.epoch = 1
        self.acknowledges = True
        self.drops: list[link_pb2.Token] = []
        self.inputs: dict[int, bytes] = {}
        self.inputs_ready = asyncio.Event()
        self.fetching = asyncio.Event()
        self.put: dict[int, bytes] = {}
        self.key: str | None = None

    async def Connect(
        self, requests: AsyncIterator[link_pb2.ConnectRequest], context: Context
    ) -> AsyncIterator[link_pb2.ConnectResponse]:
        if self.key is not None and ("authorization", f"Bearer {self.key}") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this API key is not known here")
        first = await anext(requests)
        welcome = link_pb2.Welcome(epoch=self.epoch, heartbeat_s=0.2, silent_after_s=2.0, dropped=self.drops)
        yield link_pb2.ConnectResponse(welcome=welcome)
        await self.hellos.put(first.hello)
        answers: asyncio.Queue[link_pb2.ConnectResponse | None] = asyncio.Queue()

        async def listen() -> None:
            async for request in requests:
                await self.heard.put(request)
                if request.sequence and self.acknowledges:
                    await answers.put(link_pb2.ConnectResponse(acknowledged=request.sequence))
            await answers.put(None)

        async def speak() -> None:
            while True:
                await answers.put(await self.to_say.get())

        async with asyncio.TaskGroup() as tasks:
            listening, speaking = tasks.create_task(listen()), tasks.create_task(speak())
            while (answer := await answers.get()) is not None:
                yield answer
            listening.cancel()
            speaking.cancel()

    async def FetchInputs(
        self, request: link_pb2.FetchInputsRequest, context: Context
    ) -> AsyncIterator[link_pb2.FetchInputsResponse]:
        self.fetching.set()
        await self.inputs_ready.wait()
        for item in request.items:
            payload, step = self.inputs[item], 1 << 20
            for start in range(0, len(payload), step):
                chunk = link_pb2.Chunk(item=item, data=payload[start : start + step])
                if start + step >= len(payload):
                    chunk.last, chunk.sha256 = True, hashlib.sha256(payload).digest()
                yield link_pb2.FetchInputsResponse(chunk=chunk)

    async def PutResults(
        self, requests: AsyncIterator[link_pb2.PutResultsRequest], context: Context
    ) -> link_pb2.PutResultsResponse:
        async for request in requests:
            chunk = request.chunk
            self.put[chunk.item] = self.put.get(chunk.item, b"") + chunk.data
            if chunk.last:
                assert hashlib.sha256(self.put[chunk.item]).digest() == chunk.sha256
        return link_pb2.PutResultsResponse()

    async def listen_on(self, port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        link_pb2_grpc.add_LinkServiceServicer_to_server(self, server)
        link_pb2_grpc.add_TransferServiceServicer_to_server(self, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return server, port

    async def until(self, fits: Callable[[link_pb2.ConnectRequest], bool]) -> link_pb2.ConnectRequest:
        """The next message that fits; those before it are let go."""
        while not fits(request := await self.heard.get()):
            pass
        return request

    async def results(self, items: int, number: int = 1) -> list[bytes]:
        """The results of a lease, in the order of its items, once it has ended as finished."""
        found: dict[int, bytes] = {}
        while True:
            for report in (await self.heard.get()).reports:
                if report.token.attempt != number:
                    continue
                done = int.from_bytes(report.done, "little")
                bits = [item for item in range(items) if done >> item & 1]
                found.update(zip(bits, report.results, strict=True))
                if report.ended:
                    assert report.cause == link_pb2.END_CAUSE_FINISHED
                    return [found[item] for item in range(items)]


def grant(
    number: int,
    node: int,
    inputs: list[bytes],
    deferred: tuple[int, ...] = (),
    model: str = "noop",
    **more: Any,
) -> link_pb2.ConnectResponse:
    more.setdefault("job_class", jobs_pb2.JOB_CLASS_BATCH)
    row = link_pb2.Grant(
        token=link_pb2.Token(epoch=1, attempt=number),
        node=node,
        model=model,
        job_id="job-1",
        ranges=[link_pb2.Range(first=0, count=len(inputs))],
        inputs=inputs,
        deferred=deferred,
        lease_s=30.0,
        **more,
    )
    return link_pb2.ConnectResponse(grants=[row])


class Running:
    """A lot that runs, and the coordinator that it calls."""

    def __init__(self, coordinator: Coordinator, server: grpc.aio.Server, port: int, run_dir: Path) -> None:
        self.coordinator, self.server, self.port, self.run_dir = coordinator, server, port, run_dir
        self.stop, self.ready = asyncio.Event(), asyncio.Event()

    async def agent(self, **changes: Any) -> None:
        settings: dict[str, Any] = {
            "lot_id": "lot-a",
            "coordinator": f"127.0.0.1:{self.port}",
            "profiles": ("hw4", "ai5"),
            "first_index": 4,
            "models": (),
            "noop": True,
            "day": "parked",
            "speed": 1.0,
            "device": "auto",
            "dtype": "auto",
            "threads": 1,
            "run_dir": self.run_dir,
            "api_key": None,
            "seed": 1,
            "terms": (WILLING, WILLING),
        }
        await Agent.equipped(LotConfig(**{**settings, **changes})).run(self.stop, self.ready.set)


@asynccontextmanager
async def running(run_dir: Path, **changes: Any) -> AsyncIterator[Running]:
    coordinator = Coordinator()
    server, port = await coordinator.listen_on(0)
    lot = Running(coordinator, server, port, run_dir)
    try:
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(lot.agent(**changes))
            await lot.ready.wait()
            yield lot
            lot.stop.set()
    finally:
        await lot.server.stop(0)


def go(scene: Awaitable[None]) -> None:
    async def play() -> None:
        await scene

    asyncio.run(play())


def shapes(message: link_pb2.ConnectRequest) -> dict[str, tuple[list[int], list[int], int]]:
    """What each model offered takes and gives: shapes of items and results, tokens of context."""
    return {m.model: ([*m.input_shape], [*m.output_shape], m.context_tokens) for m in message.models}


def test_a_lot_says_hello_and_offers_its_cars(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            hello = await lot.coordinator.hellos.get()
            assert (hello.lot_id, [v.name for v in hello.vehicles]) == ("lot-a", ["car-0004", "car-0005"])
            assert [(v.profile, v.power_w) for v in hello.vehicles] == [("hw4", 160.0), ("ai5", 800.0)]
            first = await lot.coordinator.heard.get()
            assert [(m.model, m.kind) for m in first.models] == [("noop", "echo")]
            assert shapes(first) == {"noop": ([], [], 0)}
            assert [(o.node, o.share) for o in first.offers] == [(0, 0.5), (1, 0.5)]
            assert first.offers[0].window_s == pytest.approx(11.4 * 3600, abs=5)
            beat = await lot.coordinator.until(lambda m: m.HasField("heartbeat"))
            assert beat.heartbeat.present == b"\3"

    go(scene())


def test_batch_work_is_announced_done_and_reported(
    tmp_path: Path, small_cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with running(tmp_path, models=("bert",), noop=False) as lot:
            await lot.coordinator.to_say.put(grant(1, 0, [b"a car is parked"] * 100, model="bert"))
            announced = await lot.coordinator.until(lambda m: bool(m.reports))
            assert announced.reports[0].running
            assert len({*await lot.coordinator.results(100)}) == 1

    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    go(scene())


def test_a_lot_tells_which_models_are_in_its_memory_and_loads_what_it_is_lent_work_for(
    tmp_path: Path, small_cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        memory = {"memory_gb": 0.0002, "kv_positions": 200}  # for one of them
        async with running(tmp_path, models=("llama", "bert"), noop=False, **memory) as lot:
            coordinator = lot.coordinator
            first = await coordinator.heard.get()
            assert {m.model for m in first.models if m.load_s == 0} == {"llama"}
            assert shapes(first) == {"llama": ([], [], 200), "bert": ([], [32], 64)}
            await coordinator.to_say.put(grant(1, 0, [b"a car is parked"] * 2, model="bert"))
            told: list[set[str]] = []  # which are there, each time that it is said

            def bert_is_there(message: link_pb2.ConnectRequest) -> bool:
                if message.models:
                    assert shapes(message) == shapes(first), "whether they are loaded or not"
                    told.append({m.model for m in message.models if m.load_s == 0})
                return {"bert"} in told

            await coordinator.until(bert_is_there)
            assert told in ([set(), {"bert"}], [{"bert"}]), "two changes may come in one message"
            assert len(await coordinator.results(2)) == 2

    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    go(scene())


def test_a_paced_lot_offers_its_profiles_speed_and_keeps_it(
    tmp_path: Path, small_cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    bert = load(small_cache, "bert")
    ordinary = bert.ordinary_cost()
    batch_s = seconds(Machine.of(profile.load("hw4")), ordinary)
    speed = batch_s / 0.3  # of the cars' clock, so that a micro-batch takes a third of a second

    async def scene() -> None:
        paced = {"profiles": ("hw4", "hw4"), "pace": "profile", "speed": speed}
        async with running(tmp_path, models=("bert",), noop=False, **paced) as lot:
            first = await lot.coordinator.until(lambda m: bool(m.models))
            assert first.models[0].items_per_s == pytest.approx(2 * ordinary.items / 0.3, rel=1e-3)
            began_s = time.monotonic()
            await lot.coordinator.to_say.put(grant(1, 0, [b"a car is parked"] * 300, model="bert"))
            assert len({*await lot.coordinator.results(300)}) == 1
            assert time.monotonic() - began_s > 0.3

    go(scene())


def test_a_batch_of_echoes_is_reported_without_an_announcement(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            inputs = [b"item %d" % number for number in range(500)]
            await lot.coordinator.to_say.put(grant(1, 0, inputs))
            assert await lot.coordinator.results(500) == inputs

    go(scene())


def test_a_lease_that_yields_reports_what_ran_and_ends(
    tmp_path: Path, small_cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with running(tmp_path, models=("bert",), noop=False) as lot:
            await lot.coordinator.to_say.put(grant(1, 0, [b"a car is parked " * 20] * 2000, model="bert"))
            await lot.coordinator.until(lambda m: any(report.done for report in m.reports))
            revocation = link_pb2.Revocation(
                token=link_pb2.Token(epoch=1, attempt=1), cause=link_pb2.REVOCATION_CAUSE_YIELD
            )
            await lot.coordinator.to_say.put(link_pb2.ConnectResponse(revocations=[revocation]))
            ended = await lot.coordinator.until(lambda m: any(report.ended for report in m.reports))
            (report,) = ended.reports
            assert report.cause == link_pb2.END_CAUSE_YIELDED
            assert report.lost_s == 0.0

    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    go(scene())


def test_interactive_and_solo_work_comes_back(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            await lot.coordinator.to_say.put(grant(1, 0, [b"now"], job_class=jobs_pb2.JOB_CLASS_INTERACTIVE))
            assert await lot.coordinator.results(1) == [b"now"]
            await lot.coordinator.to_say.put(grant(2, 1, [b"alone"], solo=True))
            announced = await lot.coordinator.until(lambda m: bool(m.reports))
            assert announced.reports[0].running == b"\1"
            assert await lot.coordinator.results(1, number=2) == [b"alone"]

    go(scene())


def test_cars_that_begin_without_weights_are_offered_when_they_have_them(
    tmp_path: Path, small_cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, needed = site.load("home"), small_cache.get("bert").bytes
    alone_s, both_s = home.link.down_s(needed), home.link.down_s(needed) + needed / (home.lan_mbit * 125_000)
    settings = {"models": ("bert",), "place": "home", "weights": "fetched", "facts": tmp_path / "facts"}

    async def scene() -> None:
        began_s = time.monotonic()
        async with running(tmp_path, speed=both_s / 2.0, noop=False, **settings) as lot:
            first = await lot.coordinator.until(lambda m: bool(m.offers))
            assert [offer.share for offer in first.offers] == [0.0, 0.0]
            cars = await asyncio.to_thread(client.parked, tmp_path)
            for car in cars:
                assert re.fullmatch(r"fetching weights: \d+% of [\d.]+ MB, [012] s to go", car.withheld)
            await lot.coordinator.until(lambda m: any(offer.share > 0 for offer in m.offers))
            one_s = time.monotonic() - began_s
            await lot.coordinator.until(lambda m: {offer.share for offer in m.offers} == {0.5})
            assert alone_s / both_s * 2.0 <= one_s <= time.monotonic() - began_s
            assert time.monotonic() - began_s >= 2.0
            assert not any(car.withheld for car in await asyncio.to_thread(client.parked, tmp_path))

    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    go(scene())
    found = audit(tmp_path / "facts")
    assert not found.violations
    assert found.fetched_bytes == {"line": needed, "lan": needed, "cellular": 0.0}


def test_owners_who_ask_for_nothing_lend_their_cars_without_wifi(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, place="garage", facts=tmp_path / "facts") as lot:
            await lot.coordinator.to_say.put(grant(1, 0, [b"a"]))
            assert await lot.coordinator.results(1) == [b"a"]
            (car, _) = await asyncio.to_thread(client.parked, tmp_path)
            assert (car.withheld, car.terms["cellular_gb_a_month"]) == ("", inf)

    go(scene())
    found = audit(tmp_path / "facts")
    assert (found.leases, found.violations) == (1, [])


def test_large_inputs_are_fetched_and_large_results_put(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            large = bytes(range(256)) * 12_000  # 3 MB
            lot.coordinator.inputs[1] = large
            lot.coordinator.inputs_ready.set()
            await lot.coordinator.to_say.put(grant(1, 0, [b"small", b""], deferred=(1,)))
            assert await lot.coordinator.results(2) == [b"small", b""]
            assert lot.coordinator.put == {1: large}

    go(scene())


def test_the_drivers_hand_takes_a_car_and_its_lease(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            await lot.coordinator.to_say.put(grant(1, 0, [b""], deferred=(0,)))
            await lot.coordinator.fetching.wait()  # so the lease is live, and stays so
            (unplugging,) = await asyncio.to_thread(client.unplug, tmp_path, ["car-0004"])
            assert unplugging.leases == 1
            assert unplugging.stop_s < 0.1
            left = await lot.coordinator.until(lambda m: bool(m.departures))
            assert left.reports[-1].cause == link_pb2.END_CAUSE_UNPLUGGED
            assert left.departures[0].cause == link_pb2.DEPARTURE_CAUSE_UNPLUGGED
            parked = {car.name: car for car in await asyncio.to_thread(client.parked, tmp_path)}
            assert [parked[name].plugged_in for name in ("car-0004", "car-0005")] == [False, True]
            await asyncio.to_thread(client.plug, tmp_path, ["car-0004"], 600.0)
            back = await lot.coordinator.until(lambda m: any(o.node == 0 and o.window_s > 0 for o in m.offers))
            assert next(o.window_s for o in back.offers if o.node == 0) == pytest.approx(600.0, abs=2)

    go(scene())


def test_the_drivers_hand_is_told_of_an_unknown_car(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path):
            with pytest.raises(
                client.DriverError, match="no vehicle is called 'car-0009' here; there are car-0004"
            ):
                await asyncio.to_thread(client.unplug, tmp_path, ["car-0004", "car-0009"])

    go(scene())


def test_a_window_told_by_the_driver_closes_by_itself(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            await asyncio.to_thread(client.plug, tmp_path, ["car-0005"], 0.1)
            left = await lot.coordinator.until(lambda m: bool(m.departures))
            assert [departure.node for departure in left.departures] == [1]

    go(scene())


def test_a_power_cut_takes_every_car_of_a_lot_and_all_come_back(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, day="rack:1,parked:1", speed=7200.0, storms="power-cut@1") as lot:
            heard = lot.coordinator.until
            offers = (await heard(lambda m: len(m.offers) == 2)).offers
            assert [offer.cohort for offer in offers] == ["rack", "home"]
            cars = await asyncio.to_thread(client.parked, tmp_path)
            assert [car.day for car in cars] == ["rack", "parked"]
            left = (await heard(lambda m: bool(m.departures))).departures
            assert sorted(departure.node for departure in left) == [0, 1]
            assert sorted(offer.node for offer in (await heard(lambda m: bool(m.offers))).offers) == [0, 1]

    go(scene())


def test_a_drained_car_departs_when_it_has_finished(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            await lot.coordinator.to_say.put(link_pb2.ConnectResponse(drain=[1]))
            left = await lot.coordinator.until(lambda m: bool(m.departures))
            assert [(d.node, d.cause) for d in left.departures] == [(1, link_pb2.DEPARTURE_CAUSE_DRAINED)]

    go(scene())


def test_nothing_is_lost_when_the_coordinator_restarts(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            before = await lot.coordinator.hellos.get()
            lot.coordinator.acknowledges = False
            await lot.coordinator.to_say.put(grant(1, 0, [b"a", b"b"]))
            sent = await lot.coordinator.until(lambda m: any(r.ended for r in m.reports))
            await lot.coordinator.to_say.put(grant(2, 1, [b""], deferred=(0,)))
            await lot.coordinator.fetching.wait()
            await lot.server.stop(0)
            lot.coordinator.heard = asyncio.Queue()
            lot.coordinator.epoch, lot.coordinator.acknowledges = 2, True
            down_s = time.monotonic()
            lot.server, _ = await lot.coordinator.listen_on(lot.port)
            hello = await lot.coordinator.hellos.get()
            assert time.monotonic() - down_s < 2.0
            assert hello.incarnation == before.incarnation
            held = {row.token.attempt: row for row in hello.held}
            assert (held[1].done, held[1].job_id) == (b"\3", "job-1")
            assert held[2].done == b""
            again = await lot.coordinator.until(lambda m: m.sequence == sent.sequence)
            assert again == sent
            offered = await lot.coordinator.until(lambda m: bool(m.offers))
            assert len(offered.models) == 1
            assert len(offered.offers) == 2
            lot.coordinator.inputs[0] = b"late"
            lot.coordinator.inputs_ready.set()
            assert await lot.coordinator.results(1, number=2) == [b"late"]

    go(scene())


def test_leases_that_a_restarted_coordinator_does_not_want_are_dropped(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            lot.coordinator.acknowledges = False
            await lot.coordinator.to_say.put(grant(1, 0, [b"a"]))
            await lot.coordinator.until(lambda m: any(r.ended for r in m.reports))
            await lot.server.stop(0)
            lot.coordinator.heard, lot.coordinator.hellos = asyncio.Queue(), asyncio.Queue()
            lot.coordinator.drops = [link_pb2.Token(epoch=1, attempt=1)]
            lot.server, _ = await lot.coordinator.listen_on(lot.port)
            assert (await lot.coordinator.hellos.get()).held
            first = await lot.coordinator.heard.get()
            assert not first.reports
            assert first.offers
            await lot.server.stop(0)
            lot.server, _ = await lot.coordinator.listen_on(lot.port)
            assert not (await lot.coordinator.hellos.get()).held

    go(scene())


def test_work_goes_on_during_an_outage(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            inputs = [b"item %d" % number for number in range(4096)]
            for number in range(1, 9):
                await lot.coordinator.to_say.put(grant(number, number % 2, inputs))
            await lot.coordinator.until(lambda m: bool(m.reports))
            await lot.server.stop(0)
            lot.coordinator.heard, lot.coordinator.hellos = asyncio.Queue(), asyncio.Queue()
            lot.server, _ = await lot.coordinator.listen_on(lot.port)
            hello = await lot.coordinator.hellos.get()
            ended: set[int] = set()
            while not ended >= {row.token.attempt for row in hello.held}:
                message = await lot.coordinator.heard.get()
                ended |= {report.token.attempt for report in message.reports if report.ended}

    go(scene())


def test_a_stopped_lot_departs_and_says_goodbye_within_two_seconds(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            assert [address.lot_id for address in addresses(tmp_path)] == ["lot-a"]
            await lot.coordinator.to_say.put(grant(1, 0, [b""], deferred=(0,)))
            await lot.coordinator.fetching.wait()
            asked_s = time.monotonic()
            lot.stop.set()
            left = await lot.coordinator.until(lambda m: bool(m.departures))
            assert left.reports[-1].cause == link_pb2.END_CAUSE_UNPLUGGED
            assert {departure.cause for departure in left.departures} == {link_pb2.DEPARTURE_CAUSE_DRAINED}
            if not left.HasField("goodbye"):
                await lot.coordinator.until(lambda m: m.HasField("goodbye"))
            assert time.monotonic() - asked_s < 2.0
        assert time.monotonic() - asked_s < 2.0
        assert not addresses(tmp_path)

    go(scene())


def test_a_lot_whose_coordinator_is_gone_stops_all_the_same(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as lot:
            await lot.server.stop(0)
            asked_s = time.monotonic()
        assert time.monotonic() - asked_s < 2.0

    go(scene())


def test_a_wrong_key_ends_the_lot_with_one_sentence(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = Coordinator()
        coordinator.key = "right"
        server, port = await coordinator.listen_on(0)
        lot = Running(coordinator, server, port, tmp_path)
        with pytest.raises(CoordinatorRefused, match="refused this lot: this API key is not known here"):
            await lot.agent(api_key="wrong")
        await server.stop(0)

    go(scene())


def test_a_right_key_is_sent(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = Coordinator()
        coordinator.key = "right"
        server, port = await coordinator.listen_on(0)
        lot = Running(coordinator, server, port, tmp_path)
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(lot.agent(api_key="right"))
            await lot.ready.wait()
            lot.stop.set()
        await server.stop(0)

    go(scene())
