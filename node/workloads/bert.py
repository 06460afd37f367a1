"""BERT: our own small definition of the encoder (Devlin et al., 2018), over texts laid end to end.

There is no padding: every layer but attention sees all tokens of a micro-batch as one long row, and attention
takes texts of one length together. Parameters have the names that Hugging Face's files give them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.roofline import Operation, attention, elementwise, linear


@dataclass(frozen=True, slots=True)
class BertShape:
    """Sizes of the network, as config.json names them."""

    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BertShape":
        """Read it from config.json. Raises ValueError naming what this definition does not have."""
        for field, only in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if config.get(field, only) != only:
                raise ValueError(f"{field} {config[field]!r}: only {only!r} is known")
        return cls(**{field: config[field] for field in cls.__slots__})


class Embeddings(nn.Module):
    """Token, place and segment, added. There is one segment."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """ids [T], places [T] -> [T, D]"""
        summed = self.word_embeddings(ids) + self.position_embeddings(places) + self.token_type_embeddings.weight[0]
        normed: Tensor = self.LayerNorm(summed)
        return normed


class SelfAttention(nn.Module):
    """Queries, keys and values, and attention inside each text."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)
        self._heads = shape.num_attention_heads

    def forward(self, hidden: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """hidden [T, D] of texts in runs (texts, tokens of each) -> [T, D]"""
        width = hidden.shape[1]
        sizes = [texts * tokens for texts, tokens in runs]
        parts = [linear(hidden).split(sizes) for linear in (self.query, self.key, self.value)]
        mixed = []
        for run, (texts, tokens) in enumerate(runs):
            query, key, value = (part[run].view(texts, tokens, self._heads, -1).transpose(1, 2) for part in parts)
            attended = functional.scaled_dot_product_attention(query, key, value)
            mixed.append(attended.transpose(1, 2).reshape(texts * tokens, width))
        return torch.cat(mixed)


class Output(nn.Module):
    """Back to the width of the row, added to what came in, and normalised."""

    def __init__(self, width: int, shape: BertShape) -> None:
        super().__init__()
        self.dense = nn.Linear(width, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)

    def forward(self, inner: Tensor, hidden: Tensor) -> Tensor:
        """inner [T, W], hidden [T, D] -> [T, D]"""
        normed: Tensor = self.LayerNorm(self.dense(inner) + hidden)
        return normed


class Layer(nn.Module):
    """Attention, then two linear layers with GELU between them."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(shape), "output": Output(shape.hidden_size, shape)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.hidden_size, shape.intermediate_size)})
        self.output = Output(shape.intermediate_size, shape)

    def forward(self, hidden: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """[T, D] -> [T, D]"""
        hidden = self.attention["output"](self.attention["self"](hidden, runs), hidden)
        result: Tensor = self.output(functional.gelu(self.intermediate["dense"](hidden)), hidden)
        return result


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))


class Bert(nn.Module):
    """The encoder with its embeddings."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape)

    def forward(self, ids: Tensor, places: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Tokens of all texts end to end, ids [T] and their places in their texts [T], in runs of texts of one
        length (texts, tokens of each) -> hidden states [T, D]"""
        hidden: Tensor = self.embeddings(ids, places)
        for layer in self.encoder.layer:
            hidden = layer(hidden, runs)
        return hidden


def operations(shape: BertShape, lengths: Sequence[int]) -> tuple[Operation, ...]:
    """What one pass over texts of so many tokens each consists of."""
    tokens, width, inner, layers = sum(lengths), shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    heads = shape.num_attention_heads
    return (
        elementwise(5.0 * tokens * width),  # three rows looked up and added; normalised
        linear(tokens, width, width, 4 * layers),
        *(
            attention(lengths.count(length), length, length, heads, heads, width // heads, layers)
            for length in sorted(set(lengths), reverse=True)
        ),
        linear(tokens, width, inner, layers),
        elementwise(2.0 * tokens * inner, layers),  # GELU
        linear(tokens, inner, width, layers),
        elementwise(5.0 * tokens * width, 2 * layers),  # added to what came in, and normalised
    )
