"""One HTTP call: who asks, what was sent, and the answer on its way. Knows no route and no model."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl
from uuid import uuid4

from starlette.types import Receive, Scope, Send

from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.errors import Header, error, headers

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"

PATIENCE_S = 30.0
"""A body has so long to come (assumed), and a second more for each so many bytes:"""
_SLOWEST_BYTES_PER_S = 16 << 10

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
"""Request ids of callers that are taken over: they stand in headers and logs."""

REQUEST_ID: Mapping[str, Any] = {"type": "string", "pattern": f"^{_SANE.pattern}$"}
"""The schema of the header `x-request-id` of every answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[Header, ...] = ()


def answer(value: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(json.dumps(value, allow_nan=False).encode(), status)


class Call:
    """What a handler is given."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, patience_s: float = PATIENCE_S) -> None:
        """`patience_s` stands in place of PATIENCE_S."""
        self.tenant = ""
        self.route: str = scope["path"]
        self.path: dict[str, str] = scope.get("path_params") or {}
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False
        """Whether the status went out; an error after that is told in the stream."""
        self._in_events = False
        self.listener: Callable[[bytes], None] | None = None
        """Hears each piece of a stream."""
        self._scope = scope
        self._receive = receive
        self._patience_s = patience_s
        self._send = send
        own = self.header("x-request-id")
        self.request_id = own if _SANE.fullmatch(own) else f"req_{uuid4().hex}"

    def header(self, name: str) -> str:
        """A header of the request; empty when it has none."""
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def query(self) -> dict[str, str]:
        """The parameters behind the question mark; of those given twice the last."""
        return dict(parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True))

    async def chunks(self, most_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes; refused when it is larger than this, or comes too slowly."""
        announced = self.header("content-length")
        if announced.isdecimal() and int(announced) > most_bytes:
            _too_large(f"{announced} bytes", most_bytes)
        loop = asyncio.get_running_loop()
        began_s, size, more = loop.time(), 0, True
        while more:
            try:
                async with asyncio.timeout_at(began_s + self._patience_s + size / _SLOWEST_BYTES_PER_S):
                    message = await self._receive()
            except TimeoutError:
                waited_s = loop.time() - began_s
                raise Refused(
                    Refusal.TOO_SLOW,
                    f"{size} bytes of the body came within {waited_s:.0f} s; a body may take"
                    f" {self._patience_s:.0f} s and a second more for each {_SLOWEST_BYTES_PER_S} bytes",
                ) from None
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError("the client has gone")
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                size += len(chunk)
                if size > most_bytes:
                    _too_large("more", most_bytes)
                yield chunk

    async def body(self, most_bytes: int) -> bytes:
        """The whole body; refused as by `chunks`."""
        return b"".join([chunk async for chunk in self.chunks(most_bytes)])

    async def give(self, given: Answer) -> None:
        """Answer the call."""
        await self._start(given.status, given.content_type, (*given.headers, _length(given.body)))
        await self._send({"type": "http.response.body", "body": given.body})

    async def refuse(self, refused: Refused, *more: Header) -> None:
        """Answer the call with an error; in a stream that has begun, tell it there.

        Raised again when a file has begun: its connection ends before it does, which is all that can be told.
        """
        body = error(refused)
        if self.started and not self._in_events:
            raise refused
        if self.started:
            await self.write(b"data: " + body + b"\n\n", last=True)
            return
        if refused.refusal is Refusal.TOO_SLOW:
            more = (*more, (b"connection", b"close"))
        await self.give(Answer(body, refused.refusal.http_status, headers=(*headers(refused), *more)))

    async def write(self, piece: bytes, last: bool = False) -> None:
        """Send a piece of a stream; waits while the reader is slow."""
        if not self.started:
            self._in_events = True
            await self._start(200, EVENTS, ((b"cache-control", b"no-cache"),))
        if self.listener is not None:
            self.listener(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": not last})

    async def begin(self, content_type: bytes, length: int) -> None:
        """Begin an answer of so many bytes, which follow by `write`."""
        await self._start(200, content_type, ((b"content-length", b"%d" % length),))

    async def _start(self, status: int, content_type: bytes, more: Iterable[Header]) -> None:
        self.started = True
        told = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode()), *more]
        await self._send({"type": "http.response.start", "status": status, "headers": told})


def _length(body: bytes) -> Header:
    return b"content-length", b"%d" % len(body)


def _too_large(size: str, most_bytes: int) -> NoReturn:
    raise Refused(Refusal.TOO_LARGE, f"the body has {size}; the limit is {most_bytes} bytes: split it")
