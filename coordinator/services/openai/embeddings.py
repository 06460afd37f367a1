"""/v1/embeddings: vectors of texts, or of texts as token numbers."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coordinator import answers
from coordinator.errors import Failure
from coordinator.refusal import Refusal, Refused, refused
from coordinator.runtime import Runtime
from coordinator.services.openai.bodies import read
from coordinator.services.openai.call import Answer, Call
from coordinator.services.openai.errors import BadField
from coordinator.services.openai.keys import KEYED
from coordinator.services.openai.offered import ASKING_REFUSES, offered
from coordinator.services.openai.operation import Operation, Schema
from coordinator.services.openai.replies import Replies
from coordinator.services.openai.schema import NAME, TOKEN
from coordinator.services.openai.turns import in_turns

_PATH = "/v1/embeddings"
_MOST_INPUTS = 2048
"""In one call, as with OpenAI."""

_TEXT: Schema = {"type": "string", "minLength": 1}
_TOKENS: Schema = {"type": "array", "items": TOKEN, "minItems": 1}
BODY: Schema = {
    "type": "object",
    "properties": {
        "model": NAME,
        "input": {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": _MOST_INPUTS},
                _TOKENS,
                {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": _MOST_INPUTS},
            ]
        },
        "encoding_format": {"enum": ["float", "base64"]},
        "dimensions": {"type": "integer", "minimum": 1},
        "user": {"type": "string"},
    },
    "required": ["model", "input"],
}
_ANSWER: Schema = {
    "type": "object",
    "properties": {
        "object": {"enum": ["list"]},
        "model": {"type": "string"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "object": {"enum": ["embedding"]},
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]},
                },
                "required": ["object", "index", "embedding"],
            },
        },
        "usage": {
            "type": "object",
            "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
            "required": ["prompt_tokens", "total_tokens"],
        },
    },
    "required": ["object", "model", "data", "usage"],
}


class Embeddings:
    """Asks cars for vectors."""

    def __init__(self, runtime: Runtime, replies: Replies) -> None:
        self._runtime = runtime
        self._replies = replies

    def operations(self) -> list[Operation]:
        """Its row of the table of routes."""
        return [
            Operation(
                *("POST", _PATH, "Vectors of texts", self._embed, _ANSWER, BODY),
                headers=KEYED,
                refuses=ASKING_REFUSES,
            )
        ]

    async def _embed(self, call: Call) -> Answer | None:
        body = await read(call, BODY)

        async def make() -> Answer:
            inputs = self.inputs(body)
            told = await self._runtime.requests.run(call.tenant, "openai", body["model"], inputs, None)
            results = [_result(answer, index) for index, answer in enumerate(told)]
            try:
                return Answer(await in_turns(embedded(body, results)))
            except ValueError as error:
                raise Refused(Refusal.FAILED, str(error)) from None

        return await self._replies.once(call, body, make)

    def inputs(self, body: dict[str, Any]) -> list[bytes]:
        """The payloads that a body asks for; refused when its model would not take them."""
        model = offered(self._runtime, body, "embed", _PATH)
        wide = model.output_shape[0] if model.output_shape else None
        if "dimensions" in body and body["dimensions"] != wide:
            only = f"only {wide}: leave it out" if wide else "one length only: leave it out"
            raise BadField("dimensions", f"dimensions is {body['dimensions']}; vectors of {model.name} have {only}")
        return payloads(body["input"])


def embedded(body: dict[str, Any], results: Sequence[bytes]) -> Iterator[str]:
    """The answer, JSON, in pieces, from the results of the cars. Raises ValueError when one cannot be read."""
    return answers.embeddings(body["model"], results, base64=body.get("encoding_format") == "base64")


def _result(answer: bytes | Failure, index: int) -> bytes:
    if isinstance(answer, bytes):
        return answer
    where = f"input[{index}]"
    why = refused(answer, where, alone=True)
    raise BadField(where, str(why)) if why.refusal is Refusal.BAD_INPUT else why


def payloads(given: str | list[Any]) -> list[bytes]:
    """One for each text, in the forms that the kind "embed" takes."""
    if isinstance(given, str):
        return [_text(given, "input")]
    if isinstance(given[0], int):
        return [_array(given)]
    return [
        _text(one, f"input[{index}]") if isinstance(one, str) else _array(one) for index, one in enumerate(given)
    ]


def _text(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        message = f"{where} holds half a character (a lone surrogate) at {error.start}; leave it out"
        raise BadField(where, message) from None


def _array(tokens: list[int]) -> bytes:
    """Token numbers as a NumPy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array(tokens, np.int32), allow_pickle=False)
    return file.getvalue()
