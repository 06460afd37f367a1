"""What a lot is to lots of the same site: they get the files of models from it, before the wide network.

Served on loopback from the lot's cache, from before its own models are here until it ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from os import getpid
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from node.address import NeighbourAddress
from node.models import MANIFEST, ModelCache, ModelError
from node.weights import Site
from protos import weights_pb2, weights_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

CHUNK_BYTES = 1 << 20


class WeightsService(weights_pb2_grpc.WeightsServiceServicer):
    """The model cache of this lot, read only."""

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache

    async def FetchWeights(
        self, request: weights_pb2.FetchWeightsRequest, context: Context
    ) -> AsyncIterator[weights_pb2.FetchWeightsResponse]:
        place = await asyncio.to_thread(self._find, request.model, request.path, request.sha256.hex())
        if place is None:
            told = f"no file {request.path!r} of model {request.model!r} with that sha256 is here"
            await context.abort(grpc.StatusCode.NOT_FOUND, told)
            return
        with await asyncio.to_thread(place.open, "rb") as file:
            file.seek(min(request.offset, place.stat().st_size))
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield weights_pb2.FetchWeightsResponse(data=data)

    def _find(self, name: str, path: str, sha256: str) -> Path | None:
        try:
            model = self._cache.find(name)
        except ModelError:
            return None
        if model is None:
            return None
        known = path == MANIFEST or any((file.path, file.sha256) == (path, sha256) for file in model.files)
        place = model.directory / path
        return place if known and place.is_file() else None


@contextlib.asynccontextmanager
async def sharing(site: Site | None, cache: ModelCache) -> AsyncIterator[None]:
    """Inside, lots of that site find this one's cache."""
    if site is None:
        yield
        return
    server = grpc.aio.server(options=(("grpc.enable_http_proxy", 0), ("grpc.so_reuseport", 0)))
    weights_pb2_grpc.add_WeightsServiceServicer_to_server(WeightsService(cache), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        written = NeighbourAddress(site.lot_id, site.name, f"127.0.0.1:{port}", getpid()).write(site.run_dir)
        try:
            yield
        finally:
            written.unlink(missing_ok=True)
    finally:
        await server.stop(0.2)
