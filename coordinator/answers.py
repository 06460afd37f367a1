"""Results written as lines of an OpenAI batch output file.

Owns the form of OUT. Knows the requests of INPUT, but no network, file or terminal.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from coordinator.errors import Failure
from coordinator.formats import Batch


class AnswerLines:
    """Lines of the output file, made from results in the order of the items."""

    def __init__(self, batch: Batch, job_id: str, model: str, kind: str, created_s: int) -> None:
        """`created_s` is when the job was submitted, Unix seconds (chat completions carry it)."""
        self._batch, self._job_id, self._model, self._kind = batch, job_id, model, kind
        self._created_s = created_s
        self._requests = iter(batch)
        self._request = 0  # whose items come next
        self._custom_id, items = next(self._requests)
        self._awaited = len(items)
        self._pending: list[bytes | Failure] = []

    @property
    def complete(self) -> bool:
        """Whether every request of the batch has its line."""
        return self._request == self._batch.requests

    def take(self, payloads: Sequence[bytes], failures: Mapping[int, Failure], first: int) -> Iterator[str]:
        """The lines that these results complete; `first` is the index of payloads[0], `failures` by index."""
        for index, payload in enumerate(payloads, first):
            self._pending.append(failures.get(index, payload))
            if len(self._pending) == self._awaited:
                yield self._line(self._pending)
                self._pending.clear()
                self._request += 1
                self._custom_id, items = next(self._requests, ("", ()))
                self._awaited = len(items)

    def _line(self, results: list[bytes | Failure]) -> str:
        custom_id = json.dumps(self._custom_id, ensure_ascii=False)
        request_id = f"{self._job_id}-{self._request}"
        failure = next((result for result in results if isinstance(result, Failure)), None)
        try:
            end = self._failed(failure) if failure else self._answered(results, request_id)
        except (ValueError, KeyError, TypeError) as error:
            end = self._failed(Failure("model", f"the model's result cannot be read: {error}"))
        return f'{{"id": "{request_id}", "custom_id": {custom_id}, {end}}}\n'

    def _failed(self, failure: Failure) -> str:
        error = json.dumps({"code": failure.code, "message": failure.message}, ensure_ascii=False)
        return f'"response": null, "error": {error}'

    def _answered(self, results: list[bytes | Failure], request_id: str) -> str:
        body = self._body([result for result in results if isinstance(result, bytes)], request_id)
        response = f'{{"status_code": 200, "request_id": "{request_id}", "body": {body}}}'
        return f'"response": {response}, "error": null'

    def _body(self, payloads: list[bytes], request_id: str) -> str:
        if self._kind == "embed":
            rows = ", ".join(
                f'{{"object": "embedding", "index": {index}, "embedding": [{_numbers(payload)}]}}'
                for index, payload in enumerate(payloads)
            )
            return f'{{"object": "list", "data": [{rows}], "model": {json.dumps(self._model)}}}'
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
        prompt, completion = result["prompt_tokens"], result["completion_tokens"]
        return {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": self._created_s,
            "model": self._model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": result["text"]},
                    "logprobs": result.get("logprobs"),
                    "finish_reason": result["finish_reason"],
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }


def _numbers(payload: bytes) -> str:
    """A little-endian float32 vector [D] as decimals; nine digits bring back the same float32."""
    vector = np.frombuffer(payload, dtype="<f4")
    if not np.isfinite(vector).all():
        raise ValueError("it holds a number that is not finite")
    return ", ".join(["%.9g"] * len(vector)) % tuple(vector.tolist())
