"""An encoder of transformers over texts laid end to end.

There is no padding: every layer but attention sees all tokens of a micro-batch as one long row, and attention
takes texts of one length together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from node.models import CachedModel
from node.workloads.networks import load_network
from node.workloads.sizes import Sizes

_AFTER_PADDING = frozenset({"RobertaModel", "XLMRobertaModel"})
"""Architectures that count the places of tokens from the one after their padding token's number."""

_ATTENTION = "runs"


class Encoder:
    """The network, without what pools its last layer."""

    def __init__(self, network: Any, first: int) -> None:
        self.module: nn.Module = network
        self.sizes = Sizes.of(network.config)
        self.parameters = sum(parameter.numel() for parameter in self.module.parameters())
        self.longest: int = network.config.max_position_embeddings - first  # tokens of a text
        self._first = first  # number of the first place

    def __call__(self, ids: Tensor, places: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Tokens of all texts end to end, ids [T] and their places in their texts [T], in runs of texts of one
        length (texts, tokens of each) -> hidden states [T, D]"""
        told = self.module(input_ids=ids[None], position_ids=(places + self._first)[None], runs=runs)
        hidden: Tensor = told.last_hidden_state[0]
        return hidden


def load_encoder(model: CachedModel, dtype: torch.dtype, device: torch.device) -> Encoder:
    """Load the network of an embedding model. Raises ModelError."""
    network = load_network(model, _ATTENTION, dtype, device, add_pooling_layer=False)
    return Encoder(network, network.config.pad_token_id + 1 if model.architecture in _AFTER_PADDING else 0)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    runs: Sequence[tuple[int, int]],
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside each text, as transformers asks for it: each [1, heads, T, D] -> [1, T, W]"""
    assert attention_mask is None, "transformers makes no mask for an attention that it has no mask function of"
    heads, tokens_in_all, head_dim = query.shape[1:]
    sizes = [texts * tokens for texts, tokens in runs]
    parts = [each[0].split(sizes, 1) for each in (query, key, value)]
    mixed = []
    for run, (texts, tokens) in enumerate(runs):
        asked, keys, values = (part[run].view(heads, texts, tokens, head_dim).transpose(0, 1) for part in parts)
        attended = functional.scaled_dot_product_attention(asked, keys, values, scale=scaling)
        mixed.append(attended.transpose(1, 2).reshape(texts * tokens, -1))
    return torch.cat(mixed).view(1, tokens_in_all, -1), None


AttentionInterface.register(_ATTENTION, _attend)
