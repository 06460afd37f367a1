"""WeightsService: the files of the models in this machine's cache, for lots that lack them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from coordinator.keys import Role
from coordinator.refusal import Refusal, Refused
from coordinator.services.edge import Context, Edge, streaming
from protos import weights_pb2, weights_pb2_grpc

CHUNK_BYTES = 1 << 20
_MANIFEST = "manifest.json"


class WeightsService(weights_pb2_grpc.WeightsServiceServicer):
    """The model cache under one directory, read only."""

    def __init__(self, edge: Edge, cache: Path) -> None:
        self.edge = edge
        self._models = cache / "models"

    @streaming("WeightsService/FetchWeights")
    async def FetchWeights(
        self, request: weights_pb2.FetchWeightsRequest, context: Context
    ) -> AsyncIterator[weights_pb2.FetchWeightsResponse]:
        self.edge.caller(context, Role.NODE)
        place = await asyncio.to_thread(self._find, request.model, request.path, request.sha256.hex())
        with await asyncio.to_thread(place.open, "rb") as file:
            file.seek(min(request.offset, place.stat().st_size))
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield weights_pb2.FetchWeightsResponse(data=data)

    def _find(self, model: str, path: str, sha256: str) -> Path:
        """Where that file is; Refused when it is not here, or is another."""
        manifests = {found.parent.name: found for found in self._models.glob(f"[!.]*/{_MANIFEST}")}
        if model not in manifests:
            raise Refused(
                Refusal.NOT_FOUND,
                f"model {model!r} is not in the coordinator's cache; add it with `carpool models add`",
            )
        manifest = manifests[model]
        if path == _MANIFEST:
            return manifest
        files = json.loads(manifest.read_bytes())["files"]
        place = manifest.parent / path
        if not any((file["path"], file["sha256"]) == (path, sha256) for file in files) or not place.is_file():
            raise Refused(
                Refusal.NOT_FOUND, f"the coordinator's model {model!r} has no file {path!r} of the sha256 {sha256}"
            )
        return place
