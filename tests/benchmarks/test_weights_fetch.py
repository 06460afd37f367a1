"""The benchmark of a killed fetch, end to end, with a model made here that nobody runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from node.models import ModelCache
from tests.benchmarks.running import measured, run, samples

LARGE_BYTES = 20_000_000


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with `large`, and `small`."""
    cache = ModelCache(tmp_path / "cache")
    for name, size in (("large", LARGE_BYTES), ("small", 10)):
        with cache.staged(name) as staging:
            (staging / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
            (staging / "model.safetensors").write_bytes(np.random.default_rng(1).bytes(size))
            cache.keep(name, staging, "made for a test")
    return cache.root


def test_what_was_there_is_not_sent_again(cache: Path, tmp_path: Path) -> None:
    document = measured(tmp_path, "weights-fetch", "--model", "large", CARPOOL_CACHE=str(cache))
    (held,), (sent,) = (
        samples(document, name)
        for name in ("on the disk when its fetch was killed", "sent by the coordinator after that")
    )
    assert 0.5 * LARGE_BYTES / 1e6 < held < 0.6 * LARGE_BYTES / 1e6
    assert held + sent == pytest.approx(LARGE_BYTES / 1e6, rel=0.01)
    assert samples(document, "sent by the coordinator to a neighbour")[0] < 0.1


def test_a_model_that_is_too_small_is_refused(cache: Path) -> None:
    ended = run("weights-fetch", "--model", "small", CARPOOL_CACHE=str(cache))
    assert (ended.returncode, "choose one of at least" in ended.stderr) == (2, True)
