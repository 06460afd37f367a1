"""Requests that bring a prompt as it is, and answers that go on after a token that would have ended them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from node import conversion
from node.models import ModelCache
from node.workloads import BadInput, Control, load, run_alone
from node.workloads.engine import Row
from node.workloads.generate import Generate
from tests.node.small_models import chat, make_llama


def loaded(directory: Path) -> Generate:
    cache = ModelCache(directory.parent / "cache")
    conversion.add(cache, str(directory), "model")
    generate = load(cache, "model")
    assert isinstance(generate, Generate)
    return generate


def row_of(generate: Generate, payload: bytes, begun: tuple[int, ...] = ()) -> Row:
    """The request, answered to its end."""
    (prompt,) = generate.prepare([payload], Control())
    assert not isinstance(prompt, BadInput), prompt
    row = generate.join("car", prompt, begun)
    assert row is not None
    while not row.ended:
        generate.step([row], Control())
    generate.leave(row)
    return row


def outcome(generate: Generate, row: Row) -> dict[str, Any]:
    result = generate.outcome(row)
    assert isinstance(result, bytes)
    answer: dict[str, Any] = json.loads(result)
    return answer


@pytest.mark.parametrize("marked", [False, True])
def test_a_prompt_is_gone_on_from_as_transformers_does(tmp_path: Path, marked: bool) -> None:
    directory = tmp_path / "made"
    make_llama(directory)
    if marked:  # as tokenizers do that put a mark before any text
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 256)])
        tokenizer.save(str(directory / "tokenizer.json"))
    generate = loaded(directory)
    text = "The car 🚗 is parked<|end|> until"
    ids = PreTrainedTokenizerFast.from_pretrained(directory)(text)["input_ids"]
    assert (ids[0] == 256) is marked
    reference: Any = LlamaForCausalLM.from_pretrained(directory)
    with torch.inference_mode():
        told = reference.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)[
            0, len(ids) :
        ]
    payloads = [json.dumps({"prompt": prompt, "max_tokens": 20}).encode() for prompt in (text, ids)]
    by_text, by_tokens = run_alone(generate, payloads)
    assert by_text == by_tokens
    assert isinstance(by_text, bytes)
    answer = json.loads(by_text)
    assert (answer["text"], answer["prompt_tokens"]) == (generate.text(told.tolist()), len(ids))


def test_an_answer_goes_on_after_its_end_if_it_is_asked_to_whoever_goes_on(tmp_path: Path) -> None:
    make_llama(tmp_path / "endless")
    tokens = row_of(loaded(tmp_path / "endless"), chat("hello", max_tokens=24)).transcript.tokens
    end = tokens[5]
    (tmp_path / "other").mkdir()
    make_llama(tmp_path / "other" / "ending", eos_token_id=end)
    generate = loaded(tmp_path / "other" / "ending")
    ended = row_of(generate, chat("hello", max_tokens=24))
    assert (ended.reason, ended.transcript.tokens) == ("stop", tokens[: tokens.index(end)])
    payload = chat("hello", max_tokens=24, ignore_eos=True, logprobs=True)
    row = row_of(generate, payload)
    assert (row.reason, row.transcript.tokens) == ("length", tokens)
    answer = outcome(generate, row)
    assert answer["completion_tokens"] == len(answer["logprobs"]["content"]) == 24
    assert answer["text"] == generate.text([token for token in tokens if token != end]), "an end is no text"
    for count in range(1, 25):
        resumed = row_of(generate, payload, tuple(tokens[:count]))
        assert outcome(generate, resumed) | {"logprobs": None} == answer | {"logprobs": None}
        assert len(resumed.likelihoods) == 24


def test_an_answer_of_nothing_but_ends_takes_no_longer_with_every_token(tmp_path: Path) -> None:
    make_llama(tmp_path / "ending", eos_token_id=list(range(258)))
    generate = loaded(tmp_path / "ending")
    decoded: list[int] = []
    text = generate.engine._decode

    def decode(tokens: Sequence[int]) -> str:
        decoded.append(len(tokens))
        return text(tokens)

    generate.engine._decode = decode
    row = row_of(generate, chat("hello", max_tokens=200, ignore_eos=True))
    assert (len(row.transcript.tokens), row.transcript.text) == (200, "")
    assert sum(decoded) == 0
