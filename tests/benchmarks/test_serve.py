"""The benchmark of one executor, end to end, on a small model under the name of a real one."""

from pathlib import Path

from node import conversion
from node.models import ModelCache
from tests.benchmarks.running import measured, samples
from tests.node.small_models import make_llama


def test_answers_are_measured_beside_those_of_transformers(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    (tmp_path / "smollm2").mkdir()
    make_llama(tmp_path / "smollm2")
    config = tmp_path / "smollm2" / "config.json"  # room for the benchmark's prompts, a token for each letter
    config.write_text(
        config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 4096')
    )
    conversion.add(cache, str(tmp_path / "smollm2"), "smollm2")
    document = measured(
        tmp_path,
        "serve",
        "--repeats",
        1,
        "--requests",
        1,
        3,
        "--no-encoder",
        "--threads",
        1,
        CARPOOL_CACHE=str(cache.root),
    )
    assert samples(document, "3 requests: continuous")[0] > 0
    assert samples(document, "3 requests: ours by theirs")[0] > 0
    assert any("3 requests: " in note and "rows in a step" in note for note in document["notes"])
