"""Small models with random weights, in the Hugging Face layout that a user would have, and payloads for them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import BertModel, LlamaForCausalLM, PreTrainedModel

from node import conversion
from node.workloads.efficientnet import EfficientNetLite0

WORDS = (
    "a",
    "car",
    "is",
    "parked",
    "until",
    "its",
    "owner",
    "comes",
    "back",
    "and",
    "then",
    "leaves",
    "at",
    "once",
)
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('the system speaks first') }}{% endif %}"
    "<|begin|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def make_bert(directory: Path, definition: Any = BertModel) -> PreTrainedModel:
    """An encoder of two layers, in this architecture, that knows WORDS."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate(marks + list(dict.fromkeys(WORDS)))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    torch.manual_seed(0)
    config = definition.config_class(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model: PreTrainedModel = definition(config, add_pooling_layer=False).eval()
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return model


def make_llama(
    directory: Path, context: int = 512, definition: Any = LlamaForCausalLM, **fields: Any
) -> PreTrainedModel:
    """A decoder of two layers over bytes, in this architecture, with a chat template, for so many positions, and
    with these fields of its config."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(alphabet) + 2,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "eos_token_id": len(alphabet) + 1,
        "tie_word_embeddings": False,
    }
    config = definition.config_class(**sizes | fields)
    model: PreTrainedModel = definition(config).eval()
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return model


def make_broken_llama(directory: Path, sound: Path) -> None:
    """A copy of a decoder whose embedding of `~` is no number."""
    conversion.copy_directory(sound, directory)
    weights = load_file(directory / "model.safetensors")
    ids = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    weights["model.embed_tokens.weight"][ids["~"]] = torch.nan
    save_file(weights, directory / "model.safetensors")


def make_efficientnet(directory: Path) -> EfficientNetLite0:
    """The classifier, untrained."""
    directory.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = EfficientNetLite0().eval()
    save_file(model.state_dict(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"architectures": ["EfficientNetLite0"]}))
    (directory / "labels.json").write_text(json.dumps([f"class {index}" for index in range(1000)]))
    return model


def picture(width: int, height: int, form: str = "PNG", seed: int = 0) -> bytes:
    """An encoded picture of coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(patches).resize((width, height)).save(encoded, form)
    return encoded.getvalue()


def chat(content: str, **fields: object) -> bytes:
    """A chat request of one message."""
    return json.dumps({"messages": [{"role": "user", "content": content}], **fields}).encode()
