"""Requests of batches, read and answered just as the calls that they stand for."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from coordinator.batch_input import Asking, Reader
from coordinator.services.openai import chat, completions, embeddings
from coordinator.services.openai.choices import Asked, Choice, Style, checked
from coordinator.services.openai.errors import BadField
from coordinator.services.openai.generation import written
from coordinator.services.openai.schema import check
from coordinator.streams import ending


def _generated(style: Style, asked: Asked, results: Sequence[bytes], request_id: str, created_s: int) -> str:
    choices = []
    for index, result in enumerate(results):
        text, end = ending(result)
        choice = Choice(index, [text], _likelihoods(result))
        choice.end(end)
        choices.append(choice)
    head = {"id": f"{style.mark}-{request_id}", "created": created_s, "model": asked.model}
    return "".join(written(style, asked, choices, head))


def _likelihoods(result: bytes) -> list[Any]:
    """Those of a result, if it tells some. Raises ValueError."""
    told = json.loads(result).get("logprobs")
    return [] if told is None else checked(told.get("content") if isinstance(told, dict) else None)


def _generate(
    schema: Mapping[str, Any], asks: Callable[[dict[str, Any]], tuple[Style, Asked]], body: dict[str, Any]
) -> Asking:
    check(body, schema)
    style, asked = asks(body)
    return Asking(asked.payloads, partial(_generated, style, asked))


def _embed(body: dict[str, Any]) -> Asking:
    check(body, embeddings.BODY)
    if "dimensions" in body:
        told = "in a batch vectors are as long as the model makes them: leave it out"
        raise BadField("dimensions", f"dimensions is {body['dimensions']}; {told}")

    def answer(results: Sequence[bytes], request_id: str, created_s: int) -> str:
        return "".join(embeddings.embedded(body, results))

    return Asking(embeddings.payloads(body["input"]), answer)


READERS: Mapping[str, Reader] = {
    "/v1/chat/completions": Reader("generate", partial(_generate, chat.BODY, chat.chat_asked)),
    "/v1/completions": Reader("generate", partial(_generate, completions.BODY, completions.text_asked)),
    "/v1/embeddings": Reader("embed", _embed),
}
"""By endpoint."""
