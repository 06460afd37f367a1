"""How long nobody speaks when the car that says an answer is lost, and what a second car is worth that is asked.

Two lots of one car each, in fp32. Again and again an answer is begun and, once some of it was said, its car is
unplugged by the driver's hand, or its process is killed. What is measured is what the caller hears: from the last
token before to the first one of the other car. No question comes twice, so neither car has read it before. Every
answer must be the one that nobody interrupted, which is asked for afterwards.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.accounts import scraped
from benchmarks.cluster import Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, percentile, terminal
from benchmarks.machine import Machine
from coordinator.client import Client
from node.address import addresses
from node.client import plug, unplug

LOST_AT = 24
"""Tokens after which the car is lost."""
USUAL = 8
"""Answers after which the coordinator knows how long a first token takes."""
_POLL_S = 0.05
_HERE_WITHIN_S = 60.0

Lose = Callable[[str], Awaitable[None]]
"""Takes away the car of this name."""


@dataclass(slots=True)
class _Found:
    """What was measured, milliseconds."""

    first: list[float] = field(default_factory=list)
    beyond: list[float] = field(
        default_factory=list
    )  # the gap of one that was unplugged, less its first token's time
    unplugged: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    stalled: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)  # tokens that the other car read again


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("handover", str(__doc__).partition("\n")[0])
    options.add_argument("--model", default="smollm2", metavar="NAME", help="one that answers in words (smollm2)")
    options.add_argument("--tokens", type=count, default=64, metavar="N", help="of one answer (64)")
    options.add_argument("--unplugs", type=count, default=20, metavar="N", help="of the car, during an answer (20)")
    options.add_argument("--kills", type=count, default=5, metavar="N", help="of its process (5)")
    options.add_argument("--stalls", type=count, default=3, metavar="N", help="of a process before it speaks (3)")
    given = options.parse_args(arguments)
    machine, console = Machine.here(), terminal()
    with TemporaryDirectory(prefix="carpool-") as folder, console.status("answers whose cars are lost"):
        found = asyncio.run(_measure(given.model, given, Path(folder)))
    settings = {name: getattr(given, name) for name in ("model", "tokens", "unplugs", "kills", "stalls")}
    layout = "2 lots of 1 car, fp32, 1 thread each; 1 answer at a time"
    report = Report("handover", layout, {**settings, "lost_at": LOST_AT}, machine, _figures(found))
    report.publish(console, given.json)
    return 0


class _Trial:
    """One model's answers over one cluster."""

    def __init__(self, client: Client, cluster: Cluster, folder: Path, model: str, tokens: int) -> None:
        self._client, self._cluster, self._folder, self._model = client, cluster, folder, model
        self._tokens = tokens
        self._asked = 0
        self._turns: list[dict[str, str]] = []  # the question that was asked last, and its answer

    async def ask(self, lose: Lose | None = None) -> tuple[float, float, str]:
        """Hear the answer to a new question, and, if its car was lost, hear it again; as `hear`."""
        self._asked += 1
        content = f"Letter {self._asked}: why do people park their cars at night? Tell me at length."
        question = [{"role": "user", "content": content}]
        text, first_ms, gap_ms, first = await self.hear(question, lose)
        if lose is not None:
            expected, _, _, _ = await self.hear(question)
            if text != expected:
                raise BenchmarkFailed(f"an answer was {text!r}; the one that nobody interrupted was {expected!r}")
        self._turns = [*question, {"role": "assistant", "content": text}]
        return first_ms, gap_ms, first

    async def read_again(self) -> float:
        """Tokens that cars have read again so far."""
        samples = await asyncio.to_thread(scraped, self._cluster.metrics)
        return sum(sample.value for sample in samples if sample.name == "carpool_tokens_recomputed_total")

    async def hear(self, turns: list[dict[str, str]], lose: Lose | None = None) -> tuple[str, float, float, str]:
        """Hear an answer to its end: the text, milliseconds to its first token and of its gap, who spoke first."""
        payload = json.dumps({"messages": turns, "max_tokens": self._tokens}).encode()
        text, first, last, tokens, first_ms, gap_ms = "", "", "", 0, 0.0, 0.0
        heard_s = begun_s = time.monotonic()
        async for said in self._client.generate(self._model, payload):
            now_s = time.monotonic()
            if said.tokens and not tokens:
                first_ms, first, last = (now_s - begun_s) * 1000.0, said.vehicle, said.vehicle
            if said.tokens and said.vehicle != last:
                gap_ms, last = (now_s - heard_s) * 1000.0, said.vehicle
            text, tokens, heard_s = text + said.text, tokens + len(said.tokens), now_s
            if lose is not None and tokens >= LOST_AT:
                await lose(first)
                lose = None
        return text, first_ms, gap_ms, first

    async def unplug(self, car: str) -> None:
        await asyncio.to_thread(unplug, self._folder, [car])

    async def kill(self, car: str) -> None:
        await asyncio.to_thread(self._cluster.lots[self._lot_of(car)].kill)

    async def restore(self, car: str) -> None:
        """Bring a car back whose process was killed."""
        await asyncio.to_thread(self._cluster.restart_lot, self._lot_of(car))
        await self.both_here()

    async def both_here(self) -> None:
        """Returns when both cars take work."""
        try:
            async with asyncio.timeout(_HERE_WITHIN_S):
                while True:
                    nodes = await self._client.nodes()
                    if sum(node.state in ("idle", "busy") for node in nodes) == 2:
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BenchmarkFailed(f"a car was not back within {_HERE_WITHIN_S:g} s") from None

    async def stall(self) -> float:
        """Milliseconds to the first token of a next turn, whose car, of the turn before, has stopped."""
        _, _, car = await self.ask()
        turns = [*self._turns, {"role": "user", "content": "So?"}]
        process = self._cluster.lots[self._lot_of(car)]
        process.pause()
        try:
            _, first_ms, _, _ = await self.hear(turns)
        finally:
            process.resume()
        await self.both_here()
        return first_ms

    def _lot_of(self, car: str) -> int:
        lot = next(lot.lot_id for lot in addresses(self._folder) if car in lot.vehicles)
        return int(lot.removeprefix("lot-"))


async def _measure(model: str, given: object, folder: Path) -> _Found:
    found = _Found()
    tokens, unplugs, kills, stalls = (getattr(given, name) for name in ("tokens", "unplugs", "kills", "stalls"))
    cluster = Cluster([1, 1], ("--models", model, "--dtype", "fp32", "--threads", 1), folder)
    await asyncio.to_thread(cluster.__enter__)
    try:
        async with Client(cluster.target) as client:
            trial = _Trial(client, cluster, folder, model, tokens)
            for _ in range(USUAL):
                first_ms, _, _ = await trial.ask()
                found.first.append(first_ms)
            for _ in range(unplugs):
                before = await trial.read_again()
                first_ms, gap_ms, car = await trial.ask(trial.unplug)
                found.again.append(await trial.read_again() - before)
                found.unplugged.append(gap_ms)
                found.beyond.append(gap_ms - first_ms)
                await asyncio.to_thread(plug, folder, [car])
                await trial.both_here()
            for _ in range(kills):
                _, gap_ms, car = await trial.ask(trial.kill)
                found.killed.append(gap_ms)
                await trial.restore(car)
            for _ in range(stalls):
                found.stalled.append(await trial.stall())
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)
    if min(*found.unplugged, *found.killed) <= 0:
        raise BenchmarkFailed("an answer ended before its car was lost; ask for more --tokens")
    return found


def _figures(found: _Found) -> list[Figure]:
    return [
        Figure("first token of an answer", "ms", found.first),
        Figure("unplugged: no token for", "ms", found.unplugged),
        Figure("  less the time to its own first token", "ms", found.beyond, Goal(at_most=300)),
        Figure("  p99 of these", "ms", [percentile(found.beyond, 99)], Goal(at_most=1000)),
        Figure("  tokens that the other car read again", "tokens", found.again),
        Figure("killed: no token for", "ms", found.killed),
        Figure("stopped before it spoke: first token", "ms", found.stalled),
    ]
