"""Results as OpenAI writes them: bodies of answers, and lines of a batch output file.

Owns the form of OUT. Knows the requests of INPUT, but no network, file or terminal.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator import vectors
from coordinator.errors import Failure
from coordinator.formats import Batch


class Line(NamedTuple):
    """One line, with its end."""

    text: str
    answered: bool  # it has an answer, not an error


class Answerable(NamedTuple):
    """One request that results answer."""

    custom_id: str
    items: int  # at least one
    answer: Callable[[list[bytes], str], str]
    """The body of its answer, JSON, from the results of its items and the id of the request. Raises ValueError,
    KeyError or TypeError when they cannot be read."""


class Lines:
    """Lines of an output file, made from results in the order of the items."""

    def __init__(self, name: str, requests: Iterable[Answerable]) -> None:
        """Ids of requests are `name` and a number."""
        self._name = name
        self._requests = iter(requests)
        self._number = 0  # of the request whose items come next
        self._next = next(self._requests, None)
        self._pending: list[bytes | Failure] = []

    @property
    def complete(self) -> bool:
        """Whether every request has its line."""
        return self._next is None

    def take(self, payloads: Sequence[bytes], failures: Mapping[int, Failure], first: int) -> Iterator[Line]:
        """The lines that these results complete; `first` is the index of payloads[0], `failures` by index."""
        for index, payload in enumerate(payloads, first):
            self._pending.append(failures.get(index, payload))
            if self._next is not None and len(self._pending) == self._next.items:
                yield self._line(self._next, self._pending)
                self._pending.clear()
                self._number += 1
                self._next = next(self._requests, None)

    def _line(self, request: Answerable, results: list[bytes | Failure]) -> Line:
        custom_id = json.dumps(request.custom_id, ensure_ascii=False)
        request_id = f"{self._name}-{self._number}"
        failure = next((result for result in results if isinstance(result, Failure)), None)
        try:
            end = self._failed(failure) if failure else self._answered(request, results, request_id)
            answered = failure is None
        except (ValueError, KeyError, TypeError) as error:
            end, answered = self._failed(Failure("model", f"the model's result cannot be read: {error}")), False
        return Line(f'{{"id": "{request_id}", "custom_id": {custom_id}, {end}}}\n', answered)

    def _failed(self, failure: Failure) -> str:
        error = json.dumps({"code": failure.code, "message": failure.message}, ensure_ascii=False)
        return f'"response": null, "error": {error}'

    def _answered(self, request: Answerable, results: list[bytes | Failure], request_id: str) -> str:
        body = request.answer([result for result in results if isinstance(result, bytes)], request_id)
        response = f'{{"status_code": 200, "request_id": "{request_id}", "body": {body}}}'
        return f'"response": {response}, "error": null'


class AnswerLines(Lines):
    """Lines of OUT, as `carpool run` writes it."""

    def __init__(self, batch: Batch, job_id: str, model: str, kind: str, created_s: int) -> None:
        """`created_s` is when the job was submitted, Unix seconds (chat completions carry it)."""
        self._model, self._kind, self._created_s = model, kind, created_s
        super().__init__(job_id, (Answerable(custom_id, len(items), self._body) for custom_id, items in batch))

    def _body(self, payloads: list[bytes], request_id: str) -> str:
        if self._kind == "embed":
            return "".join(embeddings(self._model, payloads))
        if self._kind == "generate":
            return json.dumps(self._completion(json.loads(payloads[0]), request_id), ensure_ascii=False)
        if self._kind == "classify":
            rows = ", ".join(
                json.dumps({"object": "classification", "index": index, **json.loads(payload)})
                for index, payload in enumerate(payloads)
            )
            return f'{{"object": "list", "data": [{rows}], "model": {json.dumps(self._model)}}}'
        data = [
            {"object": "echo", "index": index, "output": payload.decode(errors="replace")}
            for index, payload in enumerate(payloads)
        ]
        return json.dumps({"object": "list", "data": data, "model": self._model}, ensure_ascii=False)

    def _completion(self, result: dict[str, Any], request_id: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": self._created_s,
            "model": self._model,
            "choices": [message(0, result["text"], result.get("logprobs"), result["finish_reason"])],
            "usage": usage(result["prompt_tokens"], result["completion_tokens"]),
        }


def embeddings(model: str, results: Sequence[bytes], *, base64: bool = False) -> Iterator[str]:
    """An answer with these vectors, JSON, a piece for each. Raises ValueError when one cannot be read."""
    yield '{"object": "list", "data": ['
    tokens = 0
    for index, result in enumerate(results):
        try:
            vector, count = vectors.read(result)
        except ValueError as error:
            raise ValueError(f"input[{index}] failed: {error}") from None
        tokens += count
        told = f'"{b64encode(vector.tobytes()).decode()}"' if base64 else f"[{_numbers(vector)}]"
        yield f'{", " if index else ""}{{"object": "embedding", "index": {index}, "embedding": {told}}}'
    spent = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    yield f'], "model": {json.dumps(model)}, "usage": {spent}}}'


def message(index: int, text: str, logprobs: Mapping[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    """A choice of a chat completion."""
    said = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": said, "logprobs": logprobs, "finish_reason": finish_reason}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens that were read, and that were made."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _numbers(vector: NDArray[np.float32]) -> str:
    """A vector [D] as decimals; nine digits bring back the same float32."""
    return _decimals(len(vector)) % tuple(vector.tolist())


@lru_cache(maxsize=16)
def _decimals(length: int) -> str:
    return ", ".join(["%.9g"] * length)
