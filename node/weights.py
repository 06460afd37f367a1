"""Models that a lot is told to offer and this machine lacks: fetched into its cache, file by file.

The manifest comes from the coordinator, and names every file by its sha256. The files come from lots of the same
site that have them, and what none of those has from the coordinator. What is here stays here when a connection
or this process breaks, and the fetch goes on from that byte; a model is put into place when all of it is intact.
Of the lots of one machine, and of one site, the first fetches and the others wait for it.
"""

import asyncio
import contextlib
import fcntl
import io
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import grpc

from node.address import NeighbourAddress, neighbours
from node.models import MANIFEST, NOOP, CachedFile, ModelCache, ModelError, sha256_of, unwritable
from node.uplink import CHANNEL_OPTIONS, Metadata
from protos import weights_pb2, weights_pb2_grpc

logger = logging.getLogger(__name__)

RETRY_S = 0.5
"""Between two tries of a download that broke, or whose turn has not come (assumed)."""
STALLED_S = 20.0
"""A download of which nothing came for so long is taken for broken (assumed)."""
MANIFEST_BYTES = 1 << 24
"""No manifest is longer (assumed)."""

Call = grpc.aio.UnaryStreamCall[weights_pb2.FetchWeightsRequest, weights_pb2.FetchWeightsResponse]

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a lot looks for neighbours: those of its cluster that stand at the same site."""

    run_dir: Path
    name: str
    lot_id: str

    def neighbours(self) -> Sequence[NeighbourAddress]:
        """Lots there that have something to share, but for this one."""
        return [one for one in neighbours(self.run_dir) if one.site == self.name and one.lot_id != self.lot_id]

    def lock(self, model: str) -> Path:
        """Whoever holds it fetches this model for the site."""
        folder = self.run_dir / "weights"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{quote(self.name, safe='')}.{model}.lock"


@dataclass(slots=True)
class Fetched:
    """Where a model's bytes came from."""

    model: str
    bytes: int
    held: int = 0  # intact here before
    from_neighbours: int = 0  # received, as the next
    from_coordinator: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = (
            (self.held, "of them here before"),
            (self.from_neighbours, "from neighbours"),
            (self.from_coordinator, "from the coordinator"),
        )
        told = "".join(f", {count:,} {where}" for count, where in parts if count)
        return f"model {self.model} is here: {self.bytes:,} bytes{told}, in {self.seconds:.2f} s"


async def fetch_missing(
    models: Sequence[str], cache: ModelCache, coordinator: str, metadata: Metadata, site: Site | None = None
) -> Sequence[Fetched]:
    """Bring every named model into the cache; what was fetched. A coordinator that is away is waited for once
    something of the model is here. Raises ModelError when a model cannot be had."""
    missing = [name for name in models if name != NOOP and cache.find(name) is None]
    found = []
    for name in missing:
        async with contextlib.AsyncExitStack() as turns:
            await turns.enter_async_context(_turn(cache.lock(name)))
            if site is not None and cache.find(name) is None:
                await turns.enter_async_context(_turn(site.lock(name)))
            if cache.find(name) is None:
                async with grpc.aio.insecure_channel(coordinator, CHANNEL_OPTIONS) as channel:
                    found.append(await _Fetch(name, cache, coordinator, channel, metadata, site).run())
                logger.warning("%s", found[-1])
    return found


class _Changed(Exception):
    """The coordinator has no such file: of another model by now, or none at all."""


class _Fetch:
    """One model on its way into the cache."""

    def __init__(
        self,
        name: str,
        cache: ModelCache,
        coordinator: str,
        channel: grpc.aio.Channel,
        metadata: Metadata,
        site: Site | None,
    ) -> None:
        self._name, self._cache, self._coordinator, self._site = name, cache, coordinator, site
        self._stub: weights_pb2_grpc.WeightsServiceAsyncStub = weights_pb2_grpc.WeightsServiceStub(channel)
        self._metadata = metadata
        self._away = False  # as last seen, the coordinator
        self._told = Fetched(name, 0)

    async def run(self) -> Fetched:
        """Return when the model is in place."""
        try:
            return await self._run()
        except OSError as error:
            raise unwritable(self._cache.root, error) from None

    async def _run(self) -> Fetched:
        began_s = time.monotonic()
        logger.warning("fetching model %s, as the coordinator at %s has it", self._name, self._coordinator)
        digest = ""
        while True:
            model = await asyncio.to_thread(self._cache.begin, self._name, await self._manifest())
            self._told = Fetched(self._name, model.bytes)
            try:
                for file in model.files:
                    await self._bring(model.directory / file.path, file)
                break
            except _Changed as trouble:
                if model.digest == digest:
                    raise ModelError(str(trouble)) from None
                digest = model.digest
        await asyncio.to_thread(self._cache.adopt, self._name, model.directory)
        self._told.seconds = time.monotonic() - began_s
        return self._told

    async def _manifest(self) -> bytes:
        while not await self._from_coordinator(MANIFEST, b"", manifest := io.BytesIO(), MANIFEST_BYTES):
            pass
        return manifest.getvalue()

    async def _bring(self, place: Path, file: CachedFile) -> None:
        """Fetch what is lacking of a file, and compare it. What does not fit the manifest is fetched anew, from the
        coordinator; raises ModelError when that does not fit either."""
        place.parent.mkdir(parents=True, exist_ok=True)
        for near in (True, False):
            with place.open("ab") as partial:  # what arrived outlives this process
                if partial.tell() > file.bytes:
                    partial.truncate(0)
                    partial.seek(0)
                held = partial.tell()
                await self._gather(partial, file, near)
                await asyncio.to_thread(os.fsync, partial.fileno())
            if await asyncio.to_thread(sha256_of, place) == file.sha256:
                self._told.held += held
                return
            logger.warning("%s of %s is not what the manifest says; fetching it anew", file.path, self._name)
            await asyncio.to_thread(place.unlink)
        raise ModelError(
            f"{file.path} as the coordinator at {self._coordinator} sends it is not what the manifest of "
            f"{self._name} says; add the model there again with `carpool models add`"
        )

    async def _gather(self, partial: BinaryIO, file: CachedFile, near: bool) -> None:
        """Bring a file to its length, from neighbours first if `near`; shorter only if the coordinator's is."""
        digest, ended = bytes.fromhex(file.sha256), False
        while partial.tell() < file.bytes and not ended:
            begun = partial.tell()
            for neighbour in self._site.neighbours() if near and self._site is not None else ():
                if partial.tell() < file.bytes:
                    await self._from_neighbour(neighbour, file, digest, partial)
            self._told.from_neighbours += partial.tell() - begun
            if (begun := partial.tell()) < file.bytes:
                ended = await self._from_coordinator(file.path, digest, partial, file.bytes)
                self._told.from_coordinator += partial.tell() - begun

    async def _from_neighbour(
        self, neighbour: NeighbourAddress, file: CachedFile, digest: bytes, partial: BinaryIO
    ) -> None:
        """As much as it sends of what is lacking."""
        begun = partial.tell()
        request = weights_pb2.FetchWeightsRequest(model=self._name, path=file.path, offset=begun, sha256=digest)
        async with grpc.aio.insecure_channel(neighbour.weights, CHANNEL_OPTIONS) as channel:
            stub: weights_pb2_grpc.WeightsServiceAsyncStub = weights_pb2_grpc.WeightsServiceStub(channel)
            try:
                await _receive(stub.FetchWeights(request), partial, file.bytes)
            except (grpc.aio.AioRpcError, TimeoutError):
                if partial.tell() > begun:
                    logger.warning("lot %s went away at byte %d of it", neighbour.lot_id, partial.tell())

    async def _from_coordinator(self, path: str, digest: bytes, partial: BinaryIO, until: int) -> bool:
        """Whether a file was sent to its end; False, after a while, when the connection broke. Raises _Changed."""
        request = weights_pb2.FetchWeightsRequest(model=self._name, path=path, offset=partial.tell(), sha256=digest)
        try:
            await _receive(self._stub.FetchWeights(request, metadata=self._metadata), partial, until)
            self._away = False
            return True
        except TimeoutError:
            why = f"nothing came for {STALLED_S:g} s"
        except grpc.aio.AioRpcError as error:
            why = error.details() or error.code().name
            if error.code() is grpc.StatusCode.NOT_FOUND and path != MANIFEST:
                raise _Changed(why) from None
            if error.code() not in _BROKEN or not self._cache.begun(self._name):
                raise ModelError(
                    f"no model {self._name!r} in {self._cache.root}, and none from the coordinator at "
                    f"{self._coordinator}: {why}"
                ) from None
        if not self._away:
            logger.warning("no model %s from the coordinator (%s); trying again", self._name, why)
        self._away = True
        await asyncio.sleep(RETRY_S)
        return False


async def _receive(call: Call, partial: BinaryIO, until: int) -> None:
    """Append what a call sends until the file has so many bytes. Raises AioRpcError and TimeoutError."""
    try:
        while (room := until - partial.tell()) > 0:
            async with asyncio.timeout(STALLED_S):
                part = await call.read()
            if not isinstance(part, weights_pb2.FetchWeightsResponse):
                return
            await asyncio.to_thread(_append, partial, part.data[:room])
    finally:
        call.cancel()


def _append(partial: BinaryIO, data: bytes) -> None:
    partial.write(data)
    partial.flush()


@contextlib.asynccontextmanager
async def _turn(lock: Path) -> AsyncIterator[None]:
    """Hold a lock of this machine; the kernel frees it when the process ends."""
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
