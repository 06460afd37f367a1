"""Llama: our own small definition of the decoder (Touvron et al., 2023), with keys and values in buffers that are
made once. Parameters have the names that Hugging Face's files give them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.roofline import Operation, attention, elementwise, linear


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of the network, as config.json names them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "LlamaShape":
        """Read it from config.json. Raises ValueError naming what this definition does not have."""
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        for field, value, only in (
            ("hidden_act", config.get("hidden_act", "silu"), "silu"),
            ("attention_bias", config.get("attention_bias", False), False),
            ("mlp_bias", config.get("mlp_bias", False), False),
            ("rope_type", kind, "default"),
        ):
            if value != only:
                raise ValueError(f"{field} {value!r}: only {only!r} is known")
        heads = config["num_attention_heads"]
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            rms_norm_eps=config["rms_norm_eps"],
            rope_theta=rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
        )


class KeyValues:
    """Keys and values of the rows that step together: for each layer a buffer [B, heads, capacity, D]."""

    def __init__(self, shape: LlamaShape, rows: int, capacity: int, like: Tensor) -> None:
        sizes = (rows, shape.num_key_value_heads, capacity, shape.head_dim)
        self.filled = 0
        """Positions that hold something, in every row."""
        self._buffers = [(like.new_empty(sizes), like.new_empty(sizes)) for _ in range(shape.num_hidden_layers)]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put in new ones, [B, heads, Q, D]; all up to them, [B, heads, filled + Q, D]."""
        end = self.filled + keys.shape[2]
        kept_keys, kept_values = self._buffers[layer]
        kept_keys[:, :, self.filled : end] = keys
        kept_values[:, :, self.filled : end] = values
        return kept_keys[:, :, :end], kept_values[:, :, :end]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which move up in order: no second buffer is made."""
        for layer, buffers in enumerate(self._buffers):
            for buffer in buffers:
                for target, source in enumerate(rows):
                    if target != source:
                        buffer[target, :, : self.filled] = buffer[source, :, : self.filled]
            self._buffers[layer] = buffers[0][: len(rows)], buffers[1][: len(rows)]


class Attention(nn.Module):
    """Attention with rotated positions, where several heads share their keys and values."""

    def __init__(self, shape: LlamaShape, layer: int) -> None:
        super().__init__()
        width = shape.num_attention_heads * shape.head_dim
        narrow = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, narrow, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, narrow, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden_size, bias=False)
        self._layer = layer
        self._groups = shape.num_key_value_heads
        self._head_dim = shape.head_dim

    def forward(
        self, hidden: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, memory: KeyValues
    ) -> Tensor:
        """hidden [B, Q, D] -> [B, Q, D]; mask [B, 1, heads of a group x Q, K] or [B, 1, 1, K]"""
        rows, count, _ = hidden.shape
        query, key, value = (
            linear(hidden).view(rows, count, -1, self._head_dim).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        keys, values = memory.extend(self._layer, rotate(key, turn), value)
        # The heads of a group ask the same keys: as more queries, not as copies of the keys.
        query = rotate(query, turn).reshape(rows, self._groups, -1, self._head_dim)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        result: Tensor = self.o_proj(mixed.reshape(rows, -1, count, self._head_dim).transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Gated linear layers."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, Q, D] -> [B, Q, D]"""
        result: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return result


class Layer(nn.Module):
    """Attention and feed-forward, each added to what came in."""

    def __init__(self, shape: LlamaShape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(
        self, hidden: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, memory: KeyValues
    ) -> Tensor:
        """[B, Q, D] -> [B, Q, D]"""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), turn, mask, memory)
        result: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return result


class Decoder(nn.Module):
    """The layers, without the last projection to the vocabulary."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, layer) for layer in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Llama(nn.Module):
    """The language model."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        if not shape.tie_word_embeddings:
            self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, memory: KeyValues) -> Tensor:
        """ids [B, Q] at positions [B, Q] -> hidden states [B, Q, D]; `memory` gains Q positions.

        mask [B, 1, Q, K] says which of the K keys, old and new, each query sees; None: all of them.
        """
        if mask is not None and ids.shape[1] > 1:
            mask = mask.repeat(1, 1, self.shape.num_attention_heads // self.shape.num_key_value_heads, 1)
        hidden: Tensor = self.model.embed_tokens(ids)
        turn = turns(positions, self.shape, hidden.dtype)
        for layer in self.model.layers:
            hidden = layer(hidden, turn, mask, memory)
        memory.filled += ids.shape[1]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, D] -> [B, V], in float32"""
        hidden = self.model.norm(hidden)
        if self.shape.tie_word_embeddings:
            return functional.linear(hidden, self.model.embed_tokens.weight).float()
        logits: Tensor = self.lm_head(hidden)
        return logits.float()


def turns(positions: Tensor, shape: LlamaShape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which a head's halves are rotated: positions [B, Q] -> two of [B, 1, Q, head_dim]."""
    steps = torch.arange(0, shape.head_dim, 2, device=positions.device, dtype=torch.float32) / shape.head_dim
    angles = positions[:, None, :, None].float() * (1.0 / shape.rope_theta**steps)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [B, heads, Q, head_dim] by their positions."""
    cosine, sine = turn
    half = heads.shape[-1] // 2
    return heads * cosine + torch.cat((-heads[..., half:], heads[..., :half]), -1) * sine


def operations(
    shape: LlamaShape, rows: int, new: int, filled: float, logits: bool, times: float = 1.0
) -> tuple[Operation, ...]:
    """What a pass of `new` tokens in each of so many rows consists of, over keys and values of which `filled`
    positions are there already; with or without the last tokens' logits."""
    tokens, width, inner = rows * new, shape.hidden_size, shape.intermediate_size
    wide, narrow = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    layers = shape.num_hidden_layers * times
    made = (
        linear(tokens, width, wide, layers),
        linear(tokens, width, narrow, 2 * layers),
        elementwise(4.0 * tokens * (wide + narrow), layers),  # rotated; keys and values put away
        attention(
            rows, new, filled + new, shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim, layers
        ),
        linear(tokens, wide, width, layers),
        linear(tokens, width, inner, 2 * layers),
        elementwise(5.0 * tokens * inner, layers),  # SiLU, and the gate
        linear(tokens, inner, width, layers),
        elementwise(5.0 * tokens * width, 2 * layers),  # normalised; added to what came in
    )
    return (*made, linear(rows, width, shape.vocab_size, times)) if logits else made
