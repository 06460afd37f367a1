"""Answers that outlive their cars, through real processes: the text is that of one that nobody interrupted."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import Client, Said
from coordinator.errors import CarpoolError
from node import client as hand
from node import conversion
from node.address import addresses
from node.models import ModelCache
from node.workloads.device import use_threads
from node.workloads.generate import Generate, load
from node.workloads.transcript import Transcript
from tests.faults.durable import metric
from tests.hand_lot import HandLot
from tests.live import Cluster, cluster, until
from tests.node.small_models import chat, make_llama

TOKENS = 400
LOST_AT = 50


@dataclass
class Town:
    """A fleet of lots with one small model, and that model by itself."""

    live: Cluster
    folder: Path
    model: Generate
    cars: int = 0

    def add(self, name: str, vehicles: int = 1) -> None:
        flags = ("--models", "llama", "--dtype", "fp32", "--run-dir", str(self.folder))
        self.live.add(name, *flags, vehicles=vehicles, first_index=self.cars)
        self.cars += vehicles

    async def unplug(self, car: str) -> None:
        await asyncio.to_thread(hand.unplug, self.folder, [car])

    async def plug(self, car: str) -> None:
        await asyncio.to_thread(hand.plug, self.folder, [car])

    def lot_of(self, car: str) -> str:
        return next(lot.lot_id for lot in addresses(self.folder) if car in lot.vehicles)


@dataclass
class Heard:
    """One answer, as its caller heard it."""

    said: list[Said] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(said.text for said in self.said)

    @property
    def tokens(self) -> list[int]:
        return [token for said in self.said for token in said.tokens]

    @property
    def cars(self) -> list[str]:
        """Who spoke, in order."""
        named = [said.vehicle for said in self.said if said.vehicle]
        return [car for before, car in zip(["", *named], named, strict=False) if car != before]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    """A cache that holds one small model with room for long answers."""
    use_threads(1)
    directory = tmp_path_factory.mktemp("directories") / "llama"
    directory.mkdir()
    make_llama(directory, context=2_048)
    cache = ModelCache(tmp_path_factory.mktemp("cache"))
    conversion.add(cache, str(directory))
    return cache


@pytest.fixture
def town(cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setenv("CARPOOL_CACHE", str(cache.root))
    config = tmp_path / "carpool.toml"
    config.write_text("[scheduling]\nheartbeat_s = 0.2\nsilent_after_s = 0.8\n")
    with cluster("--config", str(config)) as live:
        yield Town(live, tmp_path / "cluster", load(cache.get("llama"), "cpu", "fp32"))


def within(work: Coroutine[Any, Any, None], seconds: float = 90.0) -> None:
    async def run() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(run())


async def listen(client: Client, payload: bytes, lose: Callable[[str], Awaitable[None]] | None = None) -> Heard:
    """Hear an answer to its end; `lose` takes away the car that speaks, once it has said LOST_AT tokens."""
    heard = Heard()
    async for said in client.generate("llama", payload):
        heard.said.append(said)
        if lose is not None and len(heard.tokens) >= LOST_AT:
            await lose(heard.cars[-1])
            lose = None
    return heard


def is_whole(town: Town, payload: bytes, heard: Heard) -> bool:
    """Whether an answer is just the one that the model alone gives; says where it is not."""
    result, steps = town.model.trace(payload)
    expected = json.loads(result)
    assert len(heard.tokens) == heard.said[-1].completion_tokens, "each token is told once"
    if heard.text == expected["text"]:
        end = heard.said[-1]
        assert end.finish_reason == expected["finish_reason"]
        assert (end.prompt_tokens, end.completion_tokens) == (expected["prompt_tokens"], len(heard.tokens))
        return True
    pairs = enumerate(zip_longest(heard.text, expected["text"]))
    alike = next(place for place, (one, other) in pairs if one != other)
    gap = next((step.gap for step in steps if len(step.text) > alike), 0.0)
    print(f"differs after {alike} characters, where the two likeliest tokens are {gap:g} apart")
    return False


def question(number: int, **fields: object) -> bytes:
    """Most of these are answered at length, some of them by chance."""
    drawn = {"temperature": 0.8, "seed": number} if number % 2 else {}
    return chat(f"where is car {number} parked?", **{"max_tokens": TOKENS, **drawn, **fields})


@pytest.mark.parametrize("loss", ["unplugged", "killed", "stopped", "drained"])
def test_an_answer_outlives_its_car(town: Town, loss: str) -> None:
    async def work() -> None:
        async with Client(town.live.coordinator.grpc) as client:
            for name in ("lot-a", "lot-b"):
                town.add(name)
            await town.live.parked(client, 2)

            async def lose(car: str) -> None:
                lot = town.lot_of(car)
                match loss:
                    case "unplugged":
                        await town.unplug(car)
                    case "killed":
                        town.live.kill(lot)
                    case "stopped":
                        town.live.signal(lot, signal.SIGSTOP)
                    case "drained":
                        town.live.signal(lot, signal.SIGTERM)

            payload = question(0)
            heard = await listen(client, payload, lose)
            assert is_whole(town, payload, heard)
            assert len(heard.cars) == 2, "another car went on"
            assert await metric(town.live, "carpool_stream_handover_gap_seconds_count") == 1

    within(work())


async def with_plain_text(client: Client) -> tuple[int, Heard, str]:
    """A question, its answer, and six plain characters from the midst of that: the model says what it likes."""
    for number in count():
        heard = await listen(client, question(number))
        found = re.search("[ -~]{6}", heard.text[30:])
        if found is not None:
            return number, heard, found[0]
    raise AssertionError("there are many questions")


def test_a_stop_string_that_lies_across_a_hand_over_ends_the_answer(town: Town) -> None:
    async def work() -> None:
        async with Client(town.live.coordinator.grpc) as client:
            town.add("lot-a")
            await town.live.parked(client, 1)
            number, heard, stop = await with_plain_text(client)
            await town.unplug("car-0000")
            payload = question(number, stop=[stop])
            first = Transcript(town.model.text, [stop])
            while not first.text.endswith(stop[:3]):
                assert not first.add(heard.tokens[len(first.tokens)])
            said = first.take()
            assert not said.text.endswith(stop[:3]), "it may begin the stop string"
            async with HandLot(town.live.coordinator.grpc, "by-hand", model="llama", kind="generate") as car:
                listening = asyncio.create_task(listen(client, payload))
                grant = await car.granted()
                await car.say(grant.token, said.first, said.tokens, said.start, said.text)
                await town.plug("car-0000")
                await town.live.parked(client, 2)
                await car.report(grant.token, {}, ended=True, departs=True)
                cut = await listening
            assert cut.cars == ["by-hand", "car-0000"]
            assert is_whole(town, payload, cut)
            assert cut.text == heard.text[: heard.text.index(stop)]
            assert cut.said[-1].finish_reason == "stop"

    within(work())


def test_many_answers_outlive_cars_that_come_and_go(town: Town) -> None:
    answers = 64

    async def work() -> None:
        async with Client(town.live.coordinator.grpc) as client:
            for name in ("lot-a", "lot-b"):
                town.add(name, vehicles=3)
            await town.live.parked(client, 6)
            payloads = [question(number, max_tokens=150) for number in range(answers)]
            listening = [asyncio.create_task(listen(client, payload)) for payload in payloads]
            turn = 0
            while not all(task.done() for task in listening):
                car = f"car-{turn % 6:04d}"
                await town.unplug(car)
                await town.plug(car)
                turn += 1
                await asyncio.wait(listening, timeout=0.1)
            heard = [task.result() for task in listening]
            alike = [is_whole(town, *pair) for pair in zip(payloads, heard, strict=True)]
            assert sum(alike) >= 0.99 * answers
            handovers = await metric(town.live, "carpool_stream_handover_gap_seconds_count")
            assert handovers >= answers / 4, (handovers, turn)
            assert await metric(town.live, "carpool_partials_rejected_total", reason="gap") == 0
            print(f"{handovers:g} hand-overs of {answers} answers, {turn} cars taken")

    within(work(), 300)


def test_a_prompt_longer_than_the_context_is_refused_in_a_sentence(town: Town) -> None:
    async def work() -> None:
        async with Client(town.live.coordinator.grpc) as client:
            town.add("lot-a")
            await town.live.parked(client, 1)
            with pytest.raises(
                CarpoolError, match=r"the prompt has .* tokens and max_tokens is 64, together more than"
            ):
                await listen(client, chat("much too long " * 200, max_tokens=64))

    within(work())


def test_a_caller_who_leaves_frees_the_car_for_the_next(town: Town) -> None:
    async def work() -> None:
        async with Client(town.live.coordinator.grpc) as client:
            town.add("lot-a")
            await town.live.parked(client, 1)
            stream = client.generate("llama", question(0))
            await anext(stream)
            await stream.aclose()

            async def free() -> bool | None:
                (car,) = await client.nodes()
                return car.state == "idle" or None

            await until(free, 0.5)

    within(work())
