"""Requests that come in bursts: their shape, who waits for whom, and the benchmark end to end on a small model."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.arrivals import drawn, recorded
from benchmarks.figures import BenchmarkFailed
from benchmarks.traffic import Heard, one_by_one
from node import conversion
from node.models import ModelCache
from tests.benchmarks.running import measured, samples
from tests.node.small_models import make_llama


def test_every_draw_of_the_shape_asks_for_the_same_work_at_the_same_rate() -> None:
    one, other = drawn(200, seed=1), drawn(200, seed=2)
    assert one.at[-1] == pytest.approx(199.0)
    assert not np.array_equal(one.at, other.at)
    assert sorted(one.prompt_tokens) == sorted(other.prompt_tokens)
    assert sorted(one.answer_tokens) == sorted(other.answer_tokens)


def test_the_shape_is_that_of_the_trace() -> None:
    """Means and variation as its description gives them."""
    whole = drawn(8_819, seed=1)
    assert whole.prompt_tokens.mean() == pytest.approx(2_048, rel=0.01)
    assert whole.answer_tokens.mean() == pytest.approx(27.9, rel=0.05)
    assert whole.variation == pytest.approx(13.2, rel=0.05)


def test_a_recorded_trace_is_taken_as_it_came(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,context_tokens,generated_tokens\n7.0,100,5\n7.5,200,6\n9.0,300,7\n")
    arrivals = recorded(file, 3, seed=0)
    assert arrivals.at.tolist() == [0.0, 0.5, 2.0]
    assert arrivals.prompt_tokens.tolist() == [100, 200, 300]
    assert arrivals.answer_tokens.tolist() == [5, 6, 7]
    with pytest.raises(BenchmarkFailed, match="3 requests; ask for no more"):
        recorded(file, 4, seed=0)


def test_who_answers_one_by_one_lets_the_later_wait() -> None:
    alone = Heard([[1.0, 2.0], [1.0, 2.0], [1.0]])
    heard = one_by_one(alone, [0.0, 0.5, 10.0])
    assert heard.told_s == [[1.0, 2.0], [2.5, 3.5], [1.0]]
    assert heard.gaps_ms == [1000.0, 1000.0]


def test_what_callers_wait_for_at_parts_of_capacity_is_measured(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    (tmp_path / "llama").mkdir()
    make_llama(tmp_path / "llama", context=8_192)
    conversion.add(cache, str(tmp_path / "llama"), "smollm2")
    few = ("--requests", 8, "--loads", 0.5, 0.9, "--shorten", 64)
    document = measured(tmp_path, "traffic", *few, CARPOOL_CACHE=str(cache.root))
    assert len(samples(document, "at 0.5: first token")) == len(samples(document, "alone: first token")) * 4 == 8
    assert samples(document, "at 0.9: between tokens, p99")[0] > 0
    assert samples(document, "at 0.9, generate one by one: first token, p99")[0] > 0
    assert any("at 0.9 of capacity: " in note and "rows in a step" in note for note in document["notes"])
