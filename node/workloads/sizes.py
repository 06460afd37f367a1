"""The sizes of a transformer, as its config tells them, and what a pass through one costs.

In all architectures that may run the feed-forward is gated in decoders, and plain in encoders.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.roofline import Operation, attention, elementwise, linear


@dataclass(frozen=True, slots=True)
class Sizes:
    """What shapes follow from."""

    vocabulary: int
    width: int
    inner: int  # width of the feed-forward
    layers: int
    heads: int
    key_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> "Sizes":
        """Read them from a config of transformers."""
        heads = config.num_attention_heads
        return cls(
            vocabulary=config.vocab_size,
            width=config.hidden_size,
            inner=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=heads,
            key_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )


def decoding(sizes: Sizes, parts: Sequence[tuple[int, int]], judged: int) -> tuple[Operation, ...]:
    """What a pass of a decoder consists of that adds to each row so many tokens to so many that are there, and asks
    for logits after `judged` of them."""
    tokens, width, inner, layers = sum(new for new, _ in parts), sizes.width, sizes.inner, sizes.layers
    wide, narrow = sizes.heads * sizes.head_dim, sizes.key_heads * sizes.head_dim
    heads = (sizes.heads, sizes.key_heads, sizes.head_dim)
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
    return (*made, linear(judged, width, sizes.vocabulary)) if judged else made


def encoding(sizes: Sizes, lengths: Sequence[int]) -> tuple[Operation, ...]:
    """What one pass of an encoder over texts of so many tokens each consists of."""
    tokens, width, inner, layers = sum(lengths), sizes.width, sizes.inner, sizes.layers
    heads = (sizes.heads, sizes.key_heads, sizes.head_dim)
    return (
        elementwise(5.0 * tokens * width),  # three rows looked up and added; normalised
        linear(tokens, width, width, 4 * layers),
        *(
            attention(lengths.count(length), length, length, *heads, layers)
            for length in sorted(set(lengths), reverse=True)
        ),
        linear(tokens, width, inner, layers),
        elementwise(2.0 * tokens * inner, layers),  # GELU
        linear(tokens, inner, width, layers),
        elementwise(5.0 * tokens * width, 2 * layers),  # added to what came in, and normalised
    )
