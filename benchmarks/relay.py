"""A way to a server that counts what comes back on it, and holds it back after so many bytes."""

import asyncio
from math import inf
from types import TracebackType
from typing import Self

_READ_BYTES = 1 << 16


class Relay:
    """An async context manager; inside, `target` leads to the server."""

    def __init__(self, server: str, limit_bytes: float = inf) -> None:
        self.server = server  # where new connections go
        self._limit_bytes = limit_bytes
        self._open: set[asyncio.Task[None]] = set()
        self.target = ""
        self.passed_bytes = 0  # from the server, of all connections together

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    def renew(self) -> None:
        """Break every connection, count anew, and hold nothing back on those that follow."""
        self._cut()
        self._limit_bytes, self.passed_bytes = inf, 0

    def _cut(self) -> None:
        for task in self._open:
            task.cancel()

    async def _accept(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        far_writer = None
        try:
            far, far_writer = await asyncio.open_connection(*self.server.split(":"))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forth(near, far_writer))
                tasks.create_task(self._back(far, near_writer))
        except (asyncio.CancelledError, OSError, BaseExceptionGroup):
            pass  # one of the ends is gone, and so is the other
        finally:
            self._open.discard(task)
            for writer in (near_writer, far_writer):
                if writer is not None:
                    writer.transport.abort()

    async def _forth(self, near: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        while data := await near.read(_READ_BYTES):
            far.write(data)
            await far.drain()
        raise ConnectionResetError

    async def _back(self, far: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        while data := await far.read(_READ_BYTES):
            if self.passed_bytes + len(data) > self._limit_bytes:
                await asyncio.Event().wait()  # until it is cut
            self.passed_bytes += len(data)
            near.write(data)
            await near.drain()
        raise ConnectionResetError
