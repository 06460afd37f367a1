"""Answers under idempotency keys, without a socket: what they cost."""

import asyncio
import tracemalloc

from starlette.types import Message

from coordinator.services.openai.call import Call
from coordinator.services.openai.replies import Replies

_PIECES, _PIECE_BYTES = 32, 1 << 20


def _call() -> Call:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "path": "/v1/chat/completions", "headers": [(b"idempotency-key", b"one")]}
    return Call(scope, receive, send)


def test_a_stream_that_is_too_large_to_be_told_again_is_not_kept_while_it_is_told() -> None:
    replies, made = Replies(), 0

    async def tell(pieces: int) -> None:
        call = _call()

        async def work() -> None:
            nonlocal made
            made += 1
            for _ in range(pieces):
                await call.write(bytes(_PIECE_BYTES))

        assert await replies.once(call, {}, work) is None

    async def run() -> None:
        tracemalloc.start()
        await tell(_PIECES)
        await tell(2)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made == 2
        assert peak_bytes < 4 * _PIECE_BYTES

    asyncio.run(run())
