"""The benchmark of the core, end to end."""

from pathlib import Path

from tests.benchmarks.running import measured, samples


def test_events_and_rounds_are_timed(tmp_path: Path) -> None:
    document = measured(tmp_path, "core", "--events", 20, "--repetitions", 2, "--nodes", 300, 600, "--round", 1_000)
    for name in ("a slice ends, the next is placed, 300 nodes", "a request comes and is placed, 300 nodes"):
        assert all(0 < took_us < 1e5 for took_us in samples(document, name))
    assert all(0 < took_s < 10 for took_s in samples(document, "1,000 nodes change in one event"))
