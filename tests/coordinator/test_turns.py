"""Large bodies in pieces: the same JSON, and no piece is long."""

import asyncio
import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.services.openai.chat import ChatStyle
from coordinator.services.openai.choices import Asked, Choice, Style
from coordinator.services.openai.completions import TextStyle
from coordinator.services.openai.generation import written
from coordinator.services.openai.turns import in_pieces, in_turns

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=40,
)


@given(VALUES, st.integers(0, 200), st.integers(0, 5))
def test_pieces_together_are_the_json_of_the_whole(value: Any, times: int, depth: int) -> None:
    whole = [value] * times
    for _ in range(depth):
        whole = {"in": whole}  # type: ignore[assignment]
    assert "".join(in_pieces(whole)) == json.dumps(whole)


def test_others_have_their_turn_after_each_piece_that_takes_long() -> None:
    turns = 0

    def pieces() -> Iterator[str]:
        for _ in range(10):
            due_s = monotonic() + 0.003
            while monotonic() < due_s:
                pass
            yield "x"

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        asking = asyncio.create_task(others())
        assert await in_turns(pieces()) == b"x" * 10
        asking.cancel()

    asyncio.run(run())
    assert turns == 10


@pytest.mark.parametrize(("style", "listed"), [(ChatStyle(True), "content"), (TextStyle(True), "top_logprobs")])
def test_likelihoods_of_many_tokens_are_many_pieces_and_each_choice_is_read_in_its_turn(
    style: Style, listed: str
) -> None:
    entry = {"token": "park", "logprob": -0.5, "top_logprobs": [{"token": "park", "logprob": -0.5}] * 20}
    choices = [Choice(index, ["park"] * 4096, [entry] * 4096, 1, 4096, "length") for index in range(2)]
    pieces: list[str] = []
    for piece in written(style, Asked("m", [], 2), choices, {"id": "one"}):
        if not pieces:
            choices[1].pieces.append("!")  # which a whole that was made at once would not have
        pieces.append(piece)
    answer = json.loads("".join(pieces))
    assert [len(choice["logprobs"][listed]) for choice in answer["choices"]] == [4096, 4096]
    assert "!" in json.dumps(answer["choices"][1])
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 8192, "total_tokens": 8193}
    assert max(map(len, pieces)) < 100 * len(json.dumps(entry))
