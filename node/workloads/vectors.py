"""The result of the kind "embed", see protos/jobs.proto: a vector, and how many tokens were read for it."""

import struct

import numpy as np
from numpy.typing import NDArray

_COUNT = struct.Struct("<I")


def write(vector: NDArray[np.float32], tokens: int) -> bytes:
    """A vector [D] of little-endian numbers."""
    return vector.tobytes() + _COUNT.pack(tokens)


def read(result: bytes) -> tuple[NDArray[np.float32], int]:
    """The vector [D], and the tokens."""
    (tokens,) = _COUNT.unpack_from(result, len(result) - _COUNT.size)
    return np.frombuffer(result, "<f4", (len(result) - _COUNT.size) // 4), tokens
