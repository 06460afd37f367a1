"""A causal language model of transformers, whose attention finds the keys and values of each row in `Memory`.

There is no padding: every layer but attention sees all new tokens of all rows as one long row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from node.models import CachedModel, ModelError
from node.workloads.memory import Memory, Pass
from node.workloads.networks import load_network
from node.workloads.sizes import Sizes

LONGEST_CONTEXT = 8_192
"""Tokens of a prompt and its answer together, if the model itself does not hold fewer."""

_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Ways to turn positions that depend on a token's own position only, and not on how many there are beside it."""

_ATTENTION = "memory"


class Decoder:
    """The network."""

    def __init__(self, network: Any, context: int) -> None:
        self.module: nn.Module = network
        self.sizes = Sizes.of(network.config)
        self.context = context  # tokens of a row, at most
        self.parameters = sum(parameter.numel() for parameter in self.module.parameters())

    def __call__(self, memory: Memory, step: Pass) -> Tensor:
        """The logits that a pass asks for, [N, V], in float32; `memory` gains its tokens."""
        logits: Tensor = self.module(
            input_ids=step.ids[None],
            position_ids=step.positions[None],
            logits_to_keep=step.judged,
            use_cache=False,
            memory=memory,
            step=step,
        ).logits
        return logits[0].float()

    def memory(self, positions: int) -> Memory:
        """A buffer for keys and values of so many positions."""
        sizes = (self.sizes.layers, self.sizes.key_heads, positions, self.sizes.head_dim)
        return Memory(*sizes, like=next(self.module.parameters()))


def load_decoder(model: CachedModel, dtype: torch.dtype, device: torch.device) -> Decoder:
    """Load the network of a chat model. Raises ModelError."""
    network = load_network(model, _ATTENTION, dtype, device)
    config = network.config
    context = min(config.max_position_embeddings, LONGEST_CONTEXT)
    rotation = config.rope_parameters["rope_type"]
    if rotation not in _ROTATIONS:
        raise ModelError(f"{model.name} turns positions by {rotation!r}; known are {', '.join(_ROTATIONS)}")
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in getattr(config, "layer_types", ("sliding_attention",))
    if window is not None and slides and window < context:
        raise ModelError(
            f"{model.name} attends to {window:,} tokens at a time (sliding_window), fewer than its context of"
            f" {context:,}; only attention to all of them is known"
        )
    return Decoder(network, context)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    memory: Memory,
    step: Pass,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: query [1, heads, T, D], key and value [1, key heads, T, D] ->
    [1, T, W]"""
    assert attention_mask is None, "transformers makes no mask for an attention that it has no mask function of"
    return memory.attend(module.layer_idx, query[0], key[0], value[0], scaling, step)[None], None


AttentionInterface.register(_ATTENTION, _attend)
