"""One HTTP connection: how long it may be silent, slow or deaf, and that its work ends when it is lost.

Stands on uvicorn's protocol, which bounds only the time between an answer and the next request.
"""

import asyncio
import re
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 30.0
"""A connection that was opened, began a request, or still sends the body of one that was answered, is closed when
no complete head came by then (assumed)."""

HEAD_BYTES = 64 << 10
"""Of a request's line and headers (assumed: eight times what servers usually allow)."""

DEAF_S = 60.0
"""A connection whose reader takes nothing for so long, while much waits for it or the end does, is closed
(assumed)."""


_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """Told to each call as `scope["state"]["connection"]`."""

    def __init__(self, *given: Any, head_s: float = HEAD_S, deaf_s: float = DEAF_S, **named: Any) -> None:
        """`head_s` and `deaf_s` stand in place of HEAD_S and DEAF_S; the rest is uvicorn's."""
        super().__init__(*given, **named)
        self._head_s = head_s
        self._deaf_s = deaf_s
        self.task: asyncio.Task[Any] | None = None
        """The call that is at work; cancelled when the connection is lost."""
        self.gone = False
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._deaf_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only for sockets that say they are TCP's, and those that were accepted do not. Without
            # it a body waits 40 ms for its head to be acknowledged.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head_timer = self.loop.call_later(self._head_s, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone = True
        for timer in (self._head_timer, self._deaf_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data if self._in_body else _without_upgrade(data))
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.abort()
                return
        elif not self.cycle.response_complete:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            return
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_s, self.transport.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        if not self.pipeline:
            self.flow.resume_reading()  # which a large body stopped: who does not read hears nobody go

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # whoever left the end of the last answer for so long does not get it

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._deaf_timer is not None and not self.transport.is_closing():
            self._deaf_timer.cancel()
            self._deaf_timer = None

    def _expect_reader(self) -> None:
        if self._deaf_timer is None:
            self._listen(self.transport.get_write_buffer_size() + 1)

    def _listen(self, waited: int) -> None:
        """Go on as long as less waits for the reader each time than `waited` before."""
        waiting = self.transport.get_write_buffer_size()
        if waiting >= waited:
            self.transport.abort()
        else:
            self._deaf_timer = self.loop.call_later(self._deaf_s, self._listen, waiting)


def _without_upgrade(data: bytes) -> bytes:
    """A head that asks for no other protocol, such as Java's client does for HTTP/2: none is spoken here, and once
    one is asked for the parser takes no body."""
    head, end, rest = data.partition(b"\r\n\r\n")
    without, found = _UPGRADE.subn(b"\r\nupgrade-not-taken:", head)
    return without + end + rest if found else data
