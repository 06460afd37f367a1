"""TransferService: large inputs and large results, in chunks beside the stream."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from io import BytesIO

from coordinator.core.events import Token
from coordinator.keys import Role
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, refuse, sound, streaming, unary
from coordinator.wire import token
from protos import link_pb2, link_pb2_grpc

CHUNK_BYTES = 1 << 20
_MOST_RESULT_BYTES = 64 << 20
_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.032
"""Between two chunks, for each request that is open: beside 64 of them 64 MB take two seconds each way."""


class _Part:
    """A result of which not all has come."""

    def __init__(self) -> None:
        self._written = BytesIO()
        self.digest = sha256()

    @property
    def size(self) -> int:
        return self._written.tell()

    def add(self, chunk: bytes) -> None:
        self._written.write(chunk)
        self.digest.update(chunk)

    def whole(self) -> bytes:
        return self._written.getvalue()  # what was written, not a copy


class TransferService(link_pb2_grpc.TransferServiceServicer):
    """What is too large for the stream."""

    def __init__(self, runtime: Runtime, edge: Edge) -> None:
        self._runtime = runtime
        self.edge = edge

    @streaming("TransferService/FetchInputs")
    async def FetchInputs(
        self, request: link_pb2.FetchInputsRequest, context: Context
    ) -> AsyncIterator[link_pb2.FetchInputsResponse]:
        self.edge.caller(context, Role.NODE)
        for item in request.items:
            (payload,) = await self._runtime.inputs.of_lease(token(request.token), [item])
            digest = sha256()  # a chunk at a time: over 64 MiB it takes long enough to hold up others
            for first in range(0, len(payload), CHUNK_BYTES):
                last, data = first + CHUNK_BYTES >= len(payload), payload[first : first + CHUNK_BYTES]
                digest.update(data)
                chunk = link_pb2.Chunk(item=item, data=data, last=last, sha256=digest.digest() if last else b"")
                yield link_pb2.FetchInputsResponse(chunk=chunk)
                if not last:
                    await self._let_others_go_first()

    @unary("TransferService/PutResults")
    async def PutResults(
        self, request_iterator: AsyncIterator[link_pb2.PutResultsRequest], context: Context
    ) -> link_pb2.PutResultsResponse:
        self.edge.caller(context, Role.NODE)
        parts: dict[tuple[Token, int], _Part] = {}
        async for request in sound(request_iterator):
            chunk, of = request.chunk, (token(request.token), request.chunk.item)
            part = parts.get(of) or parts.setdefault(of, _Part())
            part.add(chunk.data)
            if part.size > _MOST_RESULT_BYTES:
                raise refuse(f"the result of item {chunk.item} is over {_MOST_RESULT_BYTES} bytes, the limit")
            if not chunk.last:
                await self._let_others_go_first()
                continue
            if part.digest.digest() != chunk.sha256:
                raise refuse(f"the result of item {chunk.item} does not match its sha256; put it again")
            self._runtime.staging.put(*of, parts.pop(of).whole())
        if parts:
            raise refuse("a result was not complete when the call ended; put it again")
        return link_pb2.PutResultsResponse()

    async def _let_others_go_first(self) -> None:
        """Between two chunks: a large payload is in less of a hurry than many small ones."""
        if len(self._runtime.requests) > 1:
            await asyncio.sleep(min(_PAUSE_S * len(self._runtime.requests), _LONGEST_PAUSE_S))
