"""A model small enough to be made here, for benchmarks that run one."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from node.models import ModelCache

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="session")
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
