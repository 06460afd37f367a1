"""Triton's own client asks real models, small ones, and their metadata is what came with them."""

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from node import conversion
from node.models import ModelCache
from node.workloads import run_alone
from node.workloads.device import use_threads
from node.workloads.generate import load
from tests.live import cluster, within
from tests.node.small_models import chat, make_bert, make_efficientnet, make_llama, picture
from tests.test_open_inference import offered, tensor, text

NAMES = ("bert", "efficientnet", "llama")


@contextmanager
def _cache(root: Path) -> Iterator[ModelCache]:
    use_threads(1)
    cache = ModelCache(root / "cache")
    for name in NAMES:
        (root / name).mkdir()
    make_bert(root / "bert")
    make_efficientnet(root / "efficientnet")
    make_llama(root / "llama")
    for name in NAMES:
        conversion.add(cache, str(root / name))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CARPOOL_CACHE", str(root / "cache"))
        yield cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelCache]:
    """One small model of each kind."""
    with _cache(tmp_path_factory.mktemp("models")) as cache:
        yield cache


@pytest.fixture(scope="module")
def target(cache: ModelCache) -> Iterator[str]:
    """The address of a coordinator with a car that has them."""
    with cluster() as live:
        live.add("lot", "--models", ",".join(NAMES), "--dtype", "fp32")
        within(offered(live.coordinator.grpc, *NAMES))
        yield live.coordinator.grpc


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[triton.InferenceServerClient]:
    """A synchronous client."""
    with triton.InferenceServerClient(target) as client:
        yield client


def shapes(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    """What metadata tells of tensors."""
    return {one.name: (one.datatype, list(one.shape)) for one in tensors}


def test_metadata_is_derived_from_each_model(client: triton.InferenceServerClient) -> None:
    embed = client.get_model_metadata("bert")
    assert shapes(embed.inputs) == {"text_input": ("BYTES", [-1])}
    assert shapes(embed.outputs) == {"embedding": ("FP32", [-1, 32])}
    classify = client.get_model_metadata("efficientnet")
    assert shapes(classify.inputs) == {"image": ("FP32", [-1, 3, 224, 224]), "picture": ("BYTES", [-1])}
    assert shapes(classify.outputs) == {
        "logits": ("FP32", [-1, 1000]),
        "label": ("BYTES", [-1, 5]),
        "index": ("INT32", [-1, 5]),
        "probability": ("FP32", [-1, 5]),
    }
    assert client.get_model_config("llama").config.model_transaction_policy.decoupled


def test_texts_become_vectors(client: triton.InferenceServerClient) -> None:
    both = client.infer("bert", [text("a car is parked", "and then leaves")]).as_numpy("embedding")
    assert both.shape == (2, 32)
    alone = client.infer("bert", [text("and then leaves")]).as_numpy("embedding")
    assert np.allclose(both[1], alone[0], atol=1e-5)
    assert not np.allclose(both[0], both[1], atol=1e-2)
    with pytest.raises(triton.InferenceServerException, match="65 rows; the limit is 64") as refused:
        client.infer("bert", [text(*["a"] * 65)])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_what_requests_took_is_told_by_their_size(client: triton.InferenceServerClient) -> None:
    def told() -> dict[int, Any]:
        (model,) = client.get_inference_statistics("bert").model_stats
        assert model.execution_count == sum(batch.compute_infer.count for batch in model.batch_stats)
        assert model.inference_count == sum(
            batch.batch_size * batch.compute_infer.count for batch in model.batch_stats
        )
        return {batch.batch_size: batch for batch in model.batch_stats}

    assert 5 not in told()
    for _ in range(2):
        client.infer("bert", [text(*["a car is parked"] * 5)])
    batch = told()[5]
    for part in (batch.compute_input, batch.compute_infer, batch.compute_output):
        assert part.count == 2
        assert part.ns > 0


def test_images_are_taken_as_pixels_and_as_pictures(client: triton.InferenceServerClient) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    seen = client.infer("efficientnet", [tensor(pixels, "image")])
    logits, index = seen.as_numpy("logits"), seen.as_numpy("index")
    assert logits.shape == (2, 1000)
    assert (index == np.argsort(-logits, axis=1, kind="stable")[:, :5]).all()
    assert seen.as_numpy("label")[1, 0] == f"class {index[1, 0]}".encode()
    likely = np.exp(logits - logits.max(1, keepdims=True))
    likely /= likely.sum(1, keepdims=True)
    assert np.allclose(seen.as_numpy("probability"), np.take_along_axis(likely, index, 1), atol=1e-5)
    halved = client.infer("efficientnet", [tensor(pixels.astype(np.float16), "image")]).as_numpy("logits")
    assert np.allclose(halved, logits, atol=0.05)
    brain = triton.InferInput("image", list(pixels.shape), "BF16")
    brain._raw_content = (pixels.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    assert np.allclose(client.infer("efficientnet", [brain]).as_numpy("logits"), logits, atol=0.5)

    encoded = np.array([picture(300, 200, seed=1), picture(64, 64, "JPEG")], np.object_)
    best = triton.InferRequestedOutput("logits", class_count=3)
    label = triton.InferRequestedOutput("label")
    told = client.infer("efficientnet", [tensor(encoded, "picture")], outputs=[label, best])
    names, classes = told.as_numpy("label"), told.as_numpy("logits")
    assert [output.name for output in told.get_response().outputs] == ["label", "logits"]
    assert classes.shape == (2, 3)
    assert [entry.decode().split(":")[2].encode() for entry in classes[0]] == list(names[0, :3])

    wrong = (
        ([tensor(pixels, "image"), tensor(encoded, "picture")], "2 inputs came; give one: image or picture"),
        ([tensor(pixels[:, :, :100], "image")], r"give it the shape \[any, 3, 224, 224\]"),
        ([tensor(np.where(pixels > 3, np.nan, pixels), "image")], "holds nan at element"),
        ([tensor(np.array([b"no picture"], np.object_), "picture")], "row 0 of input 'picture' failed"),
    )
    for inputs, why in wrong:
        with pytest.raises(triton.InferenceServerException, match=why) as refused:
            client.infer("efficientnet", inputs)
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    many = triton.InferRequestedOutput("logits", class_count=6)
    with pytest.raises(triton.InferenceServerException, match="give 1 to 5, or ask for the logits"):
        client.infer("efficientnet", [tensor(pixels, "image")], outputs=[many])


def test_an_answer_is_the_models_own_whole_and_in_pieces(
    client: triton.InferenceServerClient, target: str, cache: ModelCache
) -> None:
    fields = {"max_tokens": 100, "temperature": 0.7, "seed": 3, "ignore_eos": True}
    (alone,) = run_alone(load(cache.get("llama"), "cpu", "fp32"), [chat("where is it?", **fields)])
    assert isinstance(alone, bytes)
    expected = json.loads(alone)
    whole = client.infer("llama", [text("where is it?")], parameters=fields)
    assert whole.as_numpy("text_output")[0].decode() == expected["text"]
    assert whole.as_numpy("finish_reason")[0].decode() == expected["finish_reason"]
    for name in ("prompt_tokens", "completion_tokens"):
        assert list(whole.as_numpy(name)) == [expected[name]]

    async def scene() -> None:
        async with triton_aio.InferenceServerClient(target) as streaming:
            asked = {"model_name": "llama", "inputs": [text("where is it?")], "parameters": fields}

            async def requests() -> Any:
                yield asked

            pieces = [
                result.as_numpy("text_output")[0].decode() async for result, _ in streaming.stream_infer(requests())
            ]
            assert "".join(pieces) == expected["text"]
            assert len(pieces) > 2

    within(scene())


def test_what_each_response_took_is_told_as_the_car_measured_it(client: triton.InferenceServerClient) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    model = "llama"

    def told() -> tuple[float, list[tuple[int, int]]]:
        (statistics,) = client.get_inference_statistics(model).model_stats
        places = [statistics.response_stats[str(place)] for place in range(len(statistics.response_stats))]
        return statistics.inference_stats.compute_infer.ns, [
            (place.success.count, place.compute_infer.ns) for place in places
        ]

    infer_ns, before = told()
    client.start_stream(lambda result, error: heard.put((result, error)))
    fields = {"max_tokens": 100, "ignore_eos": True}
    client.async_stream_infer(model, [text("where is it?")], parameters=fields)
    responses = 0
    while True:
        result, error = heard.get(timeout=30.0)
        assert error is None
        responses += 1
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    client.stop_stream()
    whole_ns, after = told()
    before += [(0, 0)] * (len(after) - len(before))
    took = [(count - counted, ns - known) for (count, ns), (counted, known) in zip(after, before, strict=True)]
    assert [count for count, _ in took] == [1] * responses + [0] * (len(took) - responses)
    assert all(ns > 0 for _, ns in took[: responses - 1])
    assert 0.9 * (whole_ns - infer_ns) <= sum(ns for _, ns in took) <= whole_ns - infer_ns + len(took)
