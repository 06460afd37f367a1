"""TransferService: large inputs and large results, in chunks beside the stream."""

from collections.abc import AsyncIterator
from hashlib import sha256

from coordinator.core.events import Token
from coordinator.keys import Role
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, refuse, streaming, unary
from coordinator.wire import token
from protos import link_pb2, link_pb2_grpc

CHUNK_BYTES = 1 << 20
_MOST_RESULT_BYTES = 64 << 20


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
            (payload,) = await self._runtime.inputs(token(request.token), [item])
            digest = sha256(payload).digest()
            for first in range(0, len(payload), CHUNK_BYTES):
                last = first + CHUNK_BYTES >= len(payload)
                chunk = link_pb2.Chunk(
                    item=item,
                    data=payload[first : first + CHUNK_BYTES],
                    last=last,
                    sha256=digest if last else b"",
                )
                yield link_pb2.FetchInputsResponse(chunk=chunk)

    @unary("TransferService/PutResults")
    async def PutResults(
        self, request_iterator: AsyncIterator[link_pb2.PutResultsRequest], context: Context
    ) -> link_pb2.PutResultsResponse:
        self.edge.caller(context, Role.NODE)
        parts: dict[tuple[Token, int], bytearray] = {}
        async for request in request_iterator:
            chunk, of = request.chunk, (token(request.token), request.chunk.item)
            part = parts.setdefault(of, bytearray())
            part += chunk.data
            if len(part) > _MOST_RESULT_BYTES:
                raise refuse(f"the result of item {chunk.item} is over {_MOST_RESULT_BYTES} bytes, the limit")
            if chunk.last:
                if sha256(part).digest() != chunk.sha256:
                    raise refuse(f"the result of item {chunk.item} does not match its sha256; put it again")
                self._runtime.staging.put(*of, bytes(parts.pop(of)))
        if parts:
            raise refuse("a result was not complete when the call ended; put it again")
        return link_pb2.PutResultsResponse()
