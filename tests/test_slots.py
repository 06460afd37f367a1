"""Places in the memory of a car: who leaves frees one at once, and who finds none waits.

The lot runs in this process, so that a row is seen to leave when it does, at a real coordinator's word.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import pytest

from coordinator.client import Client
from coordinator.errors import CarpoolError
from node.agent import Agent
from node.config import LotConfig
from node.executor import Executor
from node.models import ModelCache
from node.terms import WILLING
from node.work import Listener
from node.workloads import run_alone
from node.workloads.engine import Row
from node.workloads.generate import Generate, load
from tests.live import Cluster, cluster, until, within
from tests.node.small_models import chat
from tests.town import MODEL, Heard, cache_of, question


class Watched:
    """One lot of one car that notes when rows leave before their end, and how often there was no room for one."""

    def __init__(self, live: Cluster, cache: ModelCache) -> None:
        self._live, self._cache = live, cache
        self.left_s: list[float] = []
        self.no_room = 0

    @asynccontextmanager
    async def serving(self, positions: int) -> AsyncIterator[Client]:
        """While it runs with room for so many positions: a client."""
        stop, ready = asyncio.Event(), asyncio.Event()
        executors: list[Executor] = []

        def equip(listener: Listener) -> Executor:
            executors.append(
                Executor(
                    listener,
                    cache=self._cache,
                    models=[MODEL],
                    device="cpu",
                    dtype="fp32",
                    threads=1,
                    positions=positions,
                )
            )
            return executors[0]

        config = LotConfig(
            lot_id="watched",
            coordinator=self._live.coordinator.grpc,
            profiles=("hw4",),
            first_index=0,
            models=(MODEL,),
            noop=False,
            day="parked",
            speed=1.0,
            device="cpu",
            dtype="fp32",
            threads=1,
            run_dir=None,
            api_key=None,
            seed=1,
            terms=(WILLING,),
        )
        with pytest.MonkeyPatch.context() as patches:
            async with asyncio.TaskGroup() as tasks, Client(self._live.coordinator.grpc) as client:
                tasks.create_task(Agent(config, equip).run(stop, ready.set))
                await ready.wait()
                generate = executors[0]._workloads[MODEL]
                assert isinstance(generate, Generate)
                self._watch(patches, generate)
                await self._live.parked(client, 1)
                yield client
                stop.set()

    def _watch(self, patches: pytest.MonkeyPatch, generate: Generate) -> None:
        join, leave = generate.join, generate.leave

        def watched_join(*given: Any, **named: Any) -> Row | None:
            row = join(*given, **named)
            self.no_room += row is None
            return row

        def watched_leave(row: Row) -> None:
            leave(row)
            if not row.ended:
                self.left_s.append(time.monotonic())

        patches.setattr(generate, "join", watched_join)
        patches.setattr(generate, "leave", watched_leave)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    return cache_of(tmp_path_factory.mktemp("models"))


@pytest.fixture
def watched(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setenv("CARPOOL_CACHE", str(cache.root))
    with cluster() as live:
        yield Watched(live, cache)


def test_a_caller_who_leaves_frees_the_place_within_100_ms(watched: Watched) -> None:
    async def work() -> None:
        async with watched.serving(16_384) as client:
            # Nothing of these is drawn: none ends by chance before its caller leaves.
            streams = [client.generate(MODEL, question(2 * number, max_tokens=1_500)) for number in range(7)]
            for stream in streams:
                await anext(stream)
            took_s = []
            for stream in streams[:5]:
                asked_s, before = time.monotonic(), len(watched.left_s)
                await stream.aclose()

                async def left(before: int = before) -> float | None:
                    return watched.left_s[before] if len(watched.left_s) > before else None

                took_s.append(await until(left) - asked_s)
            for stream in streams[5:]:
                await anext(stream)
                await stream.aclose()
        print(f"left after {[round(1e3 * seconds) for seconds in took_s]} ms")
        assert median(took_s) < 0.1

    within(work())


def test_more_answers_than_the_memory_holds_wait_for_room_and_none_fails(
    watched: Watched, cache: ModelCache
) -> None:
    payloads = [chat(f"car {number}?", max_tokens=40 + number) for number in range(40)]

    async def work() -> list[Heard]:
        heard = [Heard() for _ in payloads]
        async with watched.serving(512) as client, asyncio.TaskGroup() as tasks:
            for one, payload in zip(heard, payloads, strict=True):
                tasks.create_task(one.listen(client, payload))
            with pytest.raises(CarpoolError) as refused:
                await Heard().listen(client, chat("so long " * 50, max_tokens=200))
            assert str(refused.value) == (
                "the prompt has 419 tokens and max_tokens is 200, together more than 512; shorten one of them"
            )
        return heard

    heard: list[Heard] = []

    async def both() -> None:
        heard.extend(await work())

    within(both())
    expected = run_alone(load(cache.get(MODEL), "cpu", "fp32"), payloads)
    for one, answer in zip(heard, expected, strict=True):
        assert isinstance(answer, bytes)
        assert one.text == json.loads(answer)["text"]
    assert watched.no_room
