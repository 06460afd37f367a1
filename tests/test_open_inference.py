"""Triton's own client speaks to a real coordinator, and finds nothing amiss."""

import asyncio
import json
import queue
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from coordinator.client import Client
from coordinator.errors import CarpoolError
from protos import link_pb2, open_inference_pb2
from tests.faults.durable import metric
from tests.hand_lot import OPTIONS, HandLot
from tests.live import Cluster, cluster, patient_cluster, until, within

PATIENCE_S = 30.0
SLOW, SOMETIMES = 50, 5
SLOW_BYTES, SLOW_REQUESTS = 1 << 20, 160
"""Of what each of them asks: together, with its answers, many times what a stream may hold."""
HELD_BYTES = 64 << 20
"""For each of them, at most: 8 MB of requests or their answers, and some 30 MB that gRPC has received ahead (32 MB,
measured; with room for 64 of these requests 136 MB)."""
ROUNDS = 150
TRIES = 5
"""A machine that is busy with something else keeps everybody waiting: the best of so many counts."""


@pytest.fixture(scope="module")
def live() -> Iterator[Cluster]:
    """A coordinator with a lot that echoes; lots moved by hand may come and go."""
    with patient_cluster(lots=1) as live:
        within(offered(live.coordinator.grpc, "noop"))
        yield live
        assert "Traceback" not in live.coordinator.errors()


@pytest.fixture(scope="module")
def client(live: Cluster) -> Iterator[triton.InferenceServerClient]:
    """A synchronous client."""
    with triton.InferenceServerClient(live.coordinator.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def raw(live: Cluster) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """The client's own stub, for what the client would not send."""
    with grpc.insecure_channel(live.coordinator.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def offered(target: str, *models: str) -> None:
    """Returns when these models take requests."""
    async with triton_aio.InferenceServerClient(target) as client:

        async def ready() -> bool | None:
            return all([await client.is_model_ready(model) for model in models]) or None

        await until(ready, 60.0)


def tensor(array: np.ndarray[Any, Any], name: str = "input", datatype: str = "") -> triton.InferInput:
    """An input with this content."""
    given = triton.InferInput(name, list(array.shape), datatype or triton_type(array))
    given.set_data_from_numpy(array)
    return given


def triton_type(array: np.ndarray[Any, Any]) -> str:
    """The protocol's name of an array's type."""
    kinds = {"b": "BOOL", "O": "BYTES", "f": "FP", "i": "INT", "u": "UINT"}
    kind = kinds[array.dtype.kind]
    return kind if kind in ("BOOL", "BYTES") else f"{kind}{8 * array.dtype.itemsize}"


def text(*lines: str) -> triton.InferInput:
    """The input of models that read text."""
    return tensor(np.array([line.encode() for line in lines], np.object_), "text_input")


# The wire

_NOT_OURS = re.compile("SharedMemory|TraceSetting|LogSettings")


def _messages(found: Mapping[str, Descriptor]) -> Iterator[Descriptor]:
    for message in found.values():
        yield message
        yield from _messages(message.nested_types_by_name)


def _bare(name: str) -> str:
    return name.removeprefix("carpool.open_inference.v2.").removeprefix("inference.")


def test_messages_have_the_public_names_numbers_and_types() -> None:
    public = {
        **{
            _bare(message.full_name): message for message in _messages(service_pb2.DESCRIPTOR.message_types_by_name)
        },
        **{
            _bare(message.full_name): message
            for message in _messages(model_config_pb2.DESCRIPTOR.message_types_by_name)
        },
    }
    ours = open_inference_pb2.DESCRIPTOR
    checked = 0
    for message in _messages(ours.message_types_by_name):
        theirs = public[_bare(message.full_name)].fields_by_name
        for field in message.fields:
            other = theirs[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
            assert (field.containing_oneof is None) == (other.containing_oneof is None), field.full_name
            for kind, same in (
                (field.message_type, other.message_type),
                (field.enum_type, other.enum_type),
            ):
                assert kind is same is None or _bare(kind.full_name) == _bare(same.full_name), field.full_name
            checked += 1
    assert checked > 100
    values = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    assert {name: value.number for name, value in ours.enum_types_by_name["DataType"].values_by_name.items()} == {
        name: value.number for name, value in values.items()
    }
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        other = service.methods_by_name[method.name]
        assert _bare(method.input_type.full_name) == _bare(other.input_type.full_name)
        assert _bare(method.output_type.full_name) == _bare(other.output_type.full_name)
        assert (method.client_streaming, method.server_streaming) == (
            other.client_streaming,
            other.server_streaming,
        )


def test_extensions_that_are_not_offered_say_so_in_a_sentence(
    raw: service_pb2_grpc.GRPCInferenceServiceStub,
) -> None:
    ours = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    others = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    missing = [method for method in others if method.name not in ours]
    assert len(missing) == 8
    for method in missing:
        assert _NOT_OURS.search(method.name)
        with pytest.raises(grpc.RpcError) as refused:
            getattr(raw, method.name)(getattr(service_pb2, method.input_type.name)())
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert f"{method.name} is not offered here; " in str(refused.value.details())


def test_reflection_tells_the_public_service_beside_ours(live: Cluster) -> None:
    def curl(*words: str) -> str:
        command = ("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *words)
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    server = f"http://{live.coordinator.grpc}"
    listed = curl("--list-methods", server).split()
    assert "inference.GRPCInferenceService/ModelInfer" in listed
    assert "carpool.v1.JobService/Run" in listed
    assert "grpc.health.v1.Health/Check" in listed
    assert not [method for method in listed if "open_inference" in method]
    asked = {
        "model_name": "noop",
        "inputs": [{"name": "input", "datatype": "INT32", "shape": [2], "contents": {"int_contents": [7, -1]}}],
    }
    answered = json.loads(curl("-d", json.dumps(asked), f"{server}/inference.GRPCInferenceService/ModelInfer"))
    assert answered["modelName"] == "noop"
    assert answered["rawOutputContents"] == ["BwAAAP////8="]


# Server and models


def test_server_and_models_tell_what_they_are(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("noop")
    assert client.is_model_ready("noop", "1")
    assert not client.is_model_ready("noop", "2")
    assert not client.is_model_ready("unheard of")
    assert client.get_server_metadata().name == "carpool"
    metadata, config = client.get_model_metadata("noop"), client.get_model_config("noop").config
    assert (metadata.name, list(metadata.versions)) == ("noop", ["1"])
    for tensors, configured in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [(one.name, list(one.shape)) for one in tensors] == [
            (one.name, list(one.dims)) for one in configured
        ]
    assert not config.model_transaction_policy.decoupled
    for ask in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        for model, version in (("unheard of", ""), ("noop", "2")):
            with pytest.raises(triton.InferenceServerException) as refused:
                ask(model, version)
            assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_what_requests_took_is_told(client: triton.InferenceServerClient) -> None:
    before = client.get_inference_statistics("noop").model_stats[0]
    for _ in range(3):
        client.infer("noop", [tensor(np.zeros(4, np.float32))])
    (after,) = client.get_inference_statistics("noop").model_stats
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 3
    assert after.last_inference > before.last_inference
    told, parts = after.inference_stats, ("queue", "compute_input", "compute_infer", "compute_output")
    for name in ("success", *parts):
        was = getattr(before.inference_stats, name)
        assert getattr(told, name).count - was.count == 3, name
        assert getattr(told, name).ns > was.ns, name
    # The front's own reading and writing come on top of the request's time.
    assert sum(getattr(told, name).ns for name in parts) >= told.success.ns * 0.99
    (batch,) = after.batch_stats
    assert batch.batch_size == 1
    for name in parts[1:]:
        assert getattr(batch, name) == getattr(told, name)


# Tensors

ARRAYS = {
    "bool": np.array([[True, False]]),
    **{
        kind: np.array([[0, 1], [2, 100]], kind)
        for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
    },
    "nan": np.array([np.nan, np.inf, -0.0], np.float32),
    "bytes": np.array([[b"", b"\xff\x00"], ["schön".encode(), b"x" * 300]], np.object_),
    "scalar": np.array(5, np.int64),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_echo_gives_back_every_datatype_and_shape(client: triton.InferenceServerClient, name: str) -> None:
    array = ARRAYS[name]
    answered = client.infer("noop", [tensor(array)], request_id=name)
    output = answered.as_numpy("output")
    assert output.dtype == array.dtype
    assert output.shape == array.shape
    assert output.tobytes() == array.tobytes() if array.dtype != np.object_ else (output == array).all()
    assert answered.get_response().id == name


def test_bf16_comes_back_too(raw: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    answered = raw.ModelInfer(infer_request(datatype="BF16", raw_input_contents=[b"\x80\x3f\x20\xc0"]))
    assert (answered.outputs[0].datatype, list(answered.raw_output_contents)) == ("BF16", [b"\x80\x3f\x20\xc0"])


TYPED = {
    "BOOL": ("bool_contents", [True, False], "?"),
    "INT8": ("int_contents", [-128, 127], "i1"),
    "INT16": ("int_contents", [-32_768, 1], "<i2"),
    "INT32": ("int_contents", [-(1 << 31), 1], "<i4"),
    "INT64": ("int64_contents", [-(1 << 63), 1], "<i8"),
    "UINT8": ("uint_contents", [255, 1], "u1"),
    "UINT16": ("uint_contents", [65_535, 1], "<u2"),
    "UINT32": ("uint_contents", [(1 << 32) - 1, 1], "<u4"),
    "UINT64": ("uint64_contents", [(1 << 64) - 1, 1], "<u8"),
    "FP32": ("fp32_contents", [1.5, -0.0], "<f4"),
    "FP64": ("fp64_contents", [1e300, -0.0], "<f8"),
}


def infer_request(
    shape: tuple[int, ...] = (2,), datatype: str = "INT32", model: str = "noop", **fields: Any
) -> service_pb2.ModelInferRequest:
    """A request with one input, and whatever else a test breaks about it."""
    given = service_pb2.ModelInferRequest.InferInputTensor(name="input", datatype=datatype, shape=shape)
    for name in ("name", "contents"):
        if name in fields:
            value = fields.pop(name)
            if name == "name":
                given.name = value
            else:
                given.contents.CopyFrom(service_pb2.InferTensorContents(**value))
    request = service_pb2.ModelInferRequest(model_name=model, inputs=[given])
    for name, value in fields.pop("parameters", {}).items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    for name, value in fields.items():
        getattr(request, name).MergeFrom(value)
    return request


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_read(raw: service_pb2_grpc.GRPCInferenceServiceStub, datatype: str) -> None:
    field, values, kind = TYPED[datatype]
    answered = raw.ModelInfer(infer_request(datatype=datatype, contents={field: values}))
    assert list(answered.raw_output_contents) == [np.array(values, kind).tobytes()]
    assert (answered.outputs[0].datatype, list(answered.outputs[0].shape)) == (datatype, [2])


def test_typed_bytes_are_read(raw: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    answered = raw.ModelInfer(infer_request(datatype="BYTES", contents={"bytes_contents": [b"", b"ab"]}))
    assert list(answered.raw_output_contents) == [b"\0\0\0\0\2\0\0\0ab"]


Requested = service_pb2.ModelInferRequest.InferRequestedOutputTensor
EIGHT = [bytes(8)]
OTHER = service_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="INT32", shape=[2])
BAD: dict[str, tuple[service_pb2.ModelInferRequest, str]] = {
    "no contents": (infer_request(), "came without contents; send"),
    "both contents": (
        infer_request(contents={"int_contents": [1, 2]}, raw_input_contents=EIGHT),
        "has contents beside raw_input_contents; send one",
    ),
    "too many raw": (infer_request(raw_input_contents=EIGHT * 2), "2 raw_input_contents came for 1 inputs"),
    "too short": (infer_request((3,), raw_input_contents=EIGHT), "has 8 bytes; INT32 of shape [3] has 12"),
    "too long": (infer_request((1,), raw_input_contents=EIGHT), "has 8 bytes; INT32 of shape [1] has 4"),
    "negative": (
        infer_request((-2,), raw_input_contents=EIGHT),
        "of shape [-2]; each dimension must be at least 1",
    ),
    "two negatives": (infer_request((-1, -2), raw_input_contents=EIGHT), "each dimension must be at least 1"),
    "empty": (infer_request((0,), raw_input_contents=[b""]), "each dimension must be at least 1"),
    "overflow": (
        infer_request((1 << 62, 4, 2), raw_input_contents=EIGHT),
        "of shape [4611686018427387904, 4, 2] has",
    ),
    "dimensions": (infer_request((1,) * 99, raw_input_contents=EIGHT), "has 99 dimensions; the limit is 16"),
    "datatype": (infer_request(datatype="FP128", raw_input_contents=EIGHT), "'FP128'; known are BOOL,"),
    "typed FP16": (
        infer_request(datatype="FP16", contents={"fp32_contents": [1, 2]}),
        "no typed contents; send it raw",
    ),
    "wrong field": (infer_request(contents={"fp32_contents": [1, 2]}), "its contents belong into int_contents"),
    "typed count": (
        infer_request(contents={"int_contents": [1]}),
        "has 1 elements in int_contents; shape [2] has 2",
    ),
    "typed range": (
        infer_request(datatype="INT8", contents={"int_contents": [1, 128]}),
        "holds 128; INT8 goes from -128 to 127",
    ),
    "twice": (infer_request(inputs=[OTHER], raw_input_contents=EIGHT * 2), "'input' came twice; send it once"),
    "name": (infer_request(name="x", raw_input_contents=EIGHT), "no input 'x'; it takes input"),
    "no inputs": (service_pb2.ModelInferRequest(model_name="noop"), "0 inputs came; give one: input"),
    "strings over": (
        infer_request(datatype="BYTES", raw_input_contents=[b"\1\0\0\0a\xff\xff\xff\xff"]),
        "says to have 4294967295 bytes, of which 0 came",
    ),
    "strings missing": (infer_request(datatype="BYTES", raw_input_contents=[b"\1\0\0\0a"]), "before element 1"),
    "strings behind": (infer_request((1,), "BYTES", raw_input_contents=[b"\1\0\0\0ab"]), "1 bytes behind its 1"),
    "strings many": (infer_request((1 << 40,), "BYTES", raw_input_contents=[b""]), "the limit is 65536: split it"),
    "output": (
        infer_request(raw_input_contents=EIGHT, outputs=[Requested(name="y")]),
        "no output 'y'; it gives output",
    ),
    "output twice": (
        infer_request(raw_input_contents=EIGHT, outputs=[Requested(name="output")] * 2),
        "'output' is asked for twice",
    ),
    "parameter": (
        infer_request(raw_input_contents=EIGHT, parameters={"max_tokens": 3}),
        "'max_tokens' is not known here; known are priority, timeout",
    ),
    "sequence": (infer_request(raw_input_contents=EIGHT, parameters={"sequence_id": 3}), "keep no state"),
    "priority": (
        infer_request(raw_input_contents=EIGHT, parameters={"priority": -1}),
        "priority is -1; give a whole",
    ),
    "timeout": (infer_request(raw_input_contents=EIGHT, parameters={"timeout": "soon"}), "timeout is 'soon'; give"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_is_not_sound_is_refused_in_a_sentence(
    raw: service_pb2_grpc.GRPCInferenceServiceStub, wrong: str
) -> None:
    request, why = BAD[wrong]
    with pytest.raises(grpc.RpcError) as refused:
        raw.ModelInfer(request, timeout=PATIENCE_S)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    told = str(refused.value.details())
    assert why in told
    assert "\n" not in told


def test_shared_memory_is_refused_where_a_request_names_it(client: triton.InferenceServerClient) -> None:
    shared = triton.InferInput("input", [2], "INT32")
    shared.set_shared_memory("region", 8)
    with pytest.raises(triton.InferenceServerException, match="nor shared memory: send the contents"):
        client.infer("noop", [shared])
    output = triton.InferRequestedOutput("output")
    output.set_shared_memory("region", 8)
    with pytest.raises(triton.InferenceServerException, match="and no shared memory"):
        client.infer("noop", [tensor(np.zeros(2, np.int32))], outputs=[output])


def test_unknown_models_and_versions_are_not_found(client: triton.InferenceServerClient) -> None:
    for model, version in (("unheard of", ""), ("noop", "2")):
        with pytest.raises(triton.InferenceServerException) as refused:
            client.infer(model, [tensor(np.zeros(2, np.int32))], model_version=version)
        assert refused.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("letter", ["x", "%", "\N{AUTOMOBILE}"])
def test_a_refusal_is_heard_however_long_what_it_names(
    raw: service_pb2_grpc.GRPCInferenceServiceStub, letter: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        raw.ModelMetadata(service_pb2.ModelMetadataRequest(name=letter * 100_000), timeout=PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    details = refused.value.details() or ""
    assert details.startswith(f"no vehicle here offers model '{letter}")
    assert re.search(r" \.\.\. .*; offered: ", details)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_64_mb_come_and_go(client: triton.InferenceServerClient, compression: str | None) -> None:
    size = 16 << 20 if compression is None else 1 << 20  # compressing takes the client a while
    array = np.arange(size, dtype=np.float32)
    answered = client.infer("noop", [tensor(array)], compression_algorithm=compression)
    assert (answered.as_numpy("output") == array).all()


def test_more_than_64_mb_are_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException, match="noop takes at most 67108864: split it"):
        client.infer("noop", [tensor(np.zeros((64 << 20) + 1, np.uint8))])


# Many at once


def test_many_requests_at_once_keep_apart(live: Cluster) -> None:
    async def scene() -> None:
        async with triton_aio.InferenceServerClient(live.coordinator.grpc) as client:

            async def ask(number: int) -> None:
                array = np.full(number % 7 + 1, number, np.int32)
                answered = await client.infer("noop", [tensor(array)], request_id=str(number))
                assert answered.get_response().id == str(number)
                assert (answered.as_numpy("output") == array).all()

            await asyncio.gather(*(ask(number) for number in range(200)))

    within(scene())


def test_a_stream_answers_each_request_and_outlives_a_wrong_one(live: Cluster) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(live.coordinator.grpc) as client:
        client.start_stream(callback=lambda result, error: heard.put((result, error)))
        for number in range(300):  # more than are in flight
            model = "unheard of" if number == 5 else "noop"
            client.async_stream_infer(model, [tensor(np.full(2, number, np.int32))], request_id=str(number))
        answers, wrong = {}, []
        for _ in range(300):
            result, error = heard.get(timeout=PATIENCE_S)
            if error is not None:
                wrong.append(error.message())
                continue
            response = result.get_response()
            assert response.parameters["triton_final_response"].bool_param
            answers[response.id] = result.as_numpy("output")
        client.stop_stream()
    assert {int(number): list(array) for number, array in answers.items()} == {
        number: [number] * 2 for number in range(300) if number != 5
    }
    assert [message for message in wrong if "no vehicle here offers model 'unheard of'" in message] == wrong
    assert len(wrong) == 1


def test_an_error_in_a_stream_tells_whose_it_is(raw: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    asked = infer_request((3,), raw_input_contents=EIGHT)
    asked.id = "mine"
    (answered,) = raw.ModelStreamInfer(iter([asked]), timeout=PATIENCE_S)
    assert "has 8 bytes" in answered.error_message
    assert (answered.infer_response.id, answered.infer_response.model_name) == ("mine", "noop")


SERVICE = "/inference.GRPCInferenceService"


def test_what_is_no_message_is_refused_and_a_stream_goes_on(live: Cluster) -> None:
    sound = infer_request((8,), "UINT8", raw_input_contents=EIGHT).SerializeToString()
    with grpc.insecure_channel(live.coordinator.grpc) as channel:
        for name in ("ModelInfer", "ModelMetadata"):
            with pytest.raises(grpc.RpcError, match=f"12 bytes that came are no {name}Request") as refused:
                channel.unary_unary(f"{SERVICE}/{name}", bytes, bytes)(b"\xff" * 12, timeout=PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        read = service_pb2.ModelStreamInferResponse.FromString
        call = channel.stream_stream(f"{SERVICE}/ModelStreamInfer", bytes, read)
        told = list(call(iter([sound, b"\xff" * 12, sound]), timeout=PATIENCE_S))
    assert sorted(bool(each.error_message) for each in told) == [False, False, True]


@pytest.mark.timeout(300)
def test_who_does_not_read_a_stream_holds_up_nobody_and_takes_no_more_memory(live: Cluster) -> None:
    """Some of them read a message now and then, most none at all."""
    target, pid = live.coordinator.grpc, live.coordinator.process.pid
    request = infer_request((SLOW_BYTES,), "UINT8", raw_input_contents=[bytes(SLOW_BYTES)])
    idle = 0

    async def requests() -> AsyncIterator[service_pb2.ModelInferRequest]:
        nonlocal idle
        for _ in range(SLOW_REQUESTS):
            idle = 0
            yield request

    async def ask(client: triton_aio.InferenceServerClient) -> None:
        await client.infer("noop", [tensor(np.zeros(4, np.uint8))])

    async def p99_s(client: triton_aio.InferenceServerClient, slow: Sequence[Any] = ()) -> float:
        took_s = []
        for turn in range(ROUNDS):
            began_s = perf_counter()
            await ask(client)
            took_s.append(perf_counter() - began_s)
            if slow and turn % (ROUNDS // len(slow)) == 0:
                await slow[turn * len(slow) // ROUNDS].read()
        return sorted(took_s)[ROUNDS * 99 // 100]

    async def stalled(client: triton_aio.InferenceServerClient) -> bool | None:
        """Those that send find no room any more, though the coordinator has served another time and again."""
        nonlocal idle
        idle += 1
        await ask(client)
        return idle > 50 or None

    async def scene() -> None:
        async with triton_aio.InferenceServerClient(target) as client, AsyncExitStack() as channels:
            most_s, before = 2 * await p99_s(client) + 0.02, resident_bytes(pid)
            streams = []
            for _ in range(SLOW):
                channel = await channels.enter_async_context(grpc.aio.insecure_channel(target, options=OPTIONS))
                streams.append(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests()))
            await until(partial(stalled, client), 200.0)
            during_s = [await p99_s(client, streams[:SOMETIMES])]
            while during_s[-1] >= most_s and len(during_s) < TRIES:
                during_s.append(await p99_s(client, streams[:SOMETIMES]))
            held = resident_bytes(pid) - before
            assert during_s[-1] < most_s, (
                f"{[round(1e3 * each) for each in during_s]} ms, at most {1e3 * most_s:.0f}"
            )
            assert held < SLOW * HELD_BYTES, f"{held / SLOW / 1e6:.0f} MB each"
            for stream in streams:
                stream.cancel()

    within(scene(), 280.0)


def resident_bytes(pid: int) -> int:
    """The memory that a process has."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) << 10


def test_callers_who_go_while_they_are_told_leave_no_errors_in_the_log() -> None:
    array = np.zeros(30_000, np.uint8)
    request = infer_request(array.shape, "UINT8", raw_input_contents=[array.tobytes()])

    async def requests() -> AsyncIterator[service_pb2.ModelInferRequest]:
        for _ in range(100):
            yield request

    async def scene(target: str) -> None:
        await offered(target, "noop")
        for turn in range(40):  # of ten, one meets the coordinator within a write
            async with grpc.aio.insecure_channel(target) as channel:
                stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
                for _ in range(1 + turn % 5):
                    await stream.read()

    with patient_cluster(lots=1) as live:
        within(scene(live.coordinator.grpc))
        assert "Traceback" not in live.coordinator.errors()


# A model of which a test says what its car does

SPOKEN = "spoken"


def by_hand(live: Cluster, scene: Callable[[triton_aio.InferenceServerClient, HandLot], Any]) -> None:
    """Play a scene with a car that speaks as it is told."""

    async def play() -> None:
        target = live.coordinator.grpc
        async with HandLot(target, "hand", model=SPOKEN, kind="generate") as lot:
            await offered(target, SPOKEN)
            async with triton_aio.InferenceServerClient(target) as client:
                await scene(client, lot)

    within(play(), 20.0)


def answer(said: str) -> bytes:
    """How an answer ends."""
    ended = {"text": said, "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": 2}
    return json.dumps(ended).encode()


async def requests_of(*asked: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """What a stream is to ask."""
    for one in asked:
        yield one


def seconds(told: service_pb2.StatisticDuration) -> tuple[int, float]:
    """How often, and how long in all."""
    return told.count, told.ns / 1e9


def test_what_all_cars_computed_for_an_answer_is_told(live: Cluster) -> None:
    model, target = "handed over", live.coordinator.grpc
    asked = infer_request(
        *((1,), "BYTES", model),
        name="text_input",
        raw_input_contents=[b"\6\0\0\0where?"],
        parameters={"triton_enable_empty_final_response": True},
    )

    def car(name: str) -> HandLot:
        return HandLot(target, name, model=model, kind="generate")

    async def scene(client: triton_aio.InferenceServerClient, stub: Any) -> None:
        async with car("leaves") as lot:
            await offered(target, model)
            stream = stub.ModelStreamInfer(iter([asked]))
            hearing = asyncio.create_task(stream.read())
            grant = await lot.granted()
            await lot.say(grant.token, 0, [0], 0, "At ", busy_s=0.25)
            await hearing
            await lot.report(
                grant.token, {}, ended=True, cause=link_pb2.END_CAUSE_UNPLUGGED, lost_s=0.5, departs=True
            )
        async with car("is lost") as lot:
            grant = await lot.granted()
            await lot.say(grant.token, 1, [1], 3, "home", busy_s=0.125)
            await stream.read()
        async with car("stays") as lot:
            grant = await lot.granted()
            await lot.say(grant.token, 2, [2], 7, ".", busy_s=float("nan"))
            await stream.read()
            await lot.say(grant.token, 3, [3], 8, "!", busy_s=1.0)
            await stream.read()
            await lot.report(grant.token, {0: answer("At home.!")}, ended=True, useful_s=2.0, lost_s=1e300)
            assert [(await stream.read()).error_message for _ in range(2)] == ["", ""]
            failing = stub.ModelStreamInfer(iter([asked]))
            hearing = asyncio.create_task(failing.read())
            grant = await lot.granted()
            await lot.say(grant.token, 0, [0], 0, "At ", busy_s=0.5)
            await hearing
            await lot.report(grant.token, {0: b"no answer"}, ended=True)
            assert "cannot be read" in (await failing.read()).error_message
        (told,) = (await client.get_inference_statistics(model)).model_stats
        assert (told.inference_stats.success.count, told.inference_stats.fail.count) == (1, 1)
        assert seconds(told.inference_stats.compute_infer) == (1, 0.5 + 0.125 + 2.0)
        (batch,) = told.batch_stats
        assert (batch.batch_size, seconds(batch.compute_infer)) == (1, seconds(told.inference_stats.compute_infer))
        places = [told.response_stats[str(place)] for place in range(len(told.response_stats))]
        computed = [(2, 0.75), (1, 0.125), (0, 0.0), (1, 1.0), (0, 0.0), (0, 0.0)]
        assert [seconds(place.compute_infer) for place in places] == computed
        assert [place.success.count for place in places] == [2, 1, 1, 1, 1, 0]
        for place in places:
            assert place.compute_output.count == place.success.count
            assert place.success.ns == pytest.approx(place.compute_infer.ns + place.compute_output.ns, abs=2)
        assert [place.fail.count for place in places] == [0, 1, 0, 0, 0, 0]
        assert [place.empty_response.count for place in places] == [0, 0, 0, 0, 0, 1]

    async def play() -> None:
        async with triton_aio.InferenceServerClient(target) as client, grpc.aio.insecure_channel(target) as channel:
            await scene(client, service_pb2_grpc.GRPCInferenceServiceStub(channel))

    within(play(), 20.0)


@pytest.mark.parametrize("empty", [False, True])
def test_an_answer_is_told_in_pieces(live: Cluster, empty: bool) -> None:
    asked = {"max_tokens": 5, "temperature": 0.5, "stop": "end", "ignore_eos": True}
    heard: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()

    async def scene(_: triton_aio.InferenceServerClient, lot: HandLot) -> None:
        loop = asyncio.get_running_loop()
        with triton.InferenceServerClient(live.coordinator.grpc) as client:
            client.start_stream(lambda result, error: loop.call_soon_threadsafe(heard.put_nowait, (result, error)))
            client.async_stream_infer(
                SPOKEN,
                [text("where is it?")],
                request_id="one",
                enable_empty_final_response=empty,
                parameters=asked,
            )
            await hear(lot)
            client.stop_stream()

    async def hear(lot: HandLot) -> None:
        grant = await lot.granted()
        message = {"role": "user", "content": "where is it?"}
        assert json.loads(grant.inputs[0]) == {"messages": [message], **asked}
        responses = []
        for place, word in enumerate(("At ", "home")):
            await lot.say(grant.token, place, [place], 3 * place, word)
            result, error = await heard.get()
            assert error is None
            responses.append(result)
            assert list(result.as_numpy("text_output")) == [word.encode()], "it comes as it is said"
        await lot.report(grant.token, {0: answer("At home")}, ended=True)
        for _ in range(1 + empty):
            result, error = await heard.get()
            assert error is None
            responses.append(result)
        marks = [result.get_response().parameters["triton_final_response"].bool_param for result in responses]
        assert marks == [False] * (len(marks) - 1) + [True]
        assert {result.get_response().id for result in responses} == {"one"}
        last = responses[2]
        assert list(last.as_numpy("finish_reason")) == [b"stop"]
        assert (last.as_numpy("prompt_tokens"), last.as_numpy("completion_tokens")) == ([7], [2])
        if empty:
            assert not responses[3].get_response().outputs

    by_hand(live, scene)


def test_an_answer_may_be_had_whole_and_in_part(live: Cluster) -> None:
    async def scene(client: triton_aio.InferenceServerClient, lot: HandLot) -> None:
        outputs = [triton.InferRequestedOutput(name) for name in ("completion_tokens", "text_output")]
        asking = asyncio.create_task(client.infer(SPOKEN, [text("where?")], outputs=outputs, request_id="x"))
        grant = await lot.granted()
        await lot.say(grant.token, 0, [1], 0, "At ")
        await lot.report(grant.token, {0: answer("At home")}, ended=True)
        answered = await asking
        assert [output.name for output in answered.get_response().outputs] == ["completion_tokens", "text_output"]
        assert list(answered.as_numpy("text_output")) == [b"At home"]
        config = (await client.get_model_config(SPOKEN)).config
        assert config.model_transaction_policy.decoupled

    by_hand(live, scene)


TEXTS: dict[str, tuple[triton.InferInput, dict[str, Any], str]] = {
    "two": (text("a", "b"), {}, "of shape [2]; give it the shape [1]"),
    "rank": (tensor(np.array([[b"a"]], np.object_), "text_input"), {}, "of shape [1, 1]; give it the shape [1]"),
    "datatype": (tensor(np.zeros(1, np.uint8), "text_input"), {}, "is UINT8; give it as BYTES"),
    "UTF-8": (tensor(np.array([b"a\xff"], np.object_), "text_input"), {}, "is not UTF-8 at byte 1"),
    "parameter": (text("a"), {"beams": 3}, "'beams' is not known here; known are priority, timeout, max_tokens,"),
    "whole": (text("a"), {"max_tokens": 1.5}, "max_tokens is 1.5; give a whole number"),
    "truth": (text("a"), {"max_tokens": True}, "max_tokens is True; give a whole number"),
    "finite": (text("a"), {"temperature": float("nan")}, "temperature is nan; give a number"),
    "word": (text("a"), {"stop": 3}, "stop is 3; give a text"),
}


def test_wrong_questions_are_refused(live: Cluster) -> None:
    async def scene(client: triton_aio.InferenceServerClient, _: HandLot) -> None:
        for given, parameters, why in TEXTS.values():
            with pytest.raises(triton.InferenceServerException) as refused:
                await client.infer(SPOKEN, [given], parameters=parameters)
            assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert why in refused.value.message()

    by_hand(live, scene)


def test_the_earlier_of_two_deadlines_holds(live: Cluster) -> None:
    async def scene(client: triton_aio.InferenceServerClient, lot: HandLot) -> None:
        for limits in (
            {"timeout": 200_000, "client_timeout": 60.0},
            {"timeout": 60_000_000, "client_timeout": 0.3},
        ):
            asking = asyncio.create_task(client.infer(SPOKEN, [text("where?")], **limits))
            lease = (await lot.granted()).token
            with pytest.raises(triton.InferenceServerException) as refused:
                await asking
            assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            await lot.revoked(lease)

    by_hand(live, scene)


def test_the_more_urgent_of_waiting_requests_goes_first(live: Cluster) -> None:
    async def scene(client: triton_aio.InferenceServerClient, lot: HandLot) -> None:
        async with Client(live.coordinator.grpc) as operator:
            await operator.cordon(["hand"])
            asking: list[asyncio.Task[Any]] = []
            for name, priority in (("late", 100), ("usual", 0), ("urgent", 1)):  # the other way round
                asking.append(asyncio.create_task(client.infer(SPOKEN, [text(name)], priority=priority)))

                async def all_wait() -> bool | None:
                    return await _waiting(live) >= len(asking) or None

                await until(all_wait)
            await operator.cordon(["hand"], False)
            order = []
            for _ in asking:
                grant = await lot.granted()
                order.append(json.loads(grant.inputs[0])["messages"][0]["content"])
                await lot.report(grant.token, {0: answer("")}, ended=True)
            await asyncio.gather(*asking)
            assert order == ["urgent", "usual", "late"]

    by_hand(live, scene)


async def _waiting(live: Cluster) -> float:
    return await metric(live, "carpool_rpcs_in_flight", method="GRPCInferenceService/ModelInfer")


def test_who_cancels_a_call_frees_the_car(live: Cluster) -> None:
    async def scene(client: triton_aio.InferenceServerClient, lot: HandLot) -> None:
        heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
        with triton.InferenceServerClient(live.coordinator.grpc) as threaded:
            call = threaded.async_infer(SPOKEN, [text("where?")], lambda result, error: heard.put((result, error)))
            lease = (await lot.granted()).token
            call.cancel()
            assert await lot.revoked(lease) == link_pb2.REVOCATION_CAUSE_CANCELLED

    by_hand(live, scene)


@pytest.mark.parametrize("begun", [False, True])
def test_who_cancels_a_stream_frees_its_cars(live: Cluster, begun: bool) -> None:
    async def scene(client: triton_aio.InferenceServerClient, lot: HandLot) -> None:
        asked = ({"model_name": SPOKEN, "inputs": [text(word)], "request_id": word} for word in ("one", "two"))
        stream = client.stream_infer(requests_of(*asked))
        leases = [(await lot.granted()).token for _ in range(2)]
        if begun:
            await lot.say(leases[0], 0, [1], 0, "At ")
            await anext(stream)
        stream.cancel()
        for lease in leases:
            assert await lot.revoked(lease) == link_pb2.REVOCATION_CAUSE_CANCELLED

    by_hand(live, scene)


# The repository


def test_an_unloaded_model_takes_nothing_from_any_front_until_it_is_loaded(
    live: Cluster, client: triton.InferenceServerClient
) -> None:
    async def refused_by_run() -> None:
        async with Client(live.coordinator.grpc) as ours:
            with pytest.raises(CarpoolError, match="'noop' is unloaded"):
                await ours.run("noop", [b"x"])

    asked = [tensor(np.zeros(2, np.int32))]
    client.unload_model("noop")
    try:
        assert not client.is_model_ready("noop")
        (row,) = [row for row in client.get_model_repository_index().models if row.name == "noop"]
        assert (row.state, row.reason.partition(";")[0]) == ("UNAVAILABLE", "unloaded")
        with pytest.raises(triton.InferenceServerException) as refused:
            client.infer("noop", asked)
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        within(refused_by_run())
    finally:
        client.load_model("noop")
    assert client.is_model_ready("noop")
    client.infer("noop", asked)
    for act in (client.load_model, client.unload_model):
        with pytest.raises(triton.InferenceServerException, match="carpool models add") as refused:
            act("unheard of")
        assert refused.value.status() == "StatusCode.NOT_FOUND"
    for given in ({"config": "{}"}, {"files": {"file:1/model.pt": b""}, "config": "{}"}):
        with pytest.raises(triton.InferenceServerException, match="is not offered here") as refused:
            client.load_model("noop", **given)
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_model_whose_cars_are_gone_is_not_ready(live: Cluster, client: triton.InferenceServerClient) -> None:
    async def scene() -> None:
        async with HandLot(live.coordinator.grpc, "brief", model="brief"):
            await offered(live.coordinator.grpc, "brief")
        # Its stream broke off, which is a loss; a model that was offered is known still.

        async def gone() -> bool | None:
            return not client.is_model_ready("brief") or None

        await until(gone)
        (row,) = [row for row in client.get_model_repository_index().models if row.name == "brief"]
        assert (row.state, row.reason) == ("UNAVAILABLE", "no vehicle here offers it now")

    within(scene())


def test_keys_say_who_may_do_what(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[tenants]\nann = "tenant-key-0123456789"\n[operators]\nbob = "operator-key-0123456"\n')
    tenant, operator = (
        {"authorization": f"Bearer {key}"} for key in ("tenant-key-0123456789", "operator-key-0123456")
    )
    with cluster("--api-keys", str(keys)) as live, triton.InferenceServerClient(live.coordinator.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata(headers=tenant).name == "carpool"
        for headers, status in (({}, "UNAUTHENTICATED"), (operator, "PERMISSION_DENIED")):
            with pytest.raises(triton.InferenceServerException) as refused:
                client.infer("noop", [tensor(np.zeros(2, np.int32))], headers=headers)
            assert refused.value.status() == f"StatusCode.{status}"
        for headers, status in (({}, "UNAUTHENTICATED"), (tenant, "PERMISSION_DENIED"), (operator, "NOT_FOUND")):
            with pytest.raises(triton.InferenceServerException) as refused:
                client.unload_model("noop", headers=headers)
            assert refused.value.status() == f"StatusCode.{status}"
