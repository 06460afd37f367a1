"""TransferService: large inputs, large results and model weights, in chunks beside the stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

from coordinator.core.events import Token
from coordinator.keys import Role
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, refuse, streaming, unary
from coordinator.wire import token
from protos import link_pb2, link_pb2_grpc

CHUNK_BYTES = 1 << 20
_MOST_RESULT_BYTES = 64 << 20


class TransferService(link_pb2_grpc.TransferServiceServicer):
    """What is too large for the stream. `cache` is the model cache of this machine."""

    def __init__(self, runtime: Runtime, edge: Edge, cache: Path) -> None:
        self._runtime = runtime
        self.edge = edge
        self._cache = cache

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

    @streaming("TransferService/FetchWeights")
    async def FetchWeights(
        self, request: link_pb2.FetchWeightsRequest, context: Context
    ) -> AsyncIterator[link_pb2.FetchWeightsResponse]:
        self.edge.caller(context, Role.NODE)
        folder = self._cache / "models" / request.model
        known = {path.parent.name for path in (self._cache / "models").glob("[!.]*/manifest.json")}
        if request.model not in known:
            raise Refused(
                Refusal.NOT_FOUND,
                f"model {request.model!r} is not in the coordinator's cache; add it with `carpool models add`",
            )
        manifest = json.loads(await asyncio.to_thread((folder / "manifest.json").read_bytes))
        for path in ("manifest.json", *(entry["path"] for entry in manifest["files"])):
            parts = _chunks(folder / path)
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                data, digest = part
                yield link_pb2.FetchWeightsResponse(path=path, data=data, last=bool(digest), sha256=digest)


def _chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """A file in chunks; the sha256 of all comes with the last one and is empty before."""
    digest = sha256()
    with path.open("rb") as file:
        data = file.read(CHUNK_BYTES)
        while data:
            digest.update(data)
            following = file.read(CHUNK_BYTES)
            yield data, b"" if following else digest.digest()
            data = following
