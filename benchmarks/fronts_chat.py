"""Tokens a second of a chat model through the OpenAI front, by the same through JobService.Generate.

Both stream. The same prompts go through both in turns, but for a number that each begins with: no prompt comes
twice, so nothing of it is known already. Answers do not end before they have all their tokens, on either side. On a
machine that does other things, too, the ratio by processor seconds says more.
"""

import asyncio
import json
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from benchmarks.cluster import Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal, ratio
from benchmarks.keep_alive import Connection
from benchmarks.serve import requests
from coordinator.client import Client
from coordinator.errors import CarpoolError

GOAL = Goal(at_least=0.95)
WIDTHS = (1, 8)

Answer = Callable[[bytes], Awaitable[int]]
"""Asks this; tokens of the answer."""


def measure(given: Namespace, folder: Path, tell: Callable[[str], None]) -> tuple[list[Figure], list[str]]:
    """Figures and notes of this part."""
    flags = ("--models", given.chat, "--dtype", "fp32", "--threads", 1)
    with Cluster((1,), flags, folder) as cluster:
        try:
            rates = asyncio.run(_rates(cluster, given, tell))
        except (CarpoolError, OSError, EOFError) as error:
            raise BenchmarkFailed(str(error)) from None
    figures = []
    for width in WIDTHS:
        ours, openai = rates[width, "Generate"], rates[width, "OpenAI"]
        figures.append(ratio(f"{given.chat}, {width} at a time: OpenAI ÷ JobService.Generate", openai, ours, GOAL))
        spent = rates[width, "OpenAI, spent"], rates[width, "Generate, spent"]
        figures.append(ratio(f"{given.chat}, {width} at a time: the same by the lot's processor seconds", *spent))
        figures.append(Figure(f"{given.chat}, {width} at a time: OpenAI", "tokens/s", openai))
        figures.append(Figure(f"{given.chat}, {width} at a time: JobService.Generate", "tokens/s", ours))
    return figures, []


async def _rates(
    cluster: Cluster, given: Namespace, tell: Callable[[str], None]
) -> dict[tuple[int, str], list[float]]:
    """Tokens a second, by callers and by front, a sample for each round; "spent": of the lot's processor."""
    rates: dict[tuple[int, str], list[float]] = {}
    letters = count(1)
    async with Client(cluster.target) as client:
        fronts: dict[str, Answer] = {
            "Generate": lambda body: _generate(client, given.chat, body),
            "OpenAI": lambda body: _complete(cluster.http, body),
        }
        for answer in fronts.values():
            await answer(_bodies(1, letters, given)[0])  # the first finds nothing warm
        for turn in range(given.rounds):
            for width in WIDTHS:
                for name in list(fronts)[:: 1 if turn % 2 == 0 else -1]:
                    tell(f"round {turn + 1} of {given.rounds}: {name}, {width} at a time")
                    bodies = _bodies(max(given.requests, width), letters, given)
                    (lot,) = cluster.lots
                    began_s, spent_s = time.perf_counter(), lot.cpu_s
                    tokens = await _tokens(fronts[name], bodies, width)
                    rates.setdefault((width, name), []).append(tokens / (time.perf_counter() - began_s))
                    rates.setdefault((width, f"{name}, spent"), []).append(tokens / (lot.cpu_s - spent_s))
    return rates


def _bodies(number: int, letters: "count[int]", given: Namespace) -> list[bytes]:
    """So many requests, always of the same lengths."""
    bodies = []
    for payload in requests(number, seed=1):
        body = json.loads(payload)
        body["messages"][0]["content"] = f"Letter {next(letters):05}. {body['messages'][0]['content']}"
        more = {"model": given.chat, "max_tokens": given.tokens, "ignore_eos": True, "temperature": 0}
        bodies.append(json.dumps({**body, **more}).encode())
    return bodies


async def _tokens(answer: Answer, bodies: list[bytes], width: int) -> int:
    """Tokens of all answers, to as many callers."""
    waiting = list(reversed(bodies))

    async def caller() -> int:
        tokens = 0
        while waiting:
            tokens += await answer(waiting.pop())
        return tokens

    return sum(await asyncio.gather(*(caller() for _ in range(width))))


async def _generate(client: Client, model: str, body: bytes) -> int:
    tokens = 0
    async for said in client.generate(model, body):
        tokens += len(said.tokens)
    return tokens


async def _complete(target: str, body: bytes) -> int:
    """On a connection of its own: one that rests is closed, and it costs nothing beside an answer."""
    asked = json.dumps({**json.loads(body), "stream": True, "stream_options": {"include_usage": True}}).encode()
    tokens, last = 0, b""
    connection = await Connection.open(target)
    async for last in connection.stream(connection.request("/v1/chat/completions", asked)):
        if b'"usage":' in last:
            tokens = (json.loads(last)["usage"] or {}).get("completion_tokens", tokens)
    await connection.close()
    if last != b"[DONE]":
        raise BenchmarkFailed(f"a stream ended with {last[:300].decode()}")
    return tokens
