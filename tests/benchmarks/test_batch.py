"""The batch benchmark, end to end, with a model small enough to be made here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from benchmarks.process import Process
from node.models import ModelCache
from tests.benchmarks.running import measured, run, samples

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one model, `tiny`: a random BERT encoder that reads letters."""
    root = tmp_path_factory.mktemp("cache")
    own = ModelCache(root)
    with own.staged("tiny") as folder:
        torch.manual_seed(0)
        config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        model = BertModel(config, add_pooling_layer=False)
        model.save_pretrained(folder)
        pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
        vocabulary = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces])}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        tokenizer.save(str(folder / "tokenizer.json"))
        own.keep("tiny", folder, "made by a test")
    return root


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
