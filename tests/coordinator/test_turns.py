"""Large bodies in pieces: the same JSON, and no piece is long."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.services.openai.turns import in_pieces

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


def test_likelihoods_of_many_tokens_are_many_pieces() -> None:
    entry = {"token": "park", "logprob": -0.5, "top_logprobs": [{"token": "park", "logprob": -0.5}] * 20}
    choice = {"index": 0, "logprobs": {"content": [entry] * 4096, "refusal": None}}
    pieces = [*in_pieces({"object": "chat.completion", "choices": [choice] * 2})]
    assert max(map(len, pieces)) < 100 * len(json.dumps(entry))
