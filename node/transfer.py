"""Inputs and results that are too large for the stream: chunked, hash-checked calls beside it.

The channel lives as long as the lot and finds its own way back to a coordinator that restarts; a call that
the outage broke is made again.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from node import wire
from node.messages import Token
from node.uplink import Metadata
from protos import link_pb2, link_pb2_grpc

CHUNK_BYTES = 1024 * 1024
CONCURRENT = 4
"""Transfers at a time (assumed: a car's link is slow, and the stream's heartbeat shares it)."""
RETRY_S = 0.2
"""Between two tries of a transfer that broke (assumed)."""


class TransferFailed(Exception):
    """The coordinator does not want this transfer, or sent something else than it promised."""


class Transfers:
    """Large payloads of one lot."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self._stub: link_pb2_grpc.TransferServiceAsyncStub = link_pb2_grpc.TransferServiceStub(channel)
        self._metadata = metadata
        self._room = asyncio.Semaphore(CONCURRENT)

    async def fetch(self, token: Token, items: Sequence[int]) -> dict[int, bytes]:
        """The inputs of these items; raises TransferFailed."""
        request = link_pb2.FetchInputsRequest(token=wire.token_message(token), items=items)
        while True:
            try:
                async with self._room:
                    inputs = await self._fetch(request)
            except grpc.aio.AioRpcError as error:
                await _again_after(error)
                continue
            if inputs.keys() != set(items):
                raise TransferFailed(f"asked for {len(items)} inputs of {token}, was sent {len(inputs)}")
            return inputs

    async def put(self, token: Token, item: int, payload: bytes) -> None:
        """Bring this result to the coordinator; raises TransferFailed."""
        while True:
            try:
                async with self._room:
                    requests = _chunks(token, item, payload)
                    await self._stub.PutResults(requests, metadata=self._metadata, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                await _again_after(error)
                continue
            return

    async def _fetch(self, request: link_pb2.FetchInputsRequest) -> dict[int, bytes]:
        inputs: dict[int, bytes] = {}
        parts: dict[int, list[bytes]] = {}
        digests: dict[int, Any] = {}  # a chunk at a time: over 64 MiB it takes long enough to hold up others
        async for response in self._stub.FetchInputs(request, metadata=self._metadata, wait_for_ready=True):
            chunk = response.chunk
            parts.setdefault(chunk.item, []).append(chunk.data)
            digests.setdefault(chunk.item, hashlib.sha256()).update(chunk.data)
            if chunk.last:
                payload = b"".join(parts.pop(chunk.item))
                if digests.pop(chunk.item).digest() != chunk.sha256:
                    raise TransferFailed(f"input {chunk.item} arrived with another sha256 than it was sent with")
                inputs[chunk.item] = payload
        return inputs


def _chunks(token: Token, item: int, payload: bytes) -> Iterator[link_pb2.PutResultsRequest]:
    named, digest = wire.token_message(token), hashlib.sha256()
    for start in range(0, max(len(payload), 1), CHUNK_BYTES):
        last, data = start + CHUNK_BYTES >= len(payload), payload[start : start + CHUNK_BYTES]
        digest.update(data)
        chunk = link_pb2.Chunk(item=item, data=data, last=last, sha256=digest.digest() if last else b"")
        yield link_pb2.PutResultsRequest(token=named, chunk=chunk)


async def _again_after(error: grpc.aio.AioRpcError) -> None:
    """Return after a while when the call is worth another try; raises TransferFailed when it is not."""
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        raise TransferFailed(error.details() or error.code().name) from None
    await asyncio.sleep(RETRY_S)
