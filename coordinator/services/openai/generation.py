"""Answers of language models, whole or as they are made: what chat and plain completions have in common.

Reads of a body what the front needs: the model, how many answers, and how they are told. What changes an answer
goes to the car as it came, which refuses by name what it does not know.
"""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from coordinator.runtime import Runtime
from coordinator.services.openai.bodies import read
from coordinator.services.openai.call import Answer, Call
from coordinator.services.openai.choices import Asked, Choice, Style, spent, together
from coordinator.services.openai.keys import KEYED
from coordinator.services.openai.offered import ASKING_REFUSES, offered
from coordinator.services.openai.operation import Operation, Schema
from coordinator.services.openai.replies import Replies
from coordinator.services.openai.schema import NAME
from coordinator.services.openai.telling import Telling
from coordinator.services.openai.turns import in_pieces, in_turns
from coordinator.streams import Ending, Part

_MOST_CHOICES = 16
_MOST_SEED = (1 << 64) - 1

COMMON: Schema = {
    "model": NAME,
    "n": {"type": "integer", "minimum": 1, "maximum": _MOST_CHOICES},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 1 << 20},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": -(1 << 63), "maximum": _MOST_SEED},
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 16},
        ]
    },
    "ignore_eos": {"type": "boolean"},
    "stream": {"type": "boolean"},
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": {"type": "boolean"}, "continuous_usage_stats": {"type": "boolean"}},
    },
    "user": {"type": "string"},
}
"""Fields of both kinds of body."""

_FRONT = frozenset(
    {
        *("model", "n", "stream", "stream_options", "user", "metadata", "store", "service_tier"),
        *("safety_identifier", "prompt_cache_key", "parallel_tool_calls"),
    }
)
"""Fields that change nothing in an answer, or that the front does itself."""

USAGE: Schema = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
}


def ask(body: dict[str, Any], prompts: Sequence[Mapping[str, Any]]) -> Asked:
    """What a body asks for, with each of these fields in turn in place of its own."""
    fields = {name: value for name, value in body.items() if name not in _FRONT}
    each, options = body.get("n", 1), body.get("stream_options", {})
    drawn = body.get("temperature", 0) > 0
    if drawn and "seed" not in body:
        fields["seed"] = secrets.randbits(63)  # who asks again wants another answer
    payloads = []
    for prompt in prompts:
        for index in range(each):
            if drawn and index:
                prompt = {**prompt, "seed": _next_seed(fields["seed"], index)}
            payloads.append(json.dumps({**fields, **prompt}).encode())
    usage, continuous = options.get("include_usage", False), options.get("continuous_usage_stats", False)
    return Asked(body["model"], payloads, each, usage, usage and continuous)


def answering(
    runtime: Runtime,
    replies: Replies,
    path: str,
    summary: str,
    answers: Schema,
    schema: Schema,
    asks: Callable[[dict[str, Any]], tuple[Style, Asked]],
) -> Operation:
    """The operation that has cars answer what `asks` reads of a body."""

    async def handle(call: Call) -> Answer | None:
        body = await read(call, schema)

        async def make() -> Answer | None:
            offered(runtime, body, "generate", path)
            style, asked = asks(body)
            return await Generation(runtime, style).answer(call, asked, body.get("stream", False))

        return await replies.once(call, body, make)

    return Operation(
        *("POST", path, summary, handle, answers, schema), headers=KEYED, refuses=ASKING_REFUSES, streams=True
    )


class Generation:
    """Asks cars for answers."""

    def __init__(self, runtime: Runtime, style: Style) -> None:
        self._runtime = runtime
        self._style = style

    async def answer(self, call: Call, asked: Asked, stream: bool) -> Answer | None:
        """The answers to one call; None: they were told as they were made."""
        choices = [Choice(index) for index in range(len(asked.payloads))]
        head = {"id": f"{self._style.mark}-{uuid4().hex}", "created": int(time.time()), "model": asked.model}
        if stream:
            telling = Telling(call, self._style, asked, head, choices)
            await telling.tell(lambda choice: self._say(call.tenant, asked, choice))
            return None
        await together(self._collect(call.tenant, asked, choice) for choice in choices)
        return Answer(await in_turns(written(self._style, asked, choices, head)))

    async def _collect(self, tenant: str, asked: Asked, choice: Choice) -> None:
        saying = self._say(tenant, asked, choice)
        async with aclosing(saying):
            async for said in saying:
                if isinstance(said, Part):
                    choice.hear(said)
                else:
                    choice.end(said)

    def _say(self, tenant: str, asked: Asked, choice: Choice) -> AsyncGenerator[Part | Ending]:
        """One answer as it is made."""
        payload = asked.payloads[choice.index]
        return self._runtime.requests.generate(tenant, "openai", asked.model, payload, None)


def written(style: Style, asked: Asked, choices: Sequence[Choice], head: Mapping[str, Any]) -> Iterator[str]:
    """An answer that is complete, JSON, in pieces; `head` is its id, when it was created, and the model."""
    yield f'{json.dumps({**head, "object": style.whole})[:-1]}, "choices": ['
    for number, choice in enumerate(choices):
        yield ", " if number else ""
        yield from in_pieces(style.choice(choice))
    yield f'], "usage": {json.dumps(spent(choices, asked.each))}}}'


def _next_seed(seed: int, index: int) -> int:
    return seed + index if seed + index <= _MOST_SEED else seed + index - _MOST_SEED
