"""Models that a machine lacks come whole and intact or not at all, and no byte of them twice."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks.relay import Relay
from coordinator.client import Client
from node.address import NeighbourAddress
from node.models import ModelCache, ModelError, _digest
from node.neighbour import WeightsService, sharing
from node.weights import Fetched, Site, fetch_missing
from protos import weights_pb2, weights_pb2_grpc
from tests.live import Cluster, cluster, until

WITHIN_S = 60.0
LARGE_BYTES = 40_000_000
OVERHEAD_BYTES = 100_000
"""What gRPC adds to such a file, and to all else that is said, at the most."""
MEBIBYTE = 1 << 20


@pytest.fixture(scope="session")
def large_cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    """A cache with a model that is too large to be fetched at once. Nobody runs it."""
    cache = ModelCache(tmp_path_factory.mktemp("large"))
    with cache.staged("large") as staging:
        (staging / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
        (staging / "model.safetensors").write_bytes(np.random.default_rng(1).bytes(LARGE_BYTES))
        cache.keep("large", staging, "made for a test")
    return cache


def fetch(cache: ModelCache, coordinator: str, *models: str) -> Sequence[Fetched]:
    """Bring these into the cache."""
    return asyncio.run(fetched(cache, coordinator, *models))


async def fetched(cache: ModelCache, coordinator: str, *models: str, site: Site | None = None) -> Sequence[Fetched]:
    return await asyncio.wait_for(fetch_missing(models, cache, coordinator, (), site), WITHIN_S)


def fetcher(cache: ModelCache, coordinator: str) -> "subprocess.Popen[bytes]":
    """A process that fetches `large`."""
    code = (
        "import asyncio, pathlib, sys; from node.models import ModelCache; from node.weights import fetch_missing; "
        "asyncio.run(fetch_missing(['large'], ModelCache(pathlib.Path(sys.argv[1])), sys.argv[2], ()))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(cache.root), coordinator])


def folders(cache: ModelCache) -> list[str]:
    """What stands in the cache, without locks."""
    return [path.name for path in (cache.root / "models").iterdir() if path.is_dir()]


def partial(cache: ModelCache) -> Path:
    """Where the large file gathers."""
    return cache.root / "models" / ".large.part" / "model.safetensors"


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_two_lots_of_an_empty_machine_serve_a_model_that_the_coordinator_has(
    small_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(target: str) -> bytes:
        async with Client(target) as client:

            async def served() -> bool | None:
                return True if any(model.nodes == 2 for model in await client.models()) else None

            await until(served, WITHIN_S)
            answer = (await client.run("bert", [b"a car is parked"]))[0]
            assert isinstance(answer, bytes)
            return answer

    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    with cluster() as live:
        monkeypatch.setenv("CARPOOL_CACHE", str(tmp_path))
        for number in range(2):
            live.add(f"lot-{number}", "--models", "bert", first_index=number)
        assert asyncio.run(scene(live.coordinator.grpc))
    here = ModelCache(tmp_path)
    here.get("bert").verify()
    assert here.get("bert").digest == small_cache.get("bert").digest
    assert folders(here) == ["bert"]


def test_a_fetch_killed_at_60_percent_goes_on_from_there(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ModelCache(tmp_path)

    async def scene(target: str) -> None:
        async with Relay(target, limit_bytes=0.6 * LARGE_BYTES) as relay:
            killed = fetcher(ours, relay.target)
            try:

                async def arrived() -> int | None:
                    here = size(partial(ours))
                    return here if here >= 0.6 * LARGE_BYTES - OVERHEAD_BYTES - MEBIBYTE else None

                here = await until(arrived, WITHIN_S)
            finally:
                killed.send_signal(signal.SIGKILL)
                killed.wait()
            assert ours.find("large") is None, "nothing is put into place before all of it is here"
            relay.renew()
            again = fetcher(ours, relay.target)
            assert await asyncio.to_thread(again.wait, WITHIN_S) == 0
            lacking = LARGE_BYTES - here
            print(f"killed with {here:,} of {LARGE_BYTES:,} bytes; {relay.passed_bytes:,} were sent after that")
            assert lacking <= relay.passed_bytes <= lacking + OVERHEAD_BYTES
        ours.get("large").verify()
        assert folders(ours) == ["large"]

    monkeypatch.setenv("CARPOOL_CACHE", str(large_cache.root))
    with cluster() as live:
        asyncio.run(scene(live.coordinator.grpc))


def test_a_coordinator_that_is_killed_is_waited_for_and_sends_only_the_rest(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ModelCache(tmp_path)

    async def scene(killed: Cluster, another: Cluster) -> None:
        limit_bytes = 0.6 * LARGE_BYTES
        async with Relay(killed.coordinator.grpc, limit_bytes) as relay, asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(fetched(ours, relay.target, "large"))

            async def arrived() -> bool | None:
                return True if size(partial(ours)) > 0.5 * LARGE_BYTES else None

            await until(arrived, WITHIN_S)
            killed.coordinator.process.kill()
            relay.server = another.coordinator.grpc
            relay.renew()
            (told,) = await fetching
            assert relay.passed_bytes < 0.5 * LARGE_BYTES
            assert (told.held, told.from_coordinator) == (0, ours.get("large").bytes)

    monkeypatch.setenv("CARPOOL_CACHE", str(large_cache.root))
    with cluster() as killed, cluster() as another:
        asyncio.run(scene(killed, another))


class Halting(weights_pb2_grpc.WeightsServiceServicer):
    """A neighbour that goes away after half of a file."""

    def __init__(self, cache: ModelCache, after_bytes: int) -> None:
        self._service, self._left = WeightsService(cache), after_bytes

    async def FetchWeights(
        self, request: weights_pb2.FetchWeightsRequest, context: Any
    ) -> AsyncIterator[weights_pb2.FetchWeightsResponse]:
        async for part in self._service.FetchWeights(request, context):
            self._left -= len(part.data)
            if self._left < 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "it drove away")
            yield part


@asynccontextmanager
async def halting(cache: ModelCache, site: Site, after_bytes: int) -> AsyncIterator[None]:
    server = grpc.aio.server()
    weights_pb2_grpc.add_WeightsServiceServicer_to_server(Halting(cache, after_bytes), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    NeighbourAddress(site.lot_id, site.name, f"127.0.0.1:{port}", 0).write(site.run_dir)
    try:
        yield
    finally:
        await server.stop(0)


def test_a_neighbour_of_the_same_site_sends_all_but_the_manifest(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(target: str) -> None:
        async with Relay(target) as relay, sharing(Site(tmp_path, "here", "lot-0"), large_cache):
            near = ModelCache(tmp_path / "near")
            (told,) = await fetched(near, relay.target, "large", site=Site(tmp_path, "here", "lot-1"))
            assert (told.from_neighbours, told.from_coordinator) == (told.bytes, 0)
            assert relay.passed_bytes < OVERHEAD_BYTES
            near.get("large").verify()
            far = ModelCache(tmp_path / "far")
            (told,) = await fetched(far, relay.target, "large", site=Site(tmp_path, "elsewhere", "lot-2"))
            assert (told.from_neighbours, told.from_coordinator) == (0, told.bytes)

    monkeypatch.setenv("CARPOOL_CACHE", str(large_cache.root))
    with cluster() as live:
        asyncio.run(scene(live.coordinator.grpc))


def test_a_neighbour_that_goes_away_leaves_the_rest_to_another_and_then_to_the_coordinator(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, half, quarter = ModelCache(tmp_path / "ours"), LARGE_BYTES // 2, LARGE_BYTES // 4

    async def scene(target: str) -> None:
        async with (
            Relay(target) as relay,
            halting(large_cache, Site(tmp_path, "here", "lot-0"), half),
            halting(large_cache, Site(tmp_path, "here", "lot-1"), quarter),
        ):
            (told,) = await fetched(ours, relay.target, "large", site=Site(tmp_path, "here", "lot-2"))
            assert 0.7 * LARGE_BYTES < told.from_neighbours < 0.8 * LARGE_BYTES
            assert told.from_neighbours + told.from_coordinator == told.bytes
            assert relay.passed_bytes <= told.from_coordinator + OVERHEAD_BYTES

    monkeypatch.setenv("CARPOOL_CACHE", str(large_cache.root))
    with cluster() as live:
        asyncio.run(scene(live.coordinator.grpc))
    ours.get("large").verify()


def test_lots_of_one_site_that_start_together_fetch_once_over_the_wide_network(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lot(relay: Relay, number: int) -> Fetched:
        cache, site = ModelCache(tmp_path / f"cache-{number}"), Site(tmp_path, "a site/", f"lot-{number}")
        async with sharing(site, cache):
            (told,) = await fetched(cache, relay.target, "large", site=site)
            ready[number].set()
            for other in ready:
                await other.wait()
        return told

    ready = [asyncio.Event() for _ in range(3)]

    async def scene(target: str) -> None:
        async with Relay(target) as relay:
            told = await asyncio.gather(*(lot(relay, number) for number in range(3)))
            assert sorted(one.from_coordinator > 0 for one in told) == [False, False, True]
            assert relay.passed_bytes < LARGE_BYTES + OVERHEAD_BYTES

    monkeypatch.setenv("CARPOOL_CACHE", str(large_cache.root))
    with cluster() as live:
        asyncio.run(scene(live.coordinator.grpc))


def test_what_was_damaged_on_the_way_is_fetched_anew_from_the_coordinator(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are not the file's: on this disk since the last try, and from a neighbour."""
    monkeypatch.setenv("CARPOOL_CACHE", str(large_cache.root))
    whole = large_cache.get("large")
    on_disk, lied_to = ModelCache(tmp_path / "disk"), ModelCache(tmp_path / "lied to")
    on_disk.begin("large", (whole.directory / "manifest.json").read_bytes())
    partial(on_disk).write_bytes(bytes(10 * MEBIBYTE))
    liar = ModelCache(tmp_path / "liar")
    shutil.copytree(large_cache.root, liar.root)
    with liar.get("large").weights()[0].open("r+b") as file:
        file.write(b"\0" * 1000)

    async def scene(target: str) -> None:
        async with sharing(Site(tmp_path, "here", "lot-0"), liar):
            (told,) = await fetched(lied_to, target, "large", site=Site(tmp_path, "here", "lot-1"))
            assert told.from_coordinator == LARGE_BYTES
            (told,) = await fetched(on_disk, target, "large")
            assert told.held == 0

    with cluster() as live:
        asyncio.run(scene(live.coordinator.grpc))
    for cache in (on_disk, lied_to):
        cache.get("large").verify()


def test_a_model_that_changed_meanwhile_begins_anew(
    large_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is here of the one before is of no use, though it is longer than the new one."""
    ours, theirs = ModelCache(tmp_path / "ours"), ModelCache(tmp_path / "theirs")
    ours.begin("large", (large_cache.get("large").directory / "manifest.json").read_bytes())
    partial(ours).write_bytes(bytes(MEBIBYTE))
    with theirs.staged("large") as staging:
        (staging / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
        (staging / "model.safetensors").write_bytes(b"another")
        theirs.keep("large", staging, "made for a test")
    monkeypatch.setenv("CARPOOL_CACHE", str(theirs.root))
    with cluster() as live:
        (told,) = fetch(ours, live.coordinator.grpc, "large")
    assert (told.held, ours.get("large").digest) == (0, theirs.get("large").digest)


def test_a_model_that_nobody_has_is_named(
    small_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    with cluster() as live, pytest.raises(ModelError, match="'nix' is not in the coordinator's cache"):
        fetch(ModelCache(tmp_path), live.coordinator.grpc, "nix")
    assert not folders(ModelCache(tmp_path))


def test_a_changed_file_a_missing_one_and_a_path_that_leads_out_are_refused(
    small_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = ModelCache(tmp_path / "theirs"), ModelCache(tmp_path / "ours")
    shutil.copytree(small_cache.root, theirs.root)
    weights = theirs.get("bert").weights()[0]
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    theirs.get("efficientnet").weights()[0].unlink()
    manifest = theirs.get("llama").directory / "manifest.json"
    told = json.loads(manifest.read_text())
    told["files"][0]["path"] = "../../../outside"
    told["digest"] = _digest(told)
    manifest.write_text(json.dumps(told))
    (tmp_path / "outside").write_text("x")
    monkeypatch.setenv("CARPOOL_CACHE", str(theirs.root))
    with cluster() as live:
        with pytest.raises(ModelError, match="is not what the manifest of bert says"):
            fetch(ours, live.coordinator.grpc, "bert")
        with pytest.raises(ModelError, match=r"has no file 'model\.safetensors'"):
            fetch(ours, live.coordinator.grpc, "efficientnet")
        with pytest.raises(ModelError, match="lie in its directory"):
            fetch(ours, live.coordinator.grpc, "llama")
    assert not ours.models()
    assert not (tmp_path / "ours" / "outside").exists()
