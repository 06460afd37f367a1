"""Rows that join and leave a running batch: their answers, their memory, what they share and what fails alone."""

import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from node import attempt, conversion
from node.models import ModelCache, ModelError
from node.work import Work
from node.workloads import BadInput, Control, load, run_alone
from node.workloads.engine import CHUNK_BESIDE_TOKENS, TRICKLE_TOKENS, Engine, Prompt, Row, shares
from node.workloads.generate import Generate
from node.workloads.stretches import Stretches
from tests.node.small_models import chat, make_broken_llama
from tests.node.test_executor import Ear, running, work


@pytest.fixture
def generate(small_cache: ModelCache) -> Generate:
    workload = load(small_cache, "llama")
    assert isinstance(workload, Generate)
    return workload


def prompt_of(generate: Generate, payload: bytes) -> Prompt:
    (prompt,) = generate.prepare([payload], Control())
    assert not isinstance(prompt, BadInput), prompt
    return prompt


def joined(generate: Generate, payload: bytes, owner: object = 0, begun: Sequence[int] = ()) -> Row:
    row = generate.join(owner, prompt_of(generate, payload), begun)
    assert row is not None, "there is room"
    return row


def test_another_memory_takes_the_place_of_the_one_before_and_no_layer_asks_twice(generate: Generate) -> None:
    before = weakref.ref(generate.engine._memory)
    generate.hold(200)
    assert before() is None
    assert generate.positions == 200
    asks = {len(module._forward_pre_hooks) for module in generate.engine._network.module.modules()}
    assert asks == {0, 1}


def finish(generate: Generate, *rows: Row) -> list[bytes]:
    """Step them to their ends."""
    while going_on := [row for row in rows if not row.ended]:
        generate.step(going_on, Control())
    outcomes = [generate.outcome(row) for row in rows]
    for row in rows:
        generate.leave(row)
    return [outcome for outcome in outcomes if isinstance(outcome, bytes)]


def test_rows_that_join_and_leave_at_any_step_answer_as_they_would_alone(generate: Generate) -> None:
    payloads = [chat("word " * count, max_tokens=4 + 7 * count % 30) for count in (3, 50, 1, 20, 9, 33)]
    expected = run_alone(generate, payloads)
    waiting = list(enumerate(payloads))
    rows: dict[int, Row] = {}
    answers: dict[int, bytes] = {}
    while waiting or rows:
        if waiting:
            place, payload = waiting.pop(0)
            rows[place] = joined(generate, payload, owner=place)
        for _ in range(3):
            if going_on := [row for row in rows.values() if not row.ended]:
                generate.step(going_on, Control())
        for place in [place for place, row in rows.items() if row.ended]:
            (answers[place],) = finish(generate, rows.pop(place))
    assert [answers[place] for place in range(len(payloads))] == expected
    assert generate.engine.used == 0


def test_a_long_prompt_comes_in_chunks_beside_those_that_answer(generate: Generate) -> None:
    cpu = torch.device("cpu")
    beside = CHUNK_BESIDE_TOKENS["cpu"]
    batch, asked = True, False
    assert shares([(10, 11, asked), (0, 400, asked), (0, 30, asked), (20, 21, asked)], cpu) == [1, beside, 0, 1]
    assert shares([(0, 20, batch), (0, 400, batch), (10, 11, batch)], cpu) == [20, beside - 20, 1]
    assert shares([(0, 200, asked), (0, 400, batch), (10, 11, batch)], cpu) == [200, TRICKLE_TOKENS["cpu"], 1]
    answering, long = joined(generate, chat("a", max_tokens=40)), joined(generate, chat("b" * 300, max_tokens=5))
    generate.step([answering, long], Control())
    while long.known - long.filled > 1:
        said = len(answering.transcript.tokens)
        generate.step([answering, long], Control())
        assert len(answering.transcript.tokens) == said + 1, "it never waits for more than a chunk"


def test_a_step_that_is_stopped_changes_nothing_and_can_be_taken_again(generate: Generate) -> None:
    from node.workloads import Stopped

    payload = chat("hello", max_tokens=12)
    (expected,) = run_alone(generate, [payload])
    row = joined(generate, payload)
    checks = 0

    class Later(Control):
        def check(self) -> None:
            nonlocal checks
            checks += 1
            if checks % 7 == 0:
                raise Stopped

    steps = 0
    while not row.ended:
        before = row.filled, list(row.transcript.tokens)
        try:
            generate.step([row], Later() if steps % 2 else Control())
        except Stopped:
            assert (row.filled, row.transcript.tokens) == before
        steps += 1
    assert finish(generate, row) == [expected]


def test_a_next_turn_uses_what_the_turn_before_left_and_nobody_elses(generate: Generate) -> None:
    first = chat("tell me of the car", max_tokens=20)
    (answer,) = finish(generate, joined(generate, first, owner="car 1"))
    messages = json.loads(first)["messages"]
    messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then?"}]
    second = json.dumps({"messages": messages, "max_tokens": 20}).encode()
    row = joined(generate, second, owner="car 1")
    assert row.reused >= len(prompt_of(generate, first).ids)
    assert joined(generate, second, owner="car 2").reused == 0
    assert finish(generate, row) == run_alone(generate, [second])
    again = joined(generate, first, owner="car 1")
    assert again.reused == len(prompt_of(generate, first).ids) - 1, (
        "the last token is passed through for its logits"
    )
    assert finish(generate, again) == [answer]


def test_the_longest_unused_goes_when_room_is_wanted_and_rows_never_do() -> None:
    stretches = Stretches(100)
    rows = [stretches.take("car", 30) for _ in range(3)]
    assert [row.start for row in rows if row] == [0, 30, 60]
    assert stretches.take("car", 30) is None
    for number, row in enumerate(rows):
        assert row is not None
        row.tokens = [number] * 20
        stretches.keep(row)
    assert stretches.used == 0
    assert stretches.best("car", [0] * 25) == (rows[0], 20)
    assert stretches.best("other", [0] * 25) == (None, 0)
    taken = stretches.take("car", 40)
    assert taken is not None
    assert stretches.best("car", [1])[1] == 0, "it was the longest unused"
    assert stretches.best("car", [0])[1] == stretches.best("car", [2])[1] == 1
    assert stretches.take("car", 61) is None
    last = stretches.take("car", 40)
    assert last is not None
    assert (last.start, last.end) == (60, 100), "both went, and what was free between them is used"
    assert stretches.best("car", [0])[1] == stretches.best("car", [2])[1] == 0


def test_what_does_not_fit_the_memory_waits_and_all_are_answered(
    small_cache: ModelCache, generate: Generate
) -> None:
    payloads = [chat("word " * (number % 7), max_tokens=30) for number in range(12)]
    expected = run_alone(generate, payloads)
    parameters = sum(parameter.numel() for parameter in generate.engine._network.module.parameters())
    width = 2 * 2 * 2 * 8  # layers, keys and values, heads, numbers of a head
    generate.limit(parameters + 160 * width)
    assert generate.engine.positions == 160
    assert run_alone(generate, payloads) == expected
    (refused,) = generate.prepare([chat("x" * 100, max_tokens=60)], Control())
    assert isinstance(refused, BadInput)
    assert "together more than 160" in str(refused)
    with pytest.raises(ModelError, match="is too small for this model"):
        generate.limit(parameters)


def test_what_was_begun_is_made_text_again_only_when_there_is_room(generate: Generate) -> None:
    decoded: list[Sequence[int]] = []

    def decode(tokens: Sequence[int]) -> str:
        decoded.append(tokens)
        return generate.text(tokens)

    prompt, begun = prompt_of(generate, chat("hello", max_tokens=9)), [40, 41, 42]
    engine = Engine(generate.engine._network, decode, frozenset(), prompt.positions, torch.device("cpu"))
    before = engine.join("car", prompt)
    assert before is not None
    assert engine.join("car", prompt, begun) is None
    assert decoded == []
    engine.leave(before)
    row = engine.join("car", prompt, begun)
    assert row is not None
    assert row.transcript.tokens == begun
    assert row.transcript.text == generate.text(begun)
    engine.leave(row)
    to_its_end = engine.join("car", prompt, [40] * 9)
    assert to_its_end is not None
    assert to_its_end.reason == "length"
    engine.leave(to_its_end)
    assert engine.used == 0


def test_more_requests_than_there_is_room_for_queue_and_batch_ones_step_along(small_cache: ModelCache) -> None:
    ear = Ear()
    batch = [chat("word " * number, max_tokens=40) for number in range(20)]
    asked = {number: chat("so " * number, max_tokens=30) for number in range(50)}
    with running(ear, small_cache, "llama") as executor:
        executor.submit(work("batch", batch, "llama"))
        for number, payload in asked.items():
            executor.submit(work(number, [payload], "llama", interactive=True))
        ear.wait_for("batch", *asked)
    workload = load(small_cache, "llama")
    assert list(dict(sorted(ear.results("batch").items())).values()) == run_alone(workload, batch)
    assert [ear.results(number)[0] for number in asked] == run_alone(workload, list(asked.values()))
    announced: set[int] = set()
    for what, key, items in ear.heard:
        if key == "batch" and what == "announce":
            announced |= set(items)
        elif key == "batch":
            assert set(items) <= announced


def test_a_row_that_is_cancelled_frees_its_place_and_the_others_go_on(small_cache: ModelCache) -> None:
    ear = Ear()
    payloads = {number: chat("hello " * number, max_tokens=150) for number in range(1, 5)}
    with running(ear, small_cache, "llama") as executor:
        for number, payload in payloads.items():
            executor.submit(Work(number, 0, "llama", [payload], (0,), True, False, streamed=True))
        for number in payloads:
            ear.wait_to_hear("spoke", number)
        lost_s = executor.stop([2]).result(1)
        said = len([spoken for spoken in ear.said if spoken.key == 2])
        ear.wait_for(1, 3, 4)
    assert lost_s[2] > 0
    assert len([spoken for spoken in ear.said if spoken.key == 2]) == said, "nothing comes after a stop"
    workload = load(small_cache, "llama")
    for number in (1, 3, 4):
        assert [ear.results(number)[0]] == run_alone(workload, [payloads[number]])
        spoken = "".join(part.text for part in ear.said if part.key == number)
        assert spoken == json.loads(ear.results(number)[0])["text"]


def test_a_solo_answer_is_made_with_nothing_else_in_flight(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        executor.submit(work("some", [chat("a", max_tokens=30)] * 3, "llama"))
        executor.submit(work("asked", [chat("b", max_tokens=60)], "llama", interactive=True, vehicle=1))
        ear.wait_to_hear("announce", "some")
        executor.submit(work("suspect", [chat("c", max_tokens=20)], "llama", solo=True, vehicle=2))
        executor.submit(work("later", [chat("d", max_tokens=20)], "llama", vehicle=3))
        ear.wait_for("some", "asked", "suspect", "later")
    order = [(what, key) for what, key, _ in ear.heard]
    at = order.index(("announce", "suspect"))
    assert order[at + 1] == ("finished", "suspect")
    begun = {key for what, key in order[:at] if what == "announce"}
    ended = {key for what, key in order[:at] if what == "finished"}
    assert begun <= ended


@pytest.fixture
def broken_cache(small_models: Path, tmp_path: Path) -> ModelCache:
    """A model whose embedding of `~` is no number."""
    make_broken_llama(tmp_path / "broken", small_models / "llama")
    cache = ModelCache(tmp_path / "cache")
    conversion.add(cache, str(tmp_path / "broken"))
    return cache


def test_logits_that_are_no_numbers_are_a_typed_error_and_leave_the_neighbours_alone(
    broken_cache: ModelCache, small_cache: ModelCache
) -> None:
    ear = Ear()
    inputs = [chat("fine", max_tokens=9), chat("not ~ fine", max_tokens=9), chat("fine too", max_tokens=9)]
    with running(ear, broken_cache, "broken") as executor:
        executor.submit(work("mixed", inputs, "broken"))
        ear.wait_for("mixed")
    assert ear.errors("mixed") == {
        1: ("model", "the model gave logits that are no numbers (NaN, infinite): broken weights, or an overflow")
    }
    sound = run_alone(load(small_cache, "llama"), [inputs[0], inputs[2]])
    assert [ear.results("mixed")[place] for place in (0, 2)] == sound


def test_a_row_on_which_a_step_fails_fails_alone(generate: Generate) -> None:
    payloads = [chat("one", max_tokens=9), chat("two", max_tokens=9)]
    good, bad = (joined(generate, payload, owner=payload) for payload in payloads)
    bad.prompt.ids[-1] = 10_000  # no such token
    while not good.ended:
        failed = attempt.step(generate, [row for row in (good, bad) if not row.ended], Control())
        assert failed.keys() == {bad}
        assert failed[bad].message.startswith("the model raised IndexError")
    assert finish(generate, good) == run_alone(generate, payloads[:1])


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.8, "seed": 4}])
def test_log_probabilities_are_the_models_own(
    small_models: Path, generate: Generate, fields: dict[str, object]
) -> None:
    payload = chat("hello 🚗", max_tokens=12, logprobs=True, top_logprobs=3, **fields)
    row = joined(generate, payload)
    (answer,) = finish(generate, row)
    content = json.loads(answer)["logprobs"]["content"]
    tokens = row.transcript.tokens
    ids = torch.tensor([row.prompt.ids + tokens])
    with torch.inference_mode():
        reference = LlamaForCausalLM.from_pretrained(small_models / "llama").eval()
        odds = reference(ids).logits[0].log_softmax(-1)[len(row.prompt.ids) - 1 : -1]
    assert len(content) == len(tokens)
    for entry, token, row_odds in zip(content, tokens, odds, strict=True):
        assert entry["logprob"] == pytest.approx(float(row_odds[token]), abs=1e-4)
        np.testing.assert_allclose(
            [other["logprob"] for other in entry["top_logprobs"]], row_odds.topk(3).values, atol=1e-4
        )
        assert len(entry["bytes"]) == 1, "this tokenizer's tokens are bytes"
    assert (
        bytes(byte for entry in content for byte in entry["bytes"]).decode(errors="replace")
        == json.loads(answer)["text"]
    )
    for count in range(1, len(tokens) + 1):
        (resumed,) = finish(generate, joined(generate, payload, owner=count, begun=tokens[:count]))
        assert json.loads(resumed) | {"logprobs": None} == json.loads(answer) | {"logprobs": None}
        again = [entry["logprob"] for entry in json.loads(resumed)["logprobs"]["content"]]
        np.testing.assert_allclose(again, [entry["logprob"] for entry in content], atol=1e-4)


@pytest.mark.parametrize("solo", [False, True])
def test_work_behind_one_that_nobody_can_read_begins_all_the_same(small_cache: ModelCache, solo: bool) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama", "bert") as executor:
        executor.submit(work("before", [b"a sentence of some words"] * 200, "bert"))
        executor.submit(work("bad", [b"no JSON"], "llama", solo=solo))
        executor.submit(work("behind", [b"another one"], "bert"))
        ear.wait_for("before", "bad", "behind")
    assert ear.errors("bad")[0][0] == "bad_input"
