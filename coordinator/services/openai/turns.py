"""Bodies of answers that may be large, made in turns: between two of them whoever else is there is served."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

_TURN_S = 0.002
_ENTRIES = 64
"""Of a list, made at once: of tokens with their likelihoods about 2 ms (measured)."""
_DEEP = 3
"""Lists of tokens lie so deep: choice, logprobs, content."""


async def in_turns(pieces: Iterable[str]) -> bytes:
    """All pieces joined. The loop is held for 2 ms at once, and for what a piece and the joining take."""
    loop = asyncio.get_running_loop()
    made, due_s = [], loop.time() + _TURN_S
    for piece in pieces:
        made.append(piece.encode())
        if loop.time() >= due_s:
            await asyncio.sleep(0)
            due_s = loop.time() + _TURN_S
    return b"".join(made)


def in_pieces(value: Any, deep: int = _DEEP) -> Iterator[str]:
    """A value as JSON; what lies deeper than this is in one piece."""
    if deep and isinstance(value, dict) and value:
        for number, (name, one) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(name)}: "
            yield from in_pieces(one, deep - 1)
        yield "}"
    elif deep > 1 and isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield ", " if number else "["
            yield from in_pieces(one, deep - 1)
        yield "]"
    elif isinstance(value, list) and len(value) > _ENTRIES:
        for first in range(0, len(value), _ENTRIES):
            yield f"{', ' if first else '['}{json.dumps(value[first : first + _ENTRIES])[1:-1]}"
        yield "]"
    else:
        yield json.dumps(value)
