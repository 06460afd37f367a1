"""Tensors as the protocol carries them: read with every check that they need, and written.

Owns datatypes, shapes and contents. Knows no model. Inside, a tensor is its raw form: little-endian elements one
behind the other, those of BYTES each behind its length. So what came raw is never copied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from coordinator.services.edge import refuse
from protos import open_inference_pb2 as pb2

BYTES = "BYTES"

_TYPED = {
    "BOOL": ("bool_contents", np.dtype("?")),
    "UINT8": ("uint_contents", np.dtype("u1")),
    "UINT16": ("uint_contents", np.dtype("<u2")),
    "UINT32": ("uint_contents", np.dtype("<u4")),
    "UINT64": ("uint64_contents", np.dtype("<u8")),
    "INT8": ("int_contents", np.dtype("i1")),
    "INT16": ("int_contents", np.dtype("<i2")),
    "INT32": ("int_contents", np.dtype("<i4")),
    "INT64": ("int64_contents", np.dtype("<i8")),
    "FP32": ("fp32_contents", np.dtype("<f4")),
    "FP64": ("fp64_contents", np.dtype("<f8")),
    BYTES: ("bytes_contents", None),
}
"""Datatype: the field of its typed contents, and how its elements lie in memory."""

SIZES = {name: kind.itemsize for name, (_, kind) in _TYPED.items() if kind is not None} | {"FP16": 2, "BF16": 2}
"""Bytes of an element, but for BYTES."""

_MOST_DIMENSIONS = 16
_MOST_STRINGS = 1 << 16
"""Elements of one BYTES tensor: each is looked at by itself."""
_MOST_TYPED = 1 << 20
"""Elements of typed contents: each is a Python object for a moment, at about 50 ns."""
_LENGTH = Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array; `raw` has just the bytes that its shape says."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    def strings(self) -> list[bytes]:
        """The elements of a BYTES tensor."""
        return [self.raw[first + _LENGTH.size : end] for first, end in pairwise(_bounds(self))]

    def floats(self) -> NDArray[np.float32]:
        """A tensor of FP32, FP16 or BF16 as FP32; refused when an element is not finite."""
        match self.datatype:
            case "FP32":
                array = np.frombuffer(self.raw, "<f4")
            case "FP16":
                array = np.frombuffer(self.raw, "<f2").astype("<f4")
            case "BF16":  # the upper half of an FP32
                array = (np.frombuffer(self.raw, "<u2").astype("<u4") << 16).view("<f4")
            case _:
                raise AssertionError(f"{self.datatype} is no float")
        if not np.isfinite(array).all():
            place = int(np.isfinite(array).argmin())
            raise refuse(f"input {self.name!r} holds {array[place]} at element {place}; give finite numbers")
        return array.reshape(self.shape)


def read_tensors(request: pb2.ModelInferRequest, raw: Sequence[bytes]) -> dict[str, Tensor]:
    """The inputs of a request, with its raw contents, by name; refused when one is not sound.

    Nothing is allocated before it is checked.
    """
    if raw and len(raw) != len(request.inputs):
        raise refuse(
            f"{len(raw)} raw_input_contents came for {len(request.inputs)} inputs; send one for each, in order"
        )
    read: dict[str, Tensor] = {}
    for place, given in enumerate(request.inputs):
        name = given.name
        if name in read:
            raise refuse(f"input {name!r} came twice; send it once")
        if given.parameters:
            raise refuse(
                f"input {name!r} has the parameter {min(given.parameters)!r}; inputs take none here, nor shared"
                " memory: send the contents"
            )
        elements = _elements(given)
        if raw and given.HasField("contents"):
            raise refuse(f"input {name!r} has contents beside raw_input_contents; send one of the two")
        if not raw and not given.HasField("contents"):
            raise refuse(f"input {name!r} came without contents; send raw_input_contents or typed contents")
        contents = raw[place] if raw else _typed(given, elements)
        tensor = Tensor(name, given.datatype, tuple(given.shape), contents)
        if given.datatype == BYTES:
            _bounds(tensor)
        elif len(contents) != elements * SIZES[given.datatype]:
            raise refuse(
                f"input {name!r} has {len(contents)} bytes; {given.datatype} of shape {list(given.shape)} has"
                f" {elements * SIZES[given.datatype]}: make them equal"
            )
        read[name] = tensor
    return read


def _elements(given: pb2.ModelInferRequest.InferInputTensor) -> int:
    """How many elements an input says to have."""
    name, shape = given.name, given.shape
    if given.datatype not in SIZES and given.datatype != BYTES:
        known = ", ".join([*SIZES, BYTES])
        raise refuse(f"input {name!r} is of datatype {given.datatype!r}; known are {known}")
    if len(shape) > _MOST_DIMENSIONS:
        raise refuse(f"input {name!r} has {len(shape)} dimensions; the limit is {_MOST_DIMENSIONS}")
    if any(size < 1 for size in shape):
        raise refuse(f"input {name!r} is of shape {list(shape)}; each dimension must be at least 1")
    elements = prod(shape)
    if given.datatype == BYTES and elements > _MOST_STRINGS:
        raise refuse(f"input {name!r} has {elements} elements of BYTES; the limit is {_MOST_STRINGS}: split it")
    return elements


def _bounds(tensor: Tensor) -> list[int]:
    """Where each element of a BYTES tensor begins, and where the last ends."""
    raw, place, elements = tensor.raw, 0, prod(tensor.shape)
    bounds = [0]
    for element in range(elements):
        if place + _LENGTH.size > len(raw):
            raise refuse(
                f"input {tensor.name!r} ends before element {element}; shape {list(tensor.shape)} has {elements}"
            )
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size + length
        if place > len(raw):
            raise refuse(
                f"element {element} of input {tensor.name!r} says to have {length} bytes, of which"
                f" {length - place + len(raw)} came; mend its length"
            )
        bounds.append(place)
    if place != len(raw):
        raise refuse(
            f"input {tensor.name!r} has {len(raw) - place} bytes behind its {elements} elements; make its shape fit"
        )
    return bounds


def _typed(given: pb2.ModelInferRequest.InferInputTensor, elements: int) -> bytes:
    """Typed contents in their raw form."""
    name, datatype, contents = given.name, given.datatype, given.contents
    if datatype not in _TYPED:
        raise refuse(f"input {name!r} is of datatype {datatype}, which has no typed contents; send it raw")
    field, kind = _TYPED[datatype]
    others = [set_field.name for set_field, _ in contents.ListFields() if set_field.name != field]
    if others:
        raise refuse(f"input {name!r} of datatype {datatype} has {min(others)}; its contents belong into {field}")
    came = len(getattr(contents, field))
    if came != elements:
        raise refuse(
            f"input {name!r} has {came} elements in {field}; shape {list(given.shape)} has {elements}: make them"
            " equal"
        )
    if kind is None:
        return _joined(contents.bytes_contents)
    if elements > _MOST_TYPED:
        raise refuse(f"input {name!r} has {elements} typed elements; the limit is {_MOST_TYPED}: send it raw")
    array = np.array(getattr(contents, field), {"i": np.int64, "u": np.uint64}.get(kind.kind, kind))
    if kind.kind in "iu":
        limits = np.iinfo(kind.str)
        if array.min() < limits.min or array.max() > limits.max:
            wrong = array.min() if array.min() < limits.min else array.max()
            raise refuse(f"input {name!r} holds {wrong}; {datatype} goes from {limits.min} to {limits.max}")
    return array.astype(kind).tobytes()


def _joined(elements: Iterable[bytes]) -> bytes:
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def of_strings(name: str, shape: Sequence[int], elements: Iterable[bytes]) -> Tensor:
    """A tensor of BYTES."""
    return Tensor(name, BYTES, tuple(shape), _joined(elements))


def name_tensors(response: pb2.ModelInferResponse, tensors: Iterable[Tensor]) -> None:
    """Name outputs, whose contents go beside, always raw: so does Triton's server whatever a request came in."""
    for tensor in tensors:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
