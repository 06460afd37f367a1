"""What models make of payloads, compared with other implementations where there are any."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from node.models import ModelCache, ModelError
from node.workloads import BadInput, Control, Stopped, load, run_alone, vectors
from node.workloads.chat import read_request
from node.workloads.classify import Classify
from node.workloads.efficientnet import Block, EfficientNetLite0, SameConvolution
from node.workloads.embed import Embed
from node.workloads.generate import Generate
from node.workloads.sampling import gap, sample
from tests.node.small_models import WORDS, chat, picture


@pytest.fixture(scope="module")
def embed(small_cache: ModelCache) -> Embed:
    workload = load(small_cache, "bert")
    assert isinstance(workload, Embed)
    return workload


@pytest.fixture(scope="module")
def generate(small_cache: ModelCache) -> Generate:
    workload = load(small_cache, "llama")
    assert isinstance(workload, Generate)
    return workload


@pytest.fixture(scope="module")
def classify(small_cache: ModelCache) -> Classify:
    workload = load(small_cache, "efficientnet")
    assert isinstance(workload, Classify)
    return workload


PROMPTS = (b'""', b"[]", b"7", b'["a"]', b"[[1]]", b"[1.0]", b"[true]")
"""No prompts."""


def texts() -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 90))) for _ in range(40)]


def answer_of(result: bytes | BadInput) -> dict[str, object]:
    assert isinstance(result, bytes), result
    answer: dict[str, object] = json.loads(result)
    return answer


def refusal_of(result: bytes | BadInput) -> str:
    assert isinstance(result, BadInput)
    return str(result)


def test_micro_batches_of_texts_hold_each_once_and_stay_small(embed: Embed) -> None:
    prepared = [
        item for item in embed.prepare([text.encode() for text in texts()], Control()) if isinstance(item, list)
    ]
    plan = embed.plan(prepared)
    assert sorted(index for batch in plan for index in batch) == list(range(len(prepared)))
    assert max(sum(len(prepared[index]) for index in batch) for batch in plan) <= 512


def test_text_beyond_the_longest_input_does_not_count(embed: Embed) -> None:
    long, longer = run_alone(embed, [b"car " * 62, b"car " * 62 + b"owner " * 1000])
    assert long == longer


def test_text_that_is_not_utf8_is_bad_input(embed: Embed) -> None:
    good, bad = run_alone(embed, [b"a car", b"a \xff"])
    assert isinstance(good, bytes)
    assert refusal_of(bad) == "the text is not UTF-8: 0xff at byte 2"


def test_an_answer_ends_at_its_limit_or_before_a_stop_text(generate: Generate) -> None:
    (whole,) = run_alone(generate, [chat("hello", max_tokens=30)])
    text = answer_of(whole)["text"]
    assert answer_of(whole)["finish_reason"] == "length"
    assert answer_of(whole)["completion_tokens"] == 30
    assert isinstance(text, str)
    stop = text[10:13]
    (stopped,) = run_alone(generate, [chat("hello", max_tokens=30, stop=stop)])
    assert answer_of(stopped)["finish_reason"] == "stop"
    assert answer_of(stopped)["text"] == text[: text.index(stop)]


def test_sampling_repeats_with_its_seed_and_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    draws = [
        sample(logits, read_request(chat("x", temperature=1, seed=seed)), position)
        for seed in range(40)
        for position in range(50)
    ]
    np.testing.assert_allclose(np.bincount(draws, minlength=3) / len(draws), [0.5, 0.3, 0.2], atol=0.04)
    narrow = {sample(logits, read_request(chat("x", temperature=1, top_p=0.6, seed=s)), 0) for s in range(100)}
    assert narrow == {0, 1}
    for seed in range(20):
        request = read_request(chat("x", temperature=0.5, seed=seed))
        drawn, by = sample(logits, request, 0), gap(logits, request, 0)
        for less, same in ((0.99, True), (1.01, False)):
            lower = logits.clone()
            lower[drawn] -= less * by
            assert (sample(lower, request, 0) == drawn) is same, "the gap is what the choice hung on"


def test_a_dropped_row_leaves_the_others_as_they_were(generate: Generate) -> None:
    requests = [chat("one", max_tokens=12), chat("two two", max_tokens=12), chat("three", max_tokens=12)]
    expected = run_alone(generate, requests)
    prompts = [item for item in generate.prepare(requests, Control()) if not isinstance(item, BadInput)]
    results = generate.run(prompts, Control(dropped={1}))
    assert results == [expected[0], None, expected[2]]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"{", "the request is not JSON"),
        (b"[" * 60_000, "the request is not JSON"),
        (b"[]", "not an object with `messages`"),
        (b"{}", "the request must have one of `messages` and `prompt`"),
        (chat("x", prompt="x"), "the request must have one of `messages` and `prompt`"),
        (b'{"messages": []}', "`messages` must be a list of at least one message"),
        *((b'{"prompt": %s}' % bad, "`prompt` must be one text, or one list of token") for bad in PROMPTS),
        (b'{"prompt": "\\ud800"}', "prompt holds half a character"),
        (b'{"prompt": [1, -1]}', "the model has no token -1, only 0 to 257; use numbers of its own vocabulary"),
        (b'{"prompt": [1, 258]}', "the model has no token 258, only 0 to 257"),
        (b'{"prompt": [1, 1%s]}' % (b"0" * 30), "the model has no token 10000000000"),
        (chat("x", ignore_eos=1), "ignore_eos is 1, not true or false"),
        (chat("x", stop=["x"] * 17), "stop has 17 strings, more than 16; leave some out"),
        (chat("x", stop=["x" * 2000, "y" * 49]), "stop has 2,049 characters in all, more than 2,048; shorten it"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "messages[0] has the role 'robot'"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "messages[0].content must be"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
        (chat("x", max_tokens=0), "max_tokens is 0, not a whole number from 1"),
        (chat("x", temperature=3), "temperature is 3, not a number from 0 to 2"),
        (chat("x", n=2), "the field 'n' is not supported here"),
        (chat("x", n=True), "the field 'n' is not supported here"),
        (chat("x", tools=[{}]), "the field 'tools' is not supported here"),
        (chat("x", response_format={"type": "json_object"}), "the field 'response_format' is not supported here"),
        (chat("x" * 600), "together more than 512; shorten one of them"),
        (
            json.dumps({"messages": [{"role": r, "content": "x"} for r in ("user", "system")]}).encode(),
            "the model's chat template refuses these messages: the system speaks first",
        ),
    ],
)
def test_a_bad_chat_request_is_refused_by_name(generate: Generate, payload: bytes, why: str) -> None:
    (result,) = run_alone(generate, [payload])
    assert why in refusal_of(result)


def test_fields_that_clients_send_change_nothing_where_they_ask_for_nothing(generate: Generate) -> None:
    neutral = {
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "logit_bias": {},
        "parallel_tool_calls": True,
        "seed": None,
        "best_of": 1,
        "echo": False,
        "suffix": None,
        "min_tokens": 0,
        "ignore_eos": False,
        "presence_penalty": 0.0,
    }
    plain, with_them = run_alone(generate, [chat("x", max_tokens=5), chat("x", max_tokens=5, **neutral)])
    assert with_them == plain


def test_classes_come_best_first_and_do_not_depend_on_the_batch(classify: Classify) -> None:
    pictures = [picture(300, 200, "JPEG"), picture(64, 640, seed=1), picture(500, 500, "WEBP", seed=2)]
    together = [answer_of(result)["classes"] for result in run_alone(classify, pictures)]
    alone = [answer_of(run_alone(classify, [item])[0])["classes"] for item in pictures]
    for some, same in zip(together, alone, strict=True):
        assert isinstance(some, list)
        assert isinstance(same, list)
        assert [entry["index"] for entry in some] == [entry["index"] for entry in same]
        assert [entry["logit"] for entry in some] == sorted((entry["logit"] for entry in some), reverse=True)
        assert some[0]["label"] == f"class {some[0]['index']}"
        np.testing.assert_allclose([e["logit"] for e in some], [e["logit"] for e in same], atol=1e-4)


def padded(layer: SameConvolution, pixels: torch.Tensor) -> torch.Tensor:
    """The convolution as TensorFlow's SAME says: where the padding is odd, the extra pixel goes right and below."""
    stride, kernel = layer.stride[0], layer.kernel_size[0]
    height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in pixels.shape[-2:])
    pixels = functional.pad(pixels, (width // 2, width - width // 2, height // 2, height - height // 2))
    return functional.conv2d(pixels, layer.weight, layer.bias, stride, groups=layer.groups)


@pytest.mark.parametrize("size", [224, 75])
def test_our_efficientnet_gives_what_its_convolutions_padded_one_by_one_give(size: int) -> None:
    torch.manual_seed(1)
    network = EfficientNetLite0().eval().requires_grad_(False)
    pixels = torch.randn(3, 3, size, size)
    narrow = functional.relu6(padded(network.stem, pixels))
    for block in network.blocks.children():
        assert isinstance(block, Block)
        wide = narrow if block.expand is None else functional.relu6(padded(block.expand, narrow))
        projected = padded(block.project, functional.relu6(padded(block.depthwise, wide)))
        narrow = projected + narrow if block.residual else projected
    expected = network.classes(functional.relu6(padded(network.head, narrow)).mean((2, 3)))
    network.turn()
    network.together = 2
    np.testing.assert_allclose(network(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_picture_that_is_none_fails_alone(classify: Classify) -> None:
    whole = picture(300, 200, "JPEG")
    good, text, torn, empty = run_alone(classify, [whole, b"hello", whole[: len(whole) // 2], b"\x89PNG"])
    assert isinstance(good, bytes)
    assert refusal_of(text).startswith("this is not a picture (JPEG, PNG")
    assert refusal_of(torn).startswith("the picture is broken: ")
    assert isinstance(empty, BadInput)


def test_a_picture_too_large_to_decode_is_refused_unread(classify: Classify) -> None:
    encoded = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(encoded, "PNG")
    (result,) = run_alone(classify, [encoded.getvalue()])
    assert refusal_of(result) == "the picture has 8000 x 8000 pixels, more than 40,000,000; make it smaller"


@pytest.mark.parametrize("name", ["bert", "llama", "efficientnet"])
def test_work_that_has_ended_raises_at_the_next_layer(small_cache: ModelCache, name: str) -> None:
    workload = load(small_cache, name)
    payload = {"bert": b"a car", "llama": chat("hello"), "efficientnet": picture(64, 64)}[name]
    prepared = workload.prepare([payload], Control())
    with pytest.raises(Stopped):
        workload.run(prepared, Control(ended=True))


@pytest.mark.parametrize("name", ["bert", "llama", "efficientnet"])
def test_another_type_of_numbers_is_made_once_for_all_processes(
    small_models: Path, tmp_path: Path, name: str
) -> None:
    from node import conversion

    cache = ModelCache(tmp_path)
    model, _ = conversion.add(cache, str(small_models / name))
    payload = {"bert": b"a car", "llama": chat("hello", max_tokens=3), "efficientnet": picture(64, 64)}[name]
    (first,) = run_alone(load(cache, name, "cpu", "bf16"), [payload])
    (made,) = (tmp_path / "converted").iterdir()
    assert made.name == f"{model.digest}-bfloat16.safetensors"
    written = made.stat().st_mtime_ns
    (second,) = run_alone(load(cache, name, "cpu", "bf16"), [payload])
    assert first == second
    assert made.stat().st_mtime_ns == written


def test_a_device_that_is_not_there_is_one_clear_line(small_cache: ModelCache) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ModelError, match="there is no CUDA device here; use --device cpu"):
        load(small_cache, "bert", "cuda")


def test_the_real_models_know_what_they_should(named_cache: ModelCache) -> None:
    rows = run_alone(
        load(named_cache, "minilm"), [b"A cat sat there.", b"A kitten was sitting.", b"Taxes are due."]
    )
    cat, kitten, taxes = (vectors.read(row)[0] for row in rows if isinstance(row, bytes))
    assert cat.shape == (384,)
    assert cat @ kitten > 0.6 > 0.2 > cat @ taxes
    (reply,) = run_alone(load(named_cache, "smollm2"), [chat("What is the capital of France?", max_tokens=24)])
    assert "Paris" in str(answer_of(reply)["text"])
