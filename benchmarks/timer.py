"""A model of 1 ms: it waits, and answers with a small vector that tells how long it waited in truth.

All sides of `fronts` have it, as a timer of their event loop (`asyncio.sleep`), so that any number of requests wait
side by side in one process. What a front adds is what a caller waited less what the answer says.
"""

import asyncio
import json
import struct
from time import perf_counter

TIMER_S = 0.001
DIMENSIONS = 8
"""Of the vector: little to carry, as the front is to be measured."""
_VECTOR = struct.Struct(f"<{DIMENSIONS}f")
_TOKENS = struct.pack("<I", 1)


async def wait_s() -> float:
    """The model: seconds that it took."""
    began_s = perf_counter()
    await asyncio.sleep(TIMER_S)
    return perf_counter() - began_s


def result(took_s: float) -> bytes:
    """As a model of kind "embed" answers: the vector, milliseconds first, then a number of tokens."""
    return _VECTOR.pack(1e3 * took_s, *(0.0,) * (DIMENSIONS - 1)) + _TOKENS


def took_ms(payload: bytes) -> float:
    """What a result, or its vector alone, says. Raises ValueError when it is neither."""
    if len(payload) not in (_VECTOR.size, _VECTOR.size + len(_TOKENS)):
        raise ValueError(f"the answer has {len(payload)} bytes")
    took: float = _VECTOR.unpack_from(payload)[0]
    return took


def document(payload: bytes, model: str) -> bytes:
    """A result as POST /v1/embeddings answers, with numbers."""
    vector = list(_VECTOR.unpack_from(payload))
    return json.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": vector}],
            "model": model,
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
    ).encode()
