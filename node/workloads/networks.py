"""transformers' definitions of networks, with a model's config and weights.

Importing this imports transformers, which takes some 2 s and 75 MB: only workloads that run such a network do it.
"""

import threading
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging

from node.models import ARCHITECTURES, CachedModel, ModelError
from node.workloads.weights import config_of, tensors_in

logging.set_verbosity_error()  # what is wrong with a model is said here
logging.disable_progress_bar()

_STEERING = (
    *("add_cross_attention", "auto_map", "fusion_config", "is_decoder", "output_attentions"),
    *("output_hidden_states", "quantization_config", "return_dict"),
)
"""What a config.json could say beyond how large a network is and what it computes. Nobody asks it."""

_FAULTS = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers raises over a config.json or weights that make no network."""

_LOADING = threading.Lock()
"""transformers changes torch's own functions and its default type while it makes a network."""


def load_network(
    model: CachedModel, attention: str, dtype: torch.dtype, device: torch.device, **arguments: Any
) -> Any:
    """The network of a model's architecture, with an attention that is registered under this name.

    On a CPU its weights are mapped in the type they are to have. Those that it does not have are left out. Raises
    ModelError when one is missing or has another shape, or the config makes no network.
    """
    assert model.architecture in ARCHITECTURES, "the cache holds no others"
    definition = getattr(transformers, model.architecture)
    told = {field: value for field, value in config_of(model).items() if field not in _STEERING}
    try:
        tensors = tensors_in(model, dtype, device)
        with _LOADING:
            network, found = definition.from_pretrained(
                None,
                config=definition.config_class.from_dict(told),
                state_dict=tensors,
                dtype=dtype,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,  # to be told of them all
                output_loading_info=True,
                local_files_only=True,
                **arguments,
            )
    except _FAULTS as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"{model.name} cannot be loaded: {said}") from None
    for name in sorted(found["missing_keys"]):
        raise ModelError(f"the weights of {model.name} lack {name!r}")
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise ModelError(
            f"the weights of {model.name} have {name!r} as {tuple(stored)}, and its config.json as {tuple(wanted)}"
        )
    return network.eval().requires_grad_(False).to(device)
