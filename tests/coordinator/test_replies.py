"""Answers under idempotency keys, without a socket: what they cost, and which are let go."""

import asyncio
import tracemalloc
from collections.abc import Iterable

import pytest
from starlette.types import Message

from coordinator.services.openai.call import Answer, Call
from coordinator.services.openai.replies import Replies

_PIECES, _PIECE_BYTES = 32, 1 << 20
_MOST, _MOST_BYTES, _MOST_ANSWER_BYTES = 10_000, 64 << 20, 1 << 20


def _call(key: str = "one") -> Call:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "path": "/v1/chat/completions", "headers": [(b"idempotency-key", key.encode())]}
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


async def _made(replies: Replies, keys: Iterable[int], body: bytes) -> list[int]:
    """Those of the keys whose call is made, and not answered as before."""
    made = []
    for key in keys:

        async def work(key: int = key) -> Answer:
            made.append(key)
            return Answer(body)

        given = await replies.once(_call(str(key)), {}, work)
        assert given is not None
        assert given.body is body
    return made


@pytest.mark.parametrize(
    ("size", "most"), [(1, _MOST), (_MOST_ANSWER_BYTES, _MOST_BYTES // _MOST_ANSWER_BYTES), (1 << 19, 128)]
)
def test_of_too_many_answers_or_too_large_ones_the_oldest_are_made_again(size: int, most: int) -> None:
    async def run() -> None:
        replies, body = Replies(), bytes(size)
        everyone = range(most)
        assert await _made(replies, everyone, body) == [*everyone]
        assert await _made(replies, everyone, body) == []
        assert await _made(replies, [most, most + 1], body) == [most, most + 1]
        assert await _made(replies, range(2, most + 2), body) == []
        assert await _made(replies, [0], body) == [0]  # for which the third was let go
        assert await _made(replies, [*range(3, most + 2), 0], body) == []
        assert await _made(replies, [2], body) == [2]

    asyncio.run(run())


def test_an_answer_that_is_too_large_is_not_kept_and_nothing_is_let_go_for_it() -> None:
    async def run() -> None:
        replies, small, large = Replies(), b"small", bytes(_MOST_ANSWER_BYTES + 1)
        assert await _made(replies, range(3), small) == [0, 1, 2]
        assert await _made(replies, [3] * 100, large) == [3] * 100
        assert await _made(replies, range(3), small) == []

    asyncio.run(run())
