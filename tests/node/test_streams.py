"""Answers that are told while they are made, and gone on with by another car."""

import json
from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer

from node.executor import Executor
from node.models import ModelCache
from node.work import Key, Spoken, Work
from node.workloads import load, run_alone
from node.workloads.transcript import Transcript
from tests.node.small_models import chat
from tests.node.test_executor import Ear, running

Heard = tuple[list[Spoken], dict[str, object]]


def said(executor: Executor, ear: Ear, key: Key, payload: bytes, begun: Sequence[int] = ()) -> Heard:
    """Run one streamed request; what was spoken of it, and its answer."""
    executor.submit(
        Work(key, 0, "llama", [payload], (5,), True, False, begun={5: begun} if begun else {}, streamed=True)
    )
    ear.wait_for(key)
    assert ear.heard[-1][0] == "finished"
    return [spoken for spoken in ear.said if spoken.key == key], json.loads(ear.results(key)[5])


def joined(spoken: Sequence[Spoken], first: int = 0, start: int = 0) -> tuple[list[int], str]:
    """All tokens and text of what was spoken, which leaves no gap and says nothing twice."""
    tokens: list[int] = []
    text = ""
    for part in spoken:
        assert (part.first, part.start) == (first + len(tokens), start + len(text))
        tokens += part.tokens
        text += part.text
    return tokens, text


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.9, "top_p": 0.7, "seed": -3}]
)
def test_an_answer_resumed_at_any_position_is_the_uninterrupted_one(
    small_cache: ModelCache, fields: dict[str, object]
) -> None:
    payload = chat("hello", max_tokens=24, **fields)
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        whole, answer = said(executor, ear, "whole", payload)
        tokens, text = joined(whole)
        assert (answer["text"], answer["completion_tokens"]) == (text, len(tokens))
        (reference,) = run_alone(load(small_cache, "llama"), [payload])
        assert isinstance(reference, bytes)
        assert answer == json.loads(reference)
        for count in range(1, len(tokens) + 1):
            rest, resumed = said(executor, ear, ("resumed", count), payload, tokens[:count])
            assert resumed == answer
            start = rest[0].start if rest else len(text)
            others, more = joined(rest, count, start)
            assert (tokens[:count] + others, text[:start] + more) == (tokens, text)


def test_a_stop_string_across_the_hand_over_is_found(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        whole, _ = said(executor, ear, "whole", chat("hello", max_tokens=40, temperature=1, seed=2))
        text = joined(whole)[1]
        stop = next(text[at : at + 3] for at in range(8, len(text)) if text[at : at + 3].isprintable())
        payload = chat("hello", max_tokens=40, temperature=1, seed=2, stop=["never said", stop])
        stopped, answer = said(executor, ear, "stopped", payload)
        short, until = joined(stopped)
        assert answer == answer | {"text": text[: text.index(stop)], "finish_reason": "stop"}
        assert until == answer["text"]
        for count in range(1, len(short) + 1):
            rest, resumed = said(executor, ear, ("resumed", count), payload, short[:count])
            assert resumed == answer
            start = rest[0].start if rest else len(until)
            assert start <= text.index(stop)
            others, more = joined(rest, count, start)
            assert (short[:count] + others, until[:start] + more) == (short, until)


def test_how_likely_each_token_was_is_told_with_it_by_whichever_car_tells_it(small_cache: ModelCache) -> None:
    payload = chat("hello 🚗", max_tokens=12, logprobs=True, top_logprobs=2, temperature=0.9, seed=3)
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        whole, answer = said(executor, ear, "whole", payload)
        logprobs = answer["logprobs"]
        assert isinstance(logprobs, dict)
        content = logprobs["content"]
        assert [json.loads(entry) for part in whole for entry in part.likelihoods] == content
        assert {part.prompt_tokens for part in whole} == {answer["prompt_tokens"]}
        tokens, _ = joined(whole)
        for count in range(1, len(tokens) + 1):
            rest, _ = said(executor, ear, ("resumed", count), payload, tokens[:count])
            told = [json.loads(entry) for part in rest for entry in part.likelihoods]
            assert [entry["token"] for entry in told] == [entry["token"] for entry in content[count:]]
            again = [entry["logprob"] for entry in told]
            assert again == pytest.approx([entry["logprob"] for entry in content[count:]], abs=1e-4)
            assert all(len(part.likelihoods) == len(part.tokens) for part in rest)
        quiet, _ = said(executor, ear, "quiet", chat("hello", max_tokens=3))
        assert not any(part.likelihoods for part in quiet)


def test_what_an_answer_took_until_then_is_told_with_each_part(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        spoken, _ = said(executor, ear, "key", chat("hello", max_tokens=8, ignore_eos=True))
    took = [part.busy_s for part in spoken]
    assert took == sorted(took)
    assert 0.0 < took[0] < took[-1]
    assert took[-1] == ear.finishes[-1].busy_s


def test_works_that_are_not_streamed_are_not_spoken_of(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        executor.submit(Work("quiet", 0, "llama", [chat("hello")], (0,), True, False))
        ear.wait_for("quiet")
    assert not ear.said


def bytes_of(small_cache: ModelCache, text: str) -> tuple[Tokenizer, list[int]]:
    tokenizer = Tokenizer.from_file(str(small_cache.get("llama").directory / "tokenizer.json"))
    return tokenizer, tokenizer.encode(text).ids


@pytest.mark.parametrize("stops", [(), ("und",), ("hört 🚗 a", "zzz"), ("🚗🚗",)])
def test_text_only_grows_whole_characters_at_a_time_and_says_no_beginning_of_a_stop(
    small_cache: ModelCache, stops: tuple[str, ...]
) -> None:
    text = "Das Auto 🚗 hört zu, und gehört 🚗 am Ende nur: dem Besitzer — 自動車 🚗"
    tokenizer, ids = bytes_of(small_cache, text)
    assert len(ids) > len(text), "characters of several tokens"
    ends = [text.index(stop) for stop in stops if stop in text]
    expected = text[: min(ends, default=len(text))]
    for handed_over in range(len(ids)):
        transcript = Transcript(tokenizer.decode, stops)
        grown = ""
        for count, token in enumerate(ids):
            if transcript.stopped:
                break
            transcript.add(token)
            if count >= handed_over:
                passage = transcript.take()
                grown = grown or expected[: passage.start]
                assert passage.start == len(grown)
                grown += passage.text
                assert expected.startswith(grown)
        grown += transcript.take(ended=True).text
        assert grown == expected == transcript.text


def test_half_a_character_at_the_end_of_an_answer_is_told_at_its_end(small_cache: ModelCache) -> None:
    tokenizer, ids = bytes_of(small_cache, "a 🚗")
    transcript = Transcript(tokenizer.decode)
    for token in ids[:-1]:
        transcript.add(token)
    assert transcript.take().text == "a "
    assert transcript.take(ended=True).text == "\ufffd"
