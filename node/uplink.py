"""The lot's end of the stream: opens it, reads and writes it, opens it again. Decides nothing.

What to say is `lot`'s, numbers and back-off are `link`'s. Here are a fresh channel for each try, the pace of
writing, and the promise to the executor that an announcement is on the wire.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import grpc

from node import wire
from node.events import Event, Welcomed
from node.link import Link
from node.lot import Lot
from node.messages import Message, Token
from protos import link_pb2, link_pb2_grpc

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a fresh channel inherits the back-off of the one before
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),  # the coordinator bounds its grants
    ("grpc.max_send_message_length", -1),
)
PACE_S, LONGEST_PACE_S = 0.0005, 0.004
"""Writes come so far apart for each lease that is still to end, up to the second: more rows travel together, and a
single one never waits."""
WELCOME_WITHIN_S = 10.0
"""A coordinator that accepts a stream and says nothing for so long is tried again (assumed)."""
RETRY_AFTER = "retry-after-ms"
"""Trailing metadata by which a busy coordinator says when to come back, milliseconds."""

_REFUSALS = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
)

Metadata = tuple[tuple[str, str], ...]
"""What every call of a lot carries."""

Stream = grpc.aio.StreamStreamCall[link_pb2.ConnectRequest, link_pb2.ConnectResponse]


def bearer(api_key: str | None) -> Metadata:
    """What tells the coordinator who calls."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


class CoordinatorRefused(Exception):
    """The coordinator does not take this lot. The message is one sentence for whoever started it."""


class _StreamEnded(Exception):
    """The stream is over, by a clean end or by our goodbye."""


class Uplink:
    """One lot's streams, one after the other."""

    def __init__(
        self,
        target: str,
        metadata: Metadata,
        lot: Lot,
        link: Link,
        handle: Callable[[Sequence[Event]], object],
        ready: Callable[[], None],
    ) -> None:
        """`handle` tells the lot what was read; `ready` is called once, when the first offers are written."""
        self._target = target
        self.metadata = metadata
        self._lot = lot
        self._link = link
        self._handle = handle
        self._news = asyncio.Event()
        self._written_s = 0.0
        self._announcements: list[tuple[Token, threading.Event]] = []  # to be set by the next round of writes
        self._flushes: list[asyncio.Future[None]] = []  # likewise
        self._tried = False
        self._ready: Callable[[], None] | None = ready

    def news(self) -> None:
        """The lot has something to say."""
        self._news.set()

    def announced(self, token: Token, on_wire: threading.Event) -> None:
        """Set the event when the lot's announcement of this lease is written.

        Without a stream nobody reads it: ordinary work goes on, work that may kill the process waits.
        """
        if self._link.open or self._lot.solo(token):
            self._announcements.append((token, on_wire))
            self._news.set()
        else:
            on_wire.set()

    def released(self, tokens: Sequence[Token]) -> None:
        """Work of these leases is being stopped: nobody waits for their announcements."""
        for token, on_wire in self._announcements:
            if token in tokens:
                on_wire.set()

    async def flushed(self) -> None:
        """Return when all that the lot has to say now is written, or when there is no stream to write to."""
        if self._link.open:
            flush: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append(flush)
            self._news.set()
            await flush

    async def run(self) -> None:
        """Keep a stream open until goodbye is said; raises CoordinatorRefused if the first is turned away."""
        while True:
            retry_after_s: float | None = None
            why = ""
            try:
                await self._stream()
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSALS and not self._link.ever_welcomed:
                    message = f"the coordinator at {self._target} refused this lot: {error.details()}"
                    raise CoordinatorRefused(message) from None
                retry_after_s = _retry_after_s(error)
                why = error.details() or error.code().name
            except (_StreamEnded, TimeoutError, wire.Garbled) as end:
                why = str(end) or type(end).__name__
            if not self._lot.said_goodbye and (self._link.open or not self._tried):
                logger.warning("no link to the coordinator at %s (%s); trying again", self._target, why)
            self._tried = True
            wait_s = self._link.lost(retry_after_s)
            self._release()
            if self._lot.said_goodbye:
                return
            await asyncio.sleep(wait_s)

    async def _stream(self) -> None:
        """One stream from hello to its end, which it tells by an exception."""
        async with grpc.aio.insecure_channel(self._target, CHANNEL_OPTIONS) as channel:
            stub: link_pb2_grpc.LinkServiceAsyncStub = link_pb2_grpc.LinkServiceStub(channel)
            stream = stub.Connect(None, metadata=self.metadata)
            await self._greet(stream)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._beat())
                    tasks.create_task(self._write(stream))
                    tasks.create_task(self._read(stream))
            except BaseExceptionGroup as ends:
                raise ends.exceptions[0] from None

    async def _greet(self, stream: Stream) -> None:
        async with asyncio.timeout(WELCOME_WITHIN_S):
            await _write(stream, Message(hello=self._lot.hello()))
            response = await stream.read()
        if not isinstance(response, link_pb2.ConnectResponse):
            raise _StreamEnded("it ended the stream")
        answer = wire.decode(response)
        if answer.welcome is None:
            raise wire.Garbled("the coordinator's first message is no welcome")
        for message in (*self._lot.say_again(answer.welcome.dropped), *self._link.welcomed(answer.welcome)):
            await _write(stream, message)
        self._handle((Welcomed(answer.welcome.dropped), *answer.events))
        self._news.set()

    async def _read(self, stream: Stream) -> None:
        while isinstance(response := await stream.read(), link_pb2.ConnectResponse):
            answer = wire.decode(response)
            if answer.acknowledged:
                self._link.acknowledged(answer.acknowledged, self._lot.forget)
            if answer.events:
                self._handle(answer.events)
        raise _StreamEnded("it ended the stream")

    async def _write(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        while not self._lot.said_goodbye:
            await self._news.wait()
            pause_s = self._written_s + min(PACE_S * self._lot.unended, LONGEST_PACE_S) - loop.time()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            self._news.clear()
            announcements, flushes = len(self._announcements), len(self._flushes)
            for message in self._lot.take(loop.time()):
                await _write(stream, self._link.submit(message))
            self._written_s = loop.time()
            for _, on_wire in self._announcements[:announcements]:
                on_wire.set()
            del self._announcements[:announcements]
            for flush in self._flushes[:flushes]:
                if not flush.done():
                    flush.set_result(None)
            del self._flushes[:flushes]
            if self._ready is not None:
                self._ready()
                self._ready = None
        await stream.done_writing()

    async def _beat(self) -> None:
        assert self._link.welcome is not None
        while True:
            await asyncio.sleep(self._link.welcome.heartbeat_s)
            self._lot.beat()
            self._news.set()

    def _release(self) -> None:
        """The stream is gone: let those go on that need not wait for the next."""
        for flush in self._flushes:
            if not flush.done():
                flush.set_result(None)
        self._flushes.clear()
        waiting = []
        for token, on_wire in self._announcements:
            if self._lot.solo(token):
                waiting.append((token, on_wire))
            else:
                on_wire.set()
        self._announcements = waiting


async def _write(stream: Stream, message: Message) -> None:
    try:
        await stream.write(wire.encode(message))
    except asyncio.InvalidStateError:
        raise _StreamEnded("the stream broke") from None


def _retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata())
    for key, value in metadata:
        if key == RETRY_AFTER:
            with contextlib.suppress(ValueError):
                return max(0.0, float(value) / 1000.0)
    return None
