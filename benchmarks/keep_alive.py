"""A small HTTP client on asyncio: POST on a connection that stays open, one request at a time.

The cost of the client is in every figure of a front, so this one has little: it reads the status and the length of
an answer, or its chunks, and nothing else.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from benchmarks.figures import BenchmarkFailed


class Connection:
    """One connection, to be closed by whoever opened it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    @classmethod
    async def open(cls, target: str) -> Self:
        """To HOST:PORT."""
        host, _, port = target.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)), target)

    def request(self, path: str, body: bytes) -> bytes:
        """What `post` and `stream` write for this JSON body; it can be written again and again."""
        return (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def post(self, request: bytes) -> bytes:
        """The whole body of the answer. BenchmarkFailed when its status is not 200."""
        self._writer.write(request)
        status, headers = await self._head()
        body = await self._reader.readexactly(_length(headers))
        if status != b"200":
            raise BenchmarkFailed(f"a POST was answered with {status.decode()}: {body[:300].decode()}")
        return body

    async def stream(self, request: bytes) -> AsyncIterator[bytes]:
        """What the server-sent events of the answer carry, one by one. BenchmarkFailed as `post`."""
        self._writer.write(request)
        status, headers = await self._head()
        if status != b"200":
            body = await self._reader.readexactly(_length(headers))
            raise BenchmarkFailed(f"a POST was answered with {status.decode()}: {body[:300].decode()}")
        rest = b""
        while size := int((await self._reader.readline()).strip(), 16):
            chunk = await self._reader.readexactly(size + 2)
            *events, rest = (rest + chunk[:-2]).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: "):
                    yield event.removeprefix(b"data: ")
        await self._reader.readline()

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()

    async def _head(self) -> tuple[bytes, bytes]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        return head[9:12], head.lower()


def _length(headers: bytes) -> int:
    _, found, rest = headers.partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0
