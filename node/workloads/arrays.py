"""Arrays among payloads: bytes in NumPy's file form (.npy), whose word is taken for nothing."""

import io
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from node.workloads import BadInput

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""How the header reads, by version of the form. The third is for fields with names, which nothing here takes."""

_HEADER_BYTES = 1024
"""Of a header, at most. That of an array with eight extents has some 200."""

_MOST_EXTENTS = 8


def is_array(payload: bytes) -> bool:
    """Whether a payload is meant as an array: no text and no picture begins like that."""
    return payload.startswith(npy.MAGIC_PREFIX)


def array_of(payload: bytes) -> NDArray[Any]:
    """The array of whole or real numbers that a payload holds, not copied. Raises BadInput."""
    file = io.BytesIO(payload)
    try:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version[0]}.{version[1]} of its form is not known")
        shape, by_columns, numbers = _HEADERS[version](file, max_header_size=_HEADER_BYTES)
    except Exception as error:  # numpy raises whatever Python's own parser does
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"the array is no .npy file that can be read: {said}") from None
    if numbers.kind not in "iuf":
        raise BadInput(f"the array is of {str(numbers)[:50]}, not of whole or real numbers")
    extents = str(list(shape))[:100]
    if len(shape) > _MOST_EXTENTS or min(shape, default=1) < 1:
        raise BadInput(f"the array is {extents}; it needs 1 to {_MOST_EXTENTS} extents, each at least 1")
    at = file.tell()
    wanted, left = prod(shape) * numbers.itemsize, len(payload) - at
    if left != wanted:
        raise BadInput(f"the array is torn: {numbers.name} {extents} takes {wanted:,} bytes, and {left:,} follow")
    return np.frombuffer(payload, numbers, offset=at).reshape(shape, order="F" if by_columns else "C")


def described(array: NDArray[Any]) -> str:
    """An array as its sender would name it: float32 [3, 224, 224]."""
    return f"{array.dtype.name} {list(array.shape)}"
