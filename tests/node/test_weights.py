"""Models that a machine lacks come from the coordinator's cache, whole and intact or not at all."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from coordinator.client import Client
from node.models import ModelCache, ModelError
from node.weights import fetch_missing
from tests.live import cluster, until

WITHIN_S = 60.0


def fetch(cache: ModelCache, coordinator: str, *models: str) -> None:
    """Bring these into the cache."""
    asyncio.run(asyncio.wait_for(fetch_missing(models, cache, coordinator, ()), WITHIN_S))


def folders(cache: ModelCache) -> list[str]:
    """What stands in the cache, without locks."""
    return [path.name for path in (cache.root / "models").iterdir() if path.is_dir()]


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


def test_a_model_that_nobody_has_is_named(
    small_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARPOOL_CACHE", str(small_cache.root))
    with cluster() as live, pytest.raises(ModelError, match="'nix' is not in the coordinator's cache"):
        fetch(ModelCache(tmp_path), live.coordinator.grpc, "nix")
    assert not folders(ModelCache(tmp_path))


def test_a_changed_file_and_a_path_that_leads_out_are_refused(
    small_cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = ModelCache(tmp_path / "theirs"), ModelCache(tmp_path / "ours")
    shutil.copytree(small_cache.root, theirs.root)
    weights = theirs.get("bert").weights()[0]
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    manifest = theirs.get("llama").directory / "manifest.json"
    told = json.loads(manifest.read_text())
    told["files"][0]["path"] = "../../../outside"
    manifest.write_text(json.dumps(told))
    (tmp_path / "outside").write_text("x")
    monkeypatch.setenv("CARPOOL_CACHE", str(theirs.root))
    with cluster() as live:
        with pytest.raises(ModelError, match="is not what the manifest of bert says"):
            fetch(ours, live.coordinator.grpc, "bert")
        with pytest.raises(ModelError, match="lie in its directory"):
            fetch(ours, live.coordinator.grpc, "llama")
    assert not folders(ours)
