"""The store benchmark, end to end."""

from math import inf
from pathlib import Path

import pytest

from benchmarks.figures import BenchmarkFailed
from benchmarks.store import quantile
from tests.benchmarks.running import measured, samples


def test_both_stores_and_raw_sqlite_are_measured_in_pairs_and_restarts_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "restarts.svg"
    pairs = ("--pairs", 2, "--seconds", 0.2, "--clients", 8, "--items", 2_000, "--small-items", 5_000)
    document = measured(tmp_path, "store", *pairs, "--live", 10, 600, "--restarts", 1, "--plot", drawn)
    durable = samples(document, "jobs of one item, 8 clients")
    memory = samples(document, "with the memory store")
    assert samples(document, "jobs of one item, 8 clients, ÷ memory") == [
        one / other for one, other in zip(durable, memory, strict=True)
    ]
    assert 0 < samples(document, "p99 of the store's own part, half rate")[0] < 1_000
    assert all(rate > 100 for rate in samples(document, "2,000 items in one job"))
    (ready_s,), (reading_s,) = (
        samples(document, f"{name} 600 {jobs}")
        for name, jobs in (("exec to ready,", "live jobs"), ("of it reading", "jobs"))
    )
    assert 0 < reading_s < ready_s
    assert samples(document, "peak memory, 5,000 small items")[0] > 10
    assert samples(document, "peak memory of carpool run, 5,000 items")[0] > 10
    assert drawn.read_text().startswith("<?xml")


def test_a_quantile_is_read_off_what_came_between_two_readings() -> None:
    before = {0.01: 5.0, 0.02: 5.0, inf: 5.0}
    assert quantile(before, {0.01: 55.0, 0.02: 105.0, inf: 105.0}, 0.75) == pytest.approx(0.015)
    with pytest.raises(BenchmarkFailed, match=r"took over 0\.02 s"):
        quantile(before, {0.01: 15.0, 0.02: 15.0, inf: 25.0}, 0.99)
    with pytest.raises(BenchmarkFailed, match="nothing was committed"):
        quantile(before, before, 0.99)
