"""A model's config and weights from its files: mapped, so that processes share the pages."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from node.models import CachedModel, ModelError, tensors_of

N = TypeVar("N", bound=nn.Module)

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
"""Types of numbers that models run in, as safetensors names them."""


def config_of(model: CachedModel, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of the model; empty when it has no such file."""
    path = model.directory / name
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config


def load_own(make: Callable[[], N], model: CachedModel, dtype: torch.dtype, device: torch.device) -> N:
    """Make a network of ours and give it the model's weights, on a CPU mapped in the type they are to have.

    Those that the network does not have are left out. Raises ModelError when one is missing or has another shape.
    """
    try:
        tensors = tensors_in(model, dtype, device)
        with torch.device("meta"):
            network = make()
        wanted = network.state_dict().keys()
        network.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
    except KeyError as error:
        raise ModelError(f"the weights of {model.name} lack {error.args[0]!r}") from None
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"{model.name} cannot be loaded: {str(error).splitlines()[-1].strip()}") from None
    return network.eval().requires_grad_(False).to(device, dtype)


def tensors_in(model: CachedModel, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """The model's weights by name, in host memory; those for a CPU in this type already. Raises SafetensorError."""
    files = _in_type(model, dtype) if device.type == "cpu" else model.weights()
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def _in_type(model: CachedModel, dtype: torch.dtype) -> tuple[Path, ...]:
    """The model's weights in files of this type: its own, or one that is made beside the models, once, for all
    processes. Where none can be made, its own: then each process converts for itself."""
    if _TYPES.get(tensors_of(model)[1]) == dtype:
        return model.weights()
    name = f"{model.digest}-{str(dtype).removeprefix('torch.')}.safetensors"
    converted = model.directory.parent.parent / "converted" / name
    try:
        if not converted.is_file():
            converted.parent.mkdir(exist_ok=True)
            tensors = {name: tensor for path in model.weights() for name, tensor in load_file(path).items()}
            partial = converted.with_suffix(f".{os.getpid()}")
            save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, partial)
            partial.replace(converted)
    except (OSError, SafetensorError):
        return model.weights()
    return (converted,)
