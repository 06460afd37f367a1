"""Which car answered a conversation last, told by the messages so far: it may hold them in its memory still.

Knows the form of a chat completion's messages, and keeps no word of them.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

_MOST = 10_000
"""Conversations that are remembered; the oldest are forgotten (assumed)."""


class Conversations:
    """The cars of the latest answers."""

    def __init__(self) -> None:
        self._rows: OrderedDict[bytes, int] = OrderedDict()

    def car(self, tenant: str, model: str, payload: bytes) -> int | None:
        """The row of the car that gave the latest answer in a request's messages, if that is known."""
        found = None
        for digest in _digests(tenant, model, _messages(payload)):
            found = self._rows.get(digest, found)
        return found

    def answered(self, tenant: str, model: str, payload: bytes, text: str, row: int) -> None:
        """This car has answered a request."""
        turns = [*_messages(payload), ("assistant", text)]
        *_, digest = _digests(tenant, model, turns)
        self._rows[digest] = row
        self._rows.move_to_end(digest)
        if len(self._rows) > _MOST:
            self._rows.popitem(last=False)


def _digests(tenant: str, model: str, turns: list[tuple[str, str]]) -> Iterator[bytes]:
    """One for each beginning of a conversation, the shortest first."""
    known = blake2b(json.dumps((tenant, model)).encode(), digest_size=16)
    for turn in turns:
        known.update(json.dumps(turn).encode())
        yield known.copy().digest()


def _messages(payload: bytes) -> list[tuple[str, str]]:
    """Role and text of each message; none of what a car will refuse."""
    try:
        return [(str(turn["role"]), _text(turn["content"])) for turn in json.loads(payload)["messages"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
