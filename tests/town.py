"""A town: lots as real processes with one small model each, answers heard from them, and the model by itself.

Cars are lost as owners, faults and operators lose them; whoever loses one brings it back with `whole`.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from coordinator.client import Client, Said
from node import client as hand
from node import conversion
from node.models import ModelCache
from node.workloads import run_alone
from node.workloads.device import use_threads
from node.workloads.generate import Generate, load
from tests.live import Cluster, cluster, until
from tests.node.small_models import chat, make_broken_llama, make_llama

MODEL = "llama"
BROKEN = "broken"
"""The same, but that its embedding of `~` is no number."""
TIE = 1e-3
"""Logits: two answers may part where the choice was so near."""


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

    async def listen(self, client: Client, payload: bytes, model: str = MODEL) -> None:
        """Hear it to its end."""
        async for said in client.generate(model, payload):
            self.said.append(said)


@dataclass
class Town:
    """The lots with their cars, by name."""

    live: Cluster
    folder: Path
    model: Generate
    lots: dict[str, list[str]]
    away: set[str] = field(default_factory=set)  # unplugged, or soon

    def start(self, lot: str, *flags: str) -> None:
        """Start the process of a lot, of before or another one."""
        cars = self.lots[lot]
        self.away.difference_update(cars)
        self.live.add(
            lot,
            *("--models", f"{MODEL},{BROKEN}", "--dtype", "fp32", "--run-dir", str(self.folder), *flags),
            vehicles=len(cars),
            first_index=int(cars[0].removeprefix("car-")),
        )

    @property
    def cars(self) -> list[str]:
        return [car for cars in self.lots.values() for car in cars]

    def lot_of(self, car: str) -> str:
        return next(lot for lot, cars in self.lots.items() if car in cars)

    async def unplug(self, *cars: str) -> None:
        self.away.update(cars)
        await asyncio.to_thread(hand.unplug, self.folder, cars)

    async def plug(self, *cars: str, window_s: float = 0.0) -> None:
        (self.away.update if window_s else self.away.difference_update)(cars)  # it leaves by itself
        await asyncio.to_thread(hand.plug, self.folder, cars, window_s)

    async def here(self, client: Client, *cars: str) -> None:
        """Returns when just these take work."""

        async def look() -> bool | None:
            nodes = await client.nodes()
            return {node.name for node in nodes if node.state in ("idle", "busy")} == set(cars) or None

        await until(look, 60.0)

    async def back(self, client: Client, lot: str) -> None:
        """Returns when some car of a lot takes work."""

        async def look() -> bool | None:
            nodes = [node for node in await client.nodes() if node.name in self.lots[lot]]
            return any(node.state in ("idle", "busy") for node in nodes) or None

        await until(look, 60.0)

    async def only(self, client: Client, *cars: str) -> None:
        """Leave just these on their chargers."""
        await self.plug(*cars)
        await self.unplug(*(car for car in self.cars if car not in cars))
        await self.here(client, *cars)

    async def whole(self, client: Client) -> None:
        """Bring all back: processes that ended are started again."""
        ended = [lot for lot in self.lots if self.live.lots[lot].poll() is not None]
        for lot in ended:
            self.start(lot)
        await self.plug(*self.away)
        await self.here(client, *self.cars)

    def expected(self, payloads: Sequence[bytes]) -> list[dict[str, Any]]:
        """What the model by itself answers."""
        answers = run_alone(self.model, payloads)
        return [json.loads(answer) for answer in answers if isinstance(answer, bytes)]

    def check(self, payload: bytes, heard: Heard, expected: dict[str, Any]) -> bool:
        """Whether an answer is just the one that the model alone gives. It may differ, and is printed, only where
        the choice of a token hung on less than TIE."""
        end, text = heard.said[-1], expected["text"]
        assert len(heard.tokens) == end.completion_tokens, "each token is told once"
        if heard.text == text:
            told = (end.finish_reason, end.prompt_tokens, end.completion_tokens)
            assert told == tuple(expected[name] for name in ("finish_reason", "prompt_tokens", "completion_tokens"))
            return True
        _, steps = self.model.trace(payload)
        pairs = zip_longest([*heard.tokens, None], steps)
        place, step = next((place, step) for place, (said, step) in enumerate(pairs) if step and said != step.token)
        print(f"differs at token {place}, where the choice hung on {step.gap:g}")
        assert step.gap < TIE, (payload, heard.text, text)
        return False


def cache_of(root: Path) -> ModelCache:
    """A cache that holds a small model with room for long answers, and a broken one."""
    use_threads(1)
    (root / MODEL).mkdir()
    make_llama(root / MODEL, context=2_048)
    make_broken_llama(root / BROKEN, root / MODEL)
    cache = ModelCache(root / "cache")
    for name in (MODEL, BROKEN):
        conversion.add(cache, str(root / name))
    return cache


@contextmanager
def town_of(cache: ModelCache, root: Path, lots: Sequence[int]) -> Iterator[Town]:
    """A coordinator that notices a loss soon, and lots of so many cars."""
    config = root / "carpool.toml"
    config.write_text("[scheduling]\nheartbeat_s = 0.2\nsilent_after_s = 0.8\n")
    with cluster("--config", str(config)) as live:
        names = iter(range(sum(lots)))
        cars = {
            f"lot-{index}": [f"car-{next(names):04d}" for _ in range(count)] for index, count in enumerate(lots)
        }
        town = Town(live, root / "cluster", load(cache.get(MODEL), "cpu", "fp32"), cars)
        for lot in cars:
            town.start(lot)
        yield town


def question(number: int, **fields: object) -> bytes:
    """Most of these are answered at length, some of them by chance."""
    drawn = {"temperature": 0.8, "seed": number} if number % 2 else {}
    return chat(f"where is car {number} parked?", **{"max_tokens": 400, **drawn, **fields})
