"""The benchmark of requests beside batch jobs, end to end, on small models under the names of real ones."""

from pathlib import Path

from node import conversion
from node.models import ModelCache
from tests.benchmarks.running import measured, samples
from tests.node.small_models import make_bert, make_llama


def test_what_people_wait_for_while_a_job_fills_the_fleet_is_measured_beside_an_idle_one(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    for name, make in (("smollm2", lambda folder: make_llama(folder, context=4_096)), ("minilm", make_bert)):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
        conversion.add(cache, str(tmp_path / name), name)
    few = ("--requests", 3, "--rounds", 1, "--pause", 0.01)
    document = measured(tmp_path, "interactive", *few, CARPOOL_CACHE=str(cache.root))
    for state in ("idle", "filled with smollm2", "filled with minilm"):
        assert len(samples(document, f"{state}: first token")) == 3
        assert len(samples(document, f"{state}: sentence")) == 3
    (ratio,) = samples(document, "filled with smollm2: first token, p99 by idle")
    (full,) = samples(document, "filled with smollm2: first token, p99")
    (idle,) = samples(document, "idle: first token, p99")
    assert ratio == full / idle
