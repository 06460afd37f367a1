"""Models that a lot is told to offer and this machine lacks: fetched from the coordinator's cache into its own.

The manifest comes first and names every file by its sha256; nothing is put into place before all of it is here
and intact. Of the lots of one machine the first fetches, the others wait for it.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path, PurePosixPath

import grpc

from node.models import NOOP, ModelCache, ModelError
from node.uplink import CHANNEL_OPTIONS, Metadata
from protos import link_pb2, link_pb2_grpc

logger = logging.getLogger(__name__)

RETRY_S = 0.5
"""Between two tries of a download that broke, or whose turn has not come (assumed)."""


async def fetch_missing(models: Sequence[str], cache: ModelCache, coordinator: str, metadata: Metadata) -> None:
    """Bring every named model into the cache. Raises ModelError when one cannot be had."""
    missing = [name for name in models if name != NOOP and cache.find(name) is None]
    if not missing:
        return
    async with grpc.aio.insecure_channel(coordinator, CHANNEL_OPTIONS) as channel:
        stub: link_pb2_grpc.TransferServiceAsyncStub = link_pb2_grpc.TransferServiceStub(channel)
        for name in missing:
            async with _turn(cache, name):
                while cache.find(name) is None:
                    logger.warning("fetching model %s from the coordinator at %s", name, coordinator)
                    call = stub.FetchWeights(link_pb2.FetchWeightsRequest(model=name), metadata=metadata)
                    if not await _fetch(call, name, cache, coordinator):
                        await asyncio.sleep(RETRY_S)


async def _fetch(
    call: AsyncIterable[link_pb2.FetchWeightsResponse], name: str, cache: ModelCache, coordinator: str
) -> bool:
    """Download one model; False when the connection broke on the way."""
    with cache.staged(name) as staging, contextlib.ExitStack() as files:
        file, path = None, ""
        try:
            async for part in call:
                if file is None:
                    path = part.path
                    file = files.enter_context(_place(staging, path).open("xb"))
                elif part.path != path:
                    raise ModelError(f"the coordinator began {part.path!r} of {name} before {path!r} was complete")
                file.write(part.data)
                if part.last:
                    file.close()
                    file = None
        except grpc.aio.AioRpcError as error:
            if path and error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise ModelError(
                f"no model {name!r} in {cache.root}, and none from the coordinator at {coordinator}: "
                f"{error.details()}"
            ) from None
        await asyncio.to_thread(cache.adopt, name, staging)
    return True


def _place(staging: Path, path: str) -> Path:
    """Where a file goes; nothing that a coordinator says leads out of the model's directory."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ModelError(f"the coordinator sent a file named {path!r}; a model's files lie in its directory")
    place = staging.joinpath(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@contextlib.asynccontextmanager
async def _turn(cache: ModelCache, name: str) -> AsyncIterator[None]:
    """Hold this machine's lock on the download of a model; the kernel frees it when the process ends."""
    with cache.staged(name) as staging:
        lock = staging.parent / f".{name}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(RETRY_S)
        yield
    finally:
        os.close(descriptor)
