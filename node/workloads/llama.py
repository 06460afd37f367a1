"""Llama: our own small definition of the decoder (Touvron et al., 2023), over new tokens of all rows end to end.

There is no padding: every layer but attention sees one long row of tokens, and attention finds the keys and values
of each row in `Memory`. Parameters have the names that Hugging Face's files give them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.roofline import Operation, attention, elementwise, linear
from node.workloads.memory import Memory, Pass


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
        self._head_dim = shape.head_dim

    def forward(self, hidden: Tensor, turn: tuple[Tensor, Tensor], memory: Memory, step: Pass) -> Tensor:
        """hidden [T, D] -> [T, D]"""
        query, key, value = (
            linear(hidden).view(hidden.shape[0], -1, self._head_dim)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = memory.attend(self._layer, rotate(query, turn), rotate(key, turn), value, step)
        result: Tensor = self.o_proj(mixed)
        return result


class FeedForward(nn.Module):
    """Gated linear layers."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, D] -> [T, D]"""
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

    def forward(self, hidden: Tensor, turn: tuple[Tensor, Tensor], memory: Memory, step: Pass) -> Tensor:
        """[T, D] -> [T, D]"""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), turn, memory, step)
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

    def forward(self, memory: Memory, step: Pass) -> Tensor:
        """The logits that a pass asks for, [N, V], in float32; `memory` gains its tokens."""
        hidden: Tensor = self.model.embed_tokens(step.ids)
        turn = turns(step.positions, self.shape, hidden.dtype)
        for layer in self.model.layers:
            hidden = layer(hidden, turn, memory, step)
        hidden = self.model.norm(hidden[step.judged])
        if self.shape.tie_word_embeddings:
            return functional.linear(hidden, self.model.embed_tokens.weight).float()
        logits: Tensor = self.lm_head(hidden)
        return logits.float()

    def memory(self, positions: int) -> Memory:
        """A buffer for keys and values of so many positions."""
        shape = self.shape
        sizes = (shape.num_hidden_layers, shape.num_key_value_heads, positions, shape.head_dim)
        return Memory(*sizes, like=self.model.embed_tokens.weight)


def turns(positions: Tensor, shape: LlamaShape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which a head's halves are rotated: positions [T] -> two of [T, 1, head_dim]."""
    steps = torch.arange(0, shape.head_dim, 2, device=positions.device, dtype=torch.float32) / shape.head_dim
    angles = positions[:, None, None].float() * (1.0 / shape.rope_theta**steps)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [T, heads, head_dim] by their positions."""
    cosine, sine = turn
    half = heads.shape[-1] // 2
    return heads * cosine + torch.cat((-heads[..., half:], heads[..., :half]), -1) * sine


def operations(shape: LlamaShape, parts: Sequence[tuple[int, int]], judged: int) -> tuple[Operation, ...]:
    """What a pass consists of that adds to each row so many tokens to so many that are there, and asks for logits
    after `judged` of them."""
    tokens, width, inner = sum(new for new, _ in parts), shape.hidden_size, shape.intermediate_size
    wide, narrow = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    layers, heads = shape.num_hidden_layers, (shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim)
    made = (
        linear(tokens, width, wide, layers),
        linear(tokens, width, narrow, 2 * layers),
        elementwise(4.0 * tokens * (wide + narrow), layers),  # rotated; keys and values put away
        *(
            attention(rows, new, filled + new, *heads, layers)
            for (new, filled), rows in sorted(Counter(parts).items())
        ),
        linear(tokens, wide, width, layers),
        linear(tokens, width, inner, 2 * layers),
        elementwise(5.0 * tokens * inner, layers),  # SiLU, and the gate
        linear(tokens, inner, width, layers),
        elementwise(5.0 * tokens * width, 2 * layers),  # normalised; added to what came in
    )
    return (*made, linear(judged, width, shape.vocab_size)) if judged else made
