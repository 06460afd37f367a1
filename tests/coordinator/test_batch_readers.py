"""Requests of batches whose results cannot be read: their line fails, and no other."""

import json
import struct
from typing import Any

import pytest

from coordinator.answers import Answerable, Lines
from coordinator.services.openai.batch_readers import READERS

CHAT = {"model": "m", "messages": [{"role": "user", "content": "?"}], "logprobs": True}
TEXT = {"model": "m", "prompt": "?", "logprobs": 1}
EMBED = {"model": "m", "input": "?"}
ENTRY = {"token": "a", "logprob": -0.5, "top_logprobs": []}


def said(logprobs: Any) -> bytes:
    body = {"text": "a", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1, "logprobs": logprobs}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("endpoint", "body", "sound", "broken"),
    [
        ("/v1/embeddings", EMBED, struct.pack("<fI", 0.5, 1), struct.pack("<fI", float("nan"), 1)),
        ("/v1/embeddings", EMBED, struct.pack("<fI", 0.5, 1), b"1234567"),
        ("/v1/embeddings", EMBED, struct.pack("<fI", 0.5, 1), b"1"),
        ("/v1/chat/completions", CHAT, said({"content": [ENTRY]}), b"{}"),
        ("/v1/chat/completions", CHAT, said({"content": [ENTRY]}), said([ENTRY])),
        ("/v1/chat/completions", CHAT, said(None), said({"content": [{**ENTRY, "logprob": float("-inf")}]})),
        ("/v1/completions", TEXT, said({"content": [ENTRY]}), said("none")),
        ("/v1/completions", TEXT, said({"content": [ENTRY]}), said({"content": [{"token": "a"}]})),
    ],
)
def test_a_result_that_cannot_be_read_fails_its_line_alone(
    endpoint: str, body: dict[str, Any], sound: bytes, broken: bytes
) -> None:
    asking = READERS[endpoint].read(body)
    asked = [Answerable(name, 1, lambda results, name: asking.answer(results, name, 0)) for name in ("a", "b", "c")]
    lines = list(Lines("request", asked).take([sound, broken, sound], {}, 0))
    assert [line.answered for line in lines] == [True, False, True]
    assert json.loads(lines[1].text)["error"]["code"] == "model"
    for line in (lines[0], lines[2]):
        assert json.loads(line.text, parse_constant=pytest.fail)["response"]["status_code"] == 200
