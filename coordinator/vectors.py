"""Results of models of kind "embed", see protos/jobs.proto. Knows no protocol that they are told by."""

import struct

import numpy as np
from numpy.typing import NDArray

_COUNT = struct.Struct("<I")


def read(payload: bytes) -> tuple[NDArray[np.float32], int]:
    """The vector [D] of finite numbers, and how many tokens were read for it. Raises ValueError."""
    if len(payload) < 4 + _COUNT.size or len(payload) % 4:
        raise ValueError(f"{len(payload)} bytes are no vector of float32 and a number of tokens")
    vector = np.frombuffer(payload, "<f4", len(payload) // 4 - 1)
    if not np.isfinite(vector).all():
        raise ValueError("it holds a number that is not finite")
    (tokens,) = _COUNT.unpack_from(payload, len(payload) - _COUNT.size)
    return vector, tokens
