"""The batch benchmark, end to end, with a model small enough to be made here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.process import Process
from tests.benchmarks.conftest import LETTERS
from tests.benchmarks.running import measured, run, samples


@pytest.fixture
def ray_data(cache: Path, tmp_path: Path) -> Iterator[Process]:
    """The process that embeds with Ray Data."""
    folder = cache / "models" / "tiny"
    with Process.python("ray-data", "benchmarks.ray_data", folder, "cpu", "fp32", 1, 2, folder=tmp_path) as process:
        process.expect("ready", 60)
        yield process


def test_the_fleet_and_plain_torch_agree_and_are_measured(cache: Path, tmp_path: Path) -> None:
    flags = ("--model", "tiny", "--sentences", 60, "--pairs", 1, "--ray-repeats", 0)
    document = measured(tmp_path, "batch", *flags, CARPOOL_CACHE=str(cache))
    (fleet,), (plain,) = samples(document, "fleet, carpool run"), samples(document, "plain torch")
    assert samples(document, "fleet ÷ plain torch") == [pytest.approx(fleet / plain)]


def test_ray_data_writes_a_line_for_every_sentence(ray_data: Process, tmp_path: Path) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"sentence {letter}\n" for letter in LETTERS))
    ray_data.say(f"8\t4\t{source}\t{target}")
    assert float(ray_data.expect(r"done (\S+)", 60)[1]) > 0
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert {answer["custom_id"] for answer in answers} == {f"line-{number}" for number in range(1, 27)}
    assert all(len(answer["response"]["body"]["data"][0]["embedding"]) == 32 for answer in answers)


def test_a_model_that_is_not_cached_is_named(tmp_path: Path) -> None:
    ended = run("batch", CARPOOL_CACHE=str(tmp_path))
    assert ended.returncode == 2
    assert "no model 'minilm'" in ended.stderr
