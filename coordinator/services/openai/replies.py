"""Answers under idempotency keys: a call that comes again is given the answer of the first, and asks no car.

Kept in memory, bounded in number, size and age: a restart forgets them, and then a call is simply made again.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from time import monotonic
from typing import Any

from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.call import EVENTS, Answer, Call
from coordinator.services.openai.keys import idempotency_key

_MOST = 10_000
_MOST_BYTES = 64 << 20
_MOST_ANSWER_BYTES = 1 << 20
"""A larger answer is not kept, nor the key: it costs less to make it again than to keep it (assumed)."""
_KEPT_S = 3600.0

_AGAIN = (b"idempotent-replayed", b"true")


@dataclass(slots=True)
class _Open:
    """A call on its way."""

    digest: bytes  # of what was asked
    ended: asyncio.Future[None]  # well or not


@dataclass(frozen=True, slots=True)
class _Kept:
    """A call that was answered."""

    digest: bytes
    answer: Answer
    kept_s: float


class _Told:
    """What a stream told, while it is small enough to be kept."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0

    def __call__(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes <= _MOST_ANSWER_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def answer(self) -> Answer | None:
        """The stream again; None: it was too large."""
        if self._bytes > _MOST_ANSWER_BYTES:
            return None
        return Answer(b"".join(self._pieces), content_type=EVENTS)


class Replies:
    """Those of all tenants."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], _Open] = {}
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()  # the oldest first
        self._bytes = 0

    async def once(
        self, call: Call, body: Mapping[str, Any], work: Callable[[], Awaitable[Answer | None]]
    ) -> Answer | None:
        """The answer under this call's key, made by `work` unless it is known or on its way.

        Without a key `work` is just done. A stream is given again when it is complete; before, it is refused, as
        is the key with another body.
        """
        key = idempotency_key(call)
        if not key:
            return await work()
        slot = call.tenant, key
        digest = sha256(json.dumps([call.route, body], sort_keys=True).encode()).digest()
        self._forget(monotonic())
        while (known := self._open.get(slot) or self._kept.get(slot)) is not None:
            if known.digest != digest:
                raise Refused(
                    Refusal.ALREADY_EXISTS, f"the idempotency key {key!r} belongs to another call; use another key"
                )
            if isinstance(known, _Kept):
                return replace(known.answer, headers=(_AGAIN,))
            if body.get("stream"):
                raise Refused(
                    Refusal.ALREADY_EXISTS,
                    f"the stream under the idempotency key {key!r} is still told; ask again when it has ended",
                    retry_after_s=1.0,
                )
            await asyncio.wait((known.ended,))
        opened = self._open[slot] = _Open(digest, asyncio.get_running_loop().create_future())
        told = call.listener = _Told()
        try:
            given = await work()
            if (whole := given or told.answer()) is not None:
                self._keep(slot, digest, whole)
            return given
        finally:
            del self._open[slot]
            opened.ended.set_result(None)

    def _keep(self, slot: tuple[str, str], digest: bytes, answer: Answer) -> None:
        if len(answer.body) <= _MOST_ANSWER_BYTES:
            now_s = monotonic()
            self._kept[slot] = _Kept(digest, answer, now_s)
            self._bytes += len(answer.body)
            self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        """Let go of the oldest while they are too many, too large together or too old."""
        while self._kept:
            oldest = next(iter(self._kept.values()))
            young = now_s - oldest.kept_s < _KEPT_S
            if young and len(self._kept) <= _MOST and self._bytes <= _MOST_BYTES:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(oldest.answer.body)
