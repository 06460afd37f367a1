"""Requests and answers with their raw contents beside them, as they come from the wire and go to it.

Protobuf would copy 64 MB four times on their way through, and nobody else is served meanwhile; here they are copied
once on the way in and once on the way out, and between this and gRPC's own copies others have their turn. Knows the
wire form of protobuf, and three field numbers.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from coordinator.services.edge import unreadable
from protos import open_inference_pb2 as pb2

_LARGE_BYTES = 1 << 16
"""Smaller requests protobuf reads sooner by itself."""
_HUGE_BYTES = 4 << 20
"""Larger ones take milliseconds to copy."""
_TURN_S = 0.001
"""What comes in meanwhile is handled first."""
_MOST_FIELDS = 1 << 10
"""A request with more of them is left to protobuf: they are looked at one by one."""
_LONGEST_TAG, _LONGEST_NUMBER = 5, 10
"""Bytes: what is longer is no message, even if it says no more than a shorter one."""

# A tag is the number of a field and how its end is found: 2, by the length before it.
_INPUT = pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2
_OUTPUT = pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | 2
_ANSWER = pb2.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER << 3 | 2


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request; its raw contents are in `raw`, whether they are in the message or not."""

    message: pb2.ModelInferRequest
    raw: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """An answer; its raw contents are in `raw`, and none in the message."""

    message: pb2.ModelInferResponse
    raw: Sequence[bytes] = ()


async def opened(data: bytes) -> InferRequest:
    """A request from the wire; refused when it is none."""
    if len(data) >= _HUGE_BYTES:
        await asyncio.sleep(_TURN_S)
    try:
        return read(data)
    except DecodeError:
        raise unreadable(data, pb2.ModelInferRequest) from None


async def closed(answered: InferAnswer) -> bytes:
    """An answer for the wire."""
    return await _others_first(write(answered))


async def closed_streamed(told: InferAnswer | pb2.ModelStreamInferResponse) -> bytes:
    """What a stream tells, for the wire."""
    return await _others_first(write_streamed(told))


async def _others_first(data: bytes) -> bytes:
    if len(data) >= _HUGE_BYTES:
        await asyncio.sleep(_TURN_S)
    return data


def read(data: bytes) -> InferRequest:
    """A request from the wire. Raises protobuf's DecodeError when it is none."""
    parted = _part(data) if len(data) >= _LARGE_BYTES else None
    if parted is not None:
        rest, raw = parted
        return InferRequest(pb2.ModelInferRequest.FromString(rest), raw)
    message = pb2.ModelInferRequest.FromString(data)
    return InferRequest(message, tuple(message.raw_input_contents))


def write(answered: InferAnswer) -> bytes:
    """An answer for the wire."""
    return b"".join(_parts(answered))


def write_streamed(told: InferAnswer | pb2.ModelStreamInferResponse) -> bytes:
    """What a stream tells, an answer or an error, for the wire."""
    if not isinstance(told, InferAnswer):
        return told.SerializeToString()
    parts = _parts(told)
    return b"".join((_written(_ANSWER), _written(sum(map(len, parts))), *parts))


def _parts(answered: InferAnswer) -> list[bytes]:
    parts = [answered.message.SerializeToString()]
    for raw in answered.raw:
        parts += (_written(_OUTPUT), _written(len(raw)), raw)
    return parts


def _part(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """The message without its raw contents, and these; None: let protobuf read all of it."""
    view, rest, raw = memoryview(data), [], list[bytes]()
    place = kept = 0
    try:
        for _ in range(_MOST_FIELDS):
            if place == len(data):
                rest.append(view[kept:])
                return b"".join(rest), raw
            begin = place
            tag, place = _varint(data, place)
            if place - begin > _LONGEST_TAG:
                return None
            match tag & 7:
                case 0:  # a number
                    _, place = _varint(data, place)
                case 1:  # of eight bytes
                    place += 8
                case 5:  # of four
                    place += 4
                case 2:  # of a length that it says
                    length, first = _varint(data, place)
                    place = first + length
                    if tag == _INPUT and place <= len(data):
                        rest.append(view[kept:begin])
                        raw.append(data[first:place])
                        kept = place
                case _:
                    return None
            if place > len(data):
                return None
    except (IndexError, ValueError):  # it ends within a number, or a number does not end
        pass
    return None


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError when the data end first, ValueError when it is too long."""
    value = 0
    for shift in range(0, 7 * _LONGEST_NUMBER, 7):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number of over {_LONGEST_NUMBER} bytes")


def _written(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
