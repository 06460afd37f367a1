"""Requests of the Open Inference Protocol are read, and answers written, just as protobuf would."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.services.open_inference.envelope import InferAnswer, read, write, write_streamed
from protos import open_inference_pb2 as pb2

LARGE = 1 << 16
CONTENTS = st.lists(st.sampled_from([b"", b"\x3a\x01x", b"y" * 200, b"z" * LARGE]), max_size=4)


def request_of(contents: list[bytes], padding: int) -> pb2.ModelInferRequest:
    """A request that is large by its name, or by its contents."""
    request = pb2.ModelInferRequest(model_name="n" * padding, id="\u00e9", raw_input_contents=contents)
    request.parameters["timeout"].int64_param = -1
    request.parameters["worth"].double_param = 0.5
    request.inputs.add(name="input", datatype="FP32", shape=[-1, 1 << 40]).contents.fp32_contents.extend([1.0, 2.0])
    return request


@settings(max_examples=50, deadline=None)
@given(
    CONTENTS, st.sampled_from([1, LARGE]), st.sampled_from([b"", b"\x58\x96\x01", b"\x61" + bytes(8), b"\x65abcd"])
)
def test_a_request_is_read_as_protobuf_reads_it(contents: list[bytes], padding: int, unknown: bytes) -> None:
    data = request_of(contents, padding).SerializeToString()
    asked = read(unknown + data + unknown)
    assert list(asked.raw) == contents
    del asked.message.raw_input_contents[:]
    asked.message.DiscardUnknownFields()  # type: ignore[attr-defined]
    assert asked.message == request_of([], padding)


@pytest.mark.parametrize("end", [1, 100, LARGE // 2, LARGE + 1])
def test_a_request_that_breaks_off_is_none(end: int) -> None:
    data = request_of([b"x" * LARGE, b"y" * LARGE], 1).SerializeToString()
    with pytest.raises(DecodeError):
        read(data[:-end])


@pytest.mark.parametrize("broken", [b"\x3b", b"\x07", b"\xff" * 11, b"\x3a\xff\xff\xff\xff\x7f", b"\x80"])
def test_what_is_no_message_is_none(broken: bytes) -> None:
    with pytest.raises(DecodeError):
        read(request_of([b"x" * LARGE], 1).SerializeToString() + broken)


def spelled(value: int, size: int) -> bytes:
    """A number of the wire in so many bytes at least, as not every writer spells it."""
    groups = max(size, -(-value.bit_length() // 7), 1)
    parts = [value >> 7 * place & 0x7F | (0x80 if place < groups - 1 else 0) for place in range(groups)]
    return bytes(parts)


FIELDS = st.builds(
    lambda number, kind, tag, size, body: (
        spelled(number << 3 | kind, tag)
        + {0: spelled(len(body), size), 1: body[:8], 2: spelled(len(body), size) + body, 5: body[:4]}.get(kind, b"")
    ),
    *(st.sampled_from([0, 1, 3, 4, 5, 7, 7, 7, 11, 1 << 29]), st.sampled_from([0, 1, 2, 2, 2, 3, 4, 5])),
    *(st.sampled_from([1, 1, 1, 2, 5, 6, 10, 11]), st.sampled_from([1, 1, 1, 2, 5, 6, 10, 11, 12])),
    st.sampled_from([b"", b"name", b"\x0a\x01n", b"\x3a\x01xyzwv", b"\xff" * 9, b"z" * 300]),
)


def as_protobuf(data: bytes) -> tuple[pb2.ModelInferRequest, list[bytes]] | None:
    try:
        message = pb2.ModelInferRequest.FromString(data)
    except DecodeError:
        return None
    raw = list(message.raw_input_contents)
    del message.raw_input_contents[:]
    return message, raw


def as_ours(data: bytes) -> tuple[pb2.ModelInferRequest, list[bytes]] | None:
    try:
        asked = read(data)
    except DecodeError:
        return None
    del asked.message.raw_input_contents[:]
    return asked.message, list(asked.raw)


@settings(max_examples=500, deadline=None)
@given(st.lists(FIELDS, max_size=3), st.lists(FIELDS, max_size=3), st.integers(0, 3))
def test_whatever_comes_is_read_as_protobuf_reads_it(before: list[bytes], after: list[bytes], lacking: int) -> None:
    large = b"\x3a" + spelled(LARGE, 3) + b"y" * LARGE
    data = b"".join([*before, large, *after])
    data = data[: len(data) - lacking]
    assert as_ours(data) == as_protobuf(data)


def test_a_message_of_many_fields_is_left_to_protobuf() -> None:
    contents = [b"x" * 100] * 5_000
    assert list(read(request_of(contents, 1).SerializeToString()).raw) == contents


@given(CONTENTS)
@settings(max_examples=20, deadline=None)
def test_an_answer_is_written_as_protobuf_writes_it(contents: list[bytes]) -> None:
    message = pb2.ModelInferResponse(model_name="m", id="7")
    whole = pb2.ModelInferResponse(model_name="m", id="7", raw_output_contents=contents)
    assert write(InferAnswer(message, contents)) == whole.SerializeToString()
    streamed = pb2.ModelStreamInferResponse.FromString(write_streamed(InferAnswer(message, contents)))
    assert streamed == pb2.ModelStreamInferResponse(infer_response=whole)
    error = pb2.ModelStreamInferResponse(error_message="no")
    assert pb2.ModelStreamInferResponse.FromString(write_streamed(error)) == error
