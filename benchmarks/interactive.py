"""What people wait for while a batch job fills the fleet, beside an idle fleet.

A real coordinator and lots. One after the other, with pauses, come chat requests, whose answers are streamed, and
sentences to be embedded; all cars offer both models. In turns the fleet is idle, filled by a batch job of the one
model, and by one of the other. No chat request comes twice, so nothing of its prompt is known already.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.status import Status

from benchmarks.cluster import Cluster
from benchmarks.figures import (
    BenchmarkFailed,
    Figure,
    Goal,
    Report,
    count,
    parser,
    percentile,
    seconds,
    terminal,
)
from benchmarks.machine import Machine
from benchmarks.sentences import sentences
from benchmarks.serve import requests
from coordinator.client import Client
from coordinator.errors import CarpoolError, Failure

GOAL = Goal(at_most=2.0)
BATCH_CHATS, BATCH_SENTENCES = 4_000, 40_000
"""Items of a batch job: more than are done meanwhile."""
_WITHIN_S = 120.0
_POLL_S = 0.05
_PROMPTS = 32  # whose lengths are asked for in turn


@dataclass(slots=True)
class _Heard:
    """What callers waited for in one state of the fleet, milliseconds."""

    first: list[float] = field(default_factory=list)  # to the first token of an answer
    gaps: list[float] = field(default_factory=list)  # between two tokens of an answer
    embedded: list[float] = field(default_factory=list)  # for a sentence
    items: int = 0  # of the batch jobs, meanwhile
    seconds: float = 0.0

    @property
    def waits(self) -> dict[str, list[float]]:
        """By what was waited for."""
        return {"first token": self.first, "between tokens": self.gaps, "sentence": self.embedded}


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("interactive", str(__doc__).partition("\n")[0])
    options.add_argument(
        "--chat", default="smollm2", metavar="NAME", help="a model that answers in words (smollm2)"
    )
    options.add_argument("--encoder", default="minilm", metavar="NAME", help="one that embeds (minilm)")
    options.add_argument(
        "--requests", type=count, default=20, metavar="N", help="of each kind, in each state and round (20)"
    )
    options.add_argument("--tokens", type=count, default=16, metavar="N", help="of a chat answer, at most (16)")
    options.add_argument("--rounds", type=count, default=5, metavar="N", help="through all states of the fleet (5)")
    options.add_argument("--lots", type=count, default=1, metavar="N", help="processes, of one thread each (1)")
    options.add_argument("--cars", type=count, default=2, metavar="N", help="in each of them (2)")
    options.add_argument(
        "--pause", type=seconds, default=0.5, metavar="S", help="before a request, at most; drawn evenly (0.5)"
    )
    given = options.parse_args(arguments)
    machine, console = Machine.here(), terminal()
    with TemporaryDirectory(prefix="carpool-") as folder, console.status("starting") as status:
        try:
            heard = asyncio.run(_measure(given, Path(folder), status))
        except CarpoolError as error:
            raise BenchmarkFailed(str(error)) from None
    names = ("chat", "encoder", "requests", "tokens", "rounds", "lots", "cars", "pause")
    settings = {name: getattr(given, name) for name in names}
    layout = f"{given.lots} lot(s) of {given.cars} car(s), 1 thread each; requests one after the other"
    report = Report("interactive", layout, settings, machine, _figures(heard), _notes(heard))
    report.publish(console, given.json)
    return 0


class _Trial:
    """One fleet and those who ask it."""

    def __init__(self, client: Client, chat: str, encoder: str, tokens: int, pause_s: float) -> None:
        self._client, self._chat, self._encoder = client, chat, encoder
        self._tokens, self._pause_s = tokens, pause_s
        self._draw = random.Random(0)
        self._questions = [json.loads(payload)["messages"][0]["content"] for payload in requests(_PROMPTS, seed=1)]
        self._batches = {
            chat: requests(BATCH_CHATS, seed=2),
            encoder: [text.encode() for text in sentences(BATCH_SENTENCES)],
        }
        self._texts = sentences(_PROMPTS)
        self._asked = 0

    async def hear(self, model: str, each: int, heard: _Heard) -> None:
        """Send so many requests of each kind, while a batch job of this model fills the fleet; "" is no model."""
        job = None
        if model:
            job, _ = await self._client.submit(model, self._batches[model])
        await self._all("busy" if job else "idle")
        done, began_s = 0 if job is None else (await self._client.job(job.job_id)).items_done, time.monotonic()
        for number in range(each):
            await self._pause()
            await self._answer(number, heard)
            await self._pause()
            await self._embed(number, heard)
        heard.seconds += time.monotonic() - began_s
        if job is not None:
            now = await self._client.job(job.job_id)
            await self._all("busy")
            if now.state == "done":
                raise BenchmarkFailed("a batch job ended before the requests did; ask for fewer --requests")
            heard.items += now.items_done - done
            await self._client.cancel(job.job_id)

    async def _answer(self, number: int, heard: _Heard) -> None:
        """Hear a chat answer to its end."""
        self._asked += 1
        content = f"Letter {self._asked:05}. {self._questions[number % _PROMPTS]}"
        message = {"role": "user", "content": content}
        payload = json.dumps({"messages": [message], "max_tokens": self._tokens}).encode()
        told_s = [time.monotonic()]
        async for said in self._client.generate(self._chat, payload, timeout_s=_WITHIN_S):
            told_s += [time.monotonic()] * len(said.tokens)
        if len(told_s) < 2:
            raise BenchmarkFailed("an answer had no token")
        heard.first.append((told_s[1] - told_s[0]) * 1000.0)
        heard.gaps += [(later - sooner) * 1000.0 for sooner, later in pairwise(told_s[1:])]

    async def _embed(self, number: int, heard: _Heard) -> None:
        """Have a sentence embedded."""
        text = self._texts[number % _PROMPTS].encode()
        began_s = time.monotonic()
        (result,) = await self._client.run(self._encoder, [text], timeout_s=_WITHIN_S)
        heard.embedded.append((time.monotonic() - began_s) * 1000.0)
        if isinstance(result, Failure):
            raise BenchmarkFailed(f"a sentence failed: {result.message}")

    async def _pause(self) -> None:
        await asyncio.sleep(self._draw.random() * self._pause_s)

    async def _all(self, state: str) -> None:
        """Returns when every car is in this state."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                while True:
                    if all(node.state == state for node in await self._client.nodes()):
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BenchmarkFailed(f"not every car was {state} within {_WITHIN_S:g} s") from None


async def _measure(given: object, folder: Path, status: Status) -> dict[str, _Heard]:
    """By the model that fills the fleet, "" for none."""
    names = ("chat", "encoder", "requests", "tokens", "rounds", "lots", "cars", "pause")
    chat, encoder, each, tokens, rounds, lots, cars, pause_s = (getattr(given, name) for name in names)
    heard = {model: _Heard() for model in ("", chat, encoder)}
    flags = ("--models", f"{chat},{encoder}", "--dtype", "fp32", "--threads", 1)
    cluster = Cluster([cars] * lots, flags, folder)
    await asyncio.to_thread(cluster.__enter__)
    try:
        async with Client(cluster.target) as client:
            trial = _Trial(client, chat, encoder, tokens, pause_s)
            await trial.hear("", 2, _Heard())  # the first requests find nothing warm
            for turn in range(rounds):
                for model in list(heard)[:: 1 if turn % 2 == 0 else -1]:
                    status.update(f"{turn + 1} of {rounds}: {f'filled with {model}' if model else 'idle'}")
                    await trial.hear(model, each, heard[model])
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)
    return heard


def _figures(heard: dict[str, _Heard]) -> list[Figure]:
    idle = heard[""].waits
    figures = []
    for model, found in heard.items():
        state = f"filled with {model}" if model else "idle"
        for name, waits in found.waits.items():
            p99 = percentile(waits, 99)
            figures.append(Figure(f"{state}: {name}", "ms", waits))
            figures.append(Figure(f"{state}: {name}, p99", "ms", [p99]))
            if model:
                figures.append(
                    Figure(f"{state}: {name}, p99 by idle", "x", [p99 / percentile(idle[name], 99)], GOAL)
                )
    return figures


def _notes(heard: dict[str, _Heard]) -> list[str]:
    return [
        f"filled with {model}: {found.items / found.seconds:.1f} items/s of the batch job ended meanwhile"
        for model, found in heard.items()
        if model
    ]
