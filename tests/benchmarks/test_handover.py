"""The hand-over benchmark, end to end, on a small model under the name of the real one."""

from pathlib import Path

from node import conversion
from node.models import ModelCache
from tests.benchmarks.running import measured, samples
from tests.node.small_models import make_llama


def test_what_a_caller_waits_for_when_a_car_is_lost_is_measured(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    (tmp_path / "llama").mkdir()
    make_llama(tmp_path / "llama", context=2_048)
    conversion.add(cache, str(tmp_path / "llama"), "smollm2")
    few = ("--tokens", 400, "--unplugs", 2, "--kills", 1, "--stalls", 1)
    document = measured(tmp_path, "handover", *few, CARPOOL_CACHE=str(cache.root))
    assert document["settings"]["lost_at"] == 24
    assert len(samples(document, "unplugged: no token for")) == 2
    assert min(samples(document, "tokens that the other car read again")) > 24, (
        "the question, and what was said of it"
    )
    (killed_ms,) = samples(document, "killed: no token for")
    assert killed_ms > 500, "a link that broke has so long to come back"
    (stopped_ms,) = samples(document, "stopped before it spoke: first token")
    assert stopped_ms < 12_000, "silence would have been noticed only then"
