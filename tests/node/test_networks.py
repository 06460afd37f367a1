"""transformers' definitions behind our loops: each allowed one gives what it gives by itself, and odd files are
refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from node import conversion
from node.models import ARCHITECTURES, ModelCache, ModelError
from node.workloads import BadInput, Control, load, run_alone, vectors
from node.workloads.embed import Embed
from node.workloads.generate import Generate
from node.workloads.vocabulary import Vocabulary
from tests.node.small_models import WORDS, chat, make_bert, make_llama

LLAMA3 = {
    "rope_theta": 10_000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_theta": 10_000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def cached(directory: Path) -> ModelCache:
    cache = ModelCache(directory.parent / "cache")
    conversion.add(cache, str(directory), "model")
    return cache


def altered(directory: Path, file: str, **fields: Any) -> None:
    """Change fields of a JSON file of a model."""
    path = directory / file
    told = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(told | fields))


@pytest.mark.parametrize("architecture", [name for name, kind in ARCHITECTURES.items() if kind == "embed"])
def test_an_encoder_gives_what_transformers_gives(architecture: str, tmp_path: Path) -> None:
    directory = tmp_path / "made"
    definition = getattr(transformers, architecture)
    make_bert(directory, definition)
    embed = load(cached(directory), "model")
    assert isinstance(embed, Embed)
    draws = np.random.default_rng(1)
    texts = [" ".join(draws.choice(WORDS, draws.integers(1, 90))).encode() for _ in range(40)]
    reference = definition.from_pretrained(directory, add_pooling_layer=False, attn_implementation="eager").eval()
    results = run_alone(embed, texts)
    for ids, result in zip(embed.prepare(texts, Control()), results, strict=True):
        assert isinstance(ids, list)
        with torch.inference_mode():
            hidden = reference(input_ids=torch.tensor([ids])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
        assert isinstance(result, bytes)
        vector, tokens = vectors.read(result)
        np.testing.assert_allclose(vector, expected, atol=2e-6)
        assert tokens == len(ids)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        *((name, {}) for name, kind in ARCHITECTURES.items() if kind == "generate"),
        ("LlamaForCausalLM", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "attention_bias": True}),
        ("Qwen3ForCausalLM", {"rope_parameters": YARN, "head_dim": 16}),
    ],
)
def test_answers_are_those_of_transformers_whatever_company_they_have(
    architecture: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "made"
    definition = getattr(transformers, architecture)
    make_llama(directory, definition=definition, **fields)
    generate = load(cached(directory), "model")
    assert isinstance(generate, Generate)
    requests = [chat("word " * count, max_tokens=6 + count % 5) for count in (1, 30, 7)]
    together = run_alone(generate, requests)
    reference = definition.from_pretrained(directory, attn_implementation="eager").eval()
    for request, result in zip(requests, together, strict=True):
        alone, steps = generate.trace(request)
        assert result == alone
        (prompt,) = generate.prepare([request], Control())
        assert not isinstance(prompt, BadInput)
        with torch.inference_mode():
            ids = reference.generate(
                torch.tensor([prompt.ids]),
                attention_mask=torch.ones(1, len(prompt.ids)),
                max_new_tokens=prompt.request.max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        answer = json.loads(result)
        assert answer["text"] == generate.text(ids[0, len(prompt.ids) :].tolist())
        assert answer["prompt_tokens"] == len(prompt.ids)
        assert all(step.gap >= 0 for step in steps)
        assert generate.text([step.token for step in steps if step.token is not None]) == answer["text"]


def test_in_bf16_positions_are_still_turned_by_fp32(small_cache: ModelCache) -> None:
    generate = load(small_cache, "llama", "cpu", "bf16")
    assert isinstance(generate, Generate)
    module = generate.engine._network.module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}


def test_weights_that_do_not_fit_their_config_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "torn"
    make_llama(directory)
    whole = load_file(directory / "model.safetensors")
    lacking = "model.layers.1.self_attn.k_proj.weight"
    save_file({name: tensor for name, tensor in whole.items() if name != lacking}, directory / "model.safetensors")
    with pytest.raises(ModelError, match=f"^the weights of model lack '{lacking}'$"):
        load(cached(directory), "model")
    save_file(whole | {lacking: torch.zeros(16, 31)}, directory / "model.safetensors")
    conversion.add(ModelCache(tmp_path / "again"), str(directory), "model")
    with pytest.raises(ModelError, match=rf"have '{lacking}' as \(16, 31\), and its config.json as \(16, 32\)$"):
        load(ModelCache(tmp_path / "again"), "model")
    save_file(whole | {"spare": torch.zeros(3)}, directory / "model.safetensors")
    conversion.add(ModelCache(tmp_path / "more"), str(directory), "model")
    load(ModelCache(tmp_path / "more"), "model")  # what the network does not have is left out


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"hidden_size": "wide"}, "model cannot be loaded: .*hidden_size"),
        ({"hidden_act": "os.system"}, "model cannot be loaded: .*os.system"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "turns positions by 'dyn",
        ),
        ({"sliding_window": 511}, r"attends to 511 tokens at a time \(sliding_window\), fewer than its .* 512;"),
    ],
)
def test_a_config_that_makes_no_known_network_is_refused(fields: dict[str, Any], why: str, tmp_path: Path) -> None:
    directory = tmp_path / "odd"
    make_llama(directory, definition=transformers.MistralForCausalLM, sliding_window=None)
    altered(directory, "config.json", **fields)
    with pytest.raises(ModelError, match=why) as refused:
        load(cached(directory), "model")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "^generation_config.json of model is not JSON: Expecting property name"),
        ("[]", "^generation_config.json of model is a JSON list, not an object$"),
        (
            '{"eos_token_id": [2, "</s>"]}',
            "^generation_config.json of model has the eos_token_id '</s>', which is no token's number$",
        ),
    ],
)
def test_a_file_beside_the_config_that_cannot_be_read_is_named(text: str, why: str, tmp_path: Path) -> None:
    directory = tmp_path / "odd"
    make_llama(directory)
    (directory / "generation_config.json").write_text(text)
    with pytest.raises(ModelError, match=why):
        load(cached(directory), "model")


def test_how_a_config_would_split_the_work_does_not_matter(tmp_path: Path) -> None:
    directory = tmp_path / "made"
    make_bert(directory)
    plain = run_alone(load(cached(directory), "model"), [b"a car is parked"])
    altered(directory, "config.json", chunk_size_feed_forward=4)  # refuses a pass of five tokens
    conversion.add(ModelCache(tmp_path / "again"), str(directory), "model")
    assert run_alone(load(ModelCache(tmp_path / "again"), "model"), [b"a car is parked"]) == plain


@pytest.mark.parametrize(
    ("definition", "fields", "why"),
    [
        (
            transformers.BertModel,
            {"position_embedding_type": "relative_key"},
            "^model has position_embedding_type 'relative_key'; only 'absolute' is known$",
        ),
        (
            transformers.RobertaModel,
            {"pad_token_id": None},
            "^model has no pad_token_id, from which RobertaModel counts places$",
        ),
        (transformers.RobertaModel, {"pad_token_id": 99}, "^model cannot be loaded: Padding_idx must be within "),
    ],
)
def test_an_encoder_whose_places_cannot_be_counted_is_refused(
    definition: Any, fields: dict[str, Any], why: str, tmp_path: Path
) -> None:
    directory = tmp_path / "odd"
    make_bert(directory, definition)
    altered(directory, "config.json", **fields)
    with pytest.raises(ModelError, match=why):
        load(cached(directory), "model")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "^model has no chat template: a chat model brings one in tokenizer_config.json$"),
        ("{% for %}", "^the chat template of model cannot be read: "),
    ],
)
def test_a_chat_model_without_a_readable_template_is_refused(template: str, why: str, tmp_path: Path) -> None:
    directory = tmp_path / "mute"
    make_llama(directory)
    altered(directory, "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelError, match=why):
        load(cached(directory), "model")


@pytest.mark.parametrize(
    "template",
    [
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for _ in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_reaches_no_files_and_counts_to_no_billion(template: str, tmp_path: Path) -> None:
    directory = tmp_path / "sly"
    make_llama(directory)
    altered(directory, "tokenizer_config.json", chat_template=template)
    (result,) = run_alone(load(cached(directory), "model"), [chat("x")])
    assert isinstance(result, BadInput)
    assert str(result).startswith("the model's chat template refuses these messages: ")


def test_messages_of_which_a_template_makes_nothing_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "silent"
    make_llama(directory)
    template = "{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}"
    altered(directory, "tokenizer_config.json", chat_template=template)
    mute = json.dumps({"messages": [{"role": "system", "content": "Be short."}]}).encode()
    refused, answer = run_alone(load(cached(directory), "model"), [mute, chat("Why?", max_tokens=4)])
    assert isinstance(refused, BadInput)
    assert str(refused) == "the model's chat template makes nothing of these messages"
    assert isinstance(answer, bytes)


@pytest.mark.parametrize("kind", ["embed", "generate"])
def test_a_mark_that_the_network_was_not_made_for_is_refused(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "marked"
    texts = ["a car <|blank|>", "a car"]
    if kind == "embed":
        make_bert(directory)
        payloads = [text.encode() for text in texts]
    else:
        make_llama(directory)
        payloads = [chat(text, max_tokens=4) for text in texts]
    altered(directory, "tokenizer_config.json", pad_token="<|blank|>")
    refused, answer = run_alone(load(cached(directory), "model"), payloads)
    assert isinstance(refused, BadInput)
    assert str(refused) == "the text holds '<|blank|>', for which the model has no token; leave it out"
    assert isinstance(answer, bytes)


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "odd"
    make_llama(directory)
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"^the tokenizer of model cannot be read: "):
        load(cached(directory), "model")


def test_entries_tell_the_bytes_of_a_vocabulary_that_falls_back_to_bytes() -> None:
    pieces = ["<unk>", "\u2581car", "s", *(f"<0x{byte:02X}>" for byte in "🚗".encode())]
    tokenizer = Tokenizer(
        BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    entries = [vocabulary.entry(token) for token in range(1, len(pieces))]
    assert [entry["token"] for entry in entries[:3]] == [" car", "s", "\ufffd"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == " cars🚗"
    assert vocabulary.text(range(1, len(pieces))) == "cars🚗"
