"""The benchmark of answers that are gone on with, end to end, and its judgement."""

from pathlib import Path

from benchmarks.seams import Answer, Place, differing
from node import conversion
from node.models import ModelCache
from tests.benchmarks.running import measured, samples
from tests.node.small_models import make_llama


def test_answers_that_are_gone_on_with_are_those_that_nobody_interrupted(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    make_llama(tmp_path / "llama")
    cache = ModelCache(tmp_path / "cache")
    conversion.add(cache, str(tmp_path / "llama"))
    few = ("--model", "llama", "--answers", 12, "--tokens", 20)
    document = measured(tmp_path, "seams", *few, CARPOOL_CACHE=str(cache.root))
    assert samples(document, "fp32: not the same when gone on with") == [0.0]
    assert 0.0 <= samples(document, "bf16: not the same when gone on with")[0] <= 100.0


def test_where_answers_part_is_found_also_at_the_end_of_one() -> None:
    alone = [Answer([5, 6, 7], [1.0, 0.0005, 2.0]), Answer([8, 9], [1.0, 0.5, 0.25])]
    assert not differing(alone, alone)
    others = [Answer([5, 4, 7], []), Answer([8, 9, 3], [])]
    assert differing(alone, others) == [Place(0, 1, 0.0005), Place(1, 2, 0.25)]
