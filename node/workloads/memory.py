"""Keys and values of rows that step together, in one buffer that is made once, and attention over them.

Every row has a stretch of the buffer's positions for itself. There is no padding: a pass is all new tokens of all
rows end to end, and each row's queries see the keys of its own stretch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Part:
    """What a pass adds to one row."""

    start: int  # where the row's stretch begins in the buffer
    filled: int  # positions of it that hold something
    ids: Sequence[int]  # new tokens
    judged: int  # after so many of these, the last ones, the logits are asked for


class Pass:
    """The tensors of one pass over T new tokens, which asks for logits after N of them."""

    def __init__(self, parts: Sequence[Part], group: int, device: torch.device) -> None:
        """`group`: query heads that share a key head."""
        spans = [range(part.filled, part.filled + len(part.ids)) for part in parts]
        ids = torch.tensor([token for part in parts for token in part.ids])
        positions = torch.tensor([position for span in spans for position in span])
        starts = torch.tensor([part.start for part, span in zip(parts, spans, strict=True) for _ in span])
        self.parts = parts
        self.ids = ids.to(device)  # [T]
        self.positions = positions.to(device)  # [T] in their rows
        self.places = (positions + starts).to(device)  # [T] in the buffer
        self.masks = [_mask(part, group, device) for part in parts]
        ends = accumulate(len(part.ids) for part in parts)
        judged = [at for part, end in zip(parts, ends, strict=True) for at in range(end - part.judged, end)]
        self.judged = torch.tensor(judged, dtype=torch.long).to(device)  # [N]


def _mask(part: Part, group: int, device: torch.device) -> Tensor | None:
    """Which keys each query of a row sees, [heads of a group x Q, K]; None: all of them."""
    count = len(part.ids)
    if count == 1:
        return None
    return (
        torch.ones(count, part.filled + count, dtype=torch.bool, device=device).tril(part.filled).repeat(group, 1)
    )


class Memory:
    """The buffer: for each layer keys and values, [key heads, positions, D]."""

    def __init__(self, layers: int, heads: int, positions: int, head_dim: int, like: Tensor) -> None:
        sizes = (heads, positions, head_dim)
        self._layers = [(like.new_empty(sizes), like.new_empty(sizes)) for _ in range(layers)]
        self._heads = heads
        self.device = like.device

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, step: Pass) -> Tensor:
        """Keep new keys and values, and attend: query [heads, T, D], key and value [key heads, T, D] -> [T, W]"""
        keys, values = self._layers[layer]
        keys.index_copy_(1, step.places, key)
        values.index_copy_(1, step.places, value)
        # The heads of a group ask the same keys: as more queries, not as copies of the keys.
        _, tokens, head_dim = query.shape
        query = query.view(1, self._heads, -1, tokens, head_dim)
        mixed, at = [], 0
        for part, mask in zip(step.parts, step.masks, strict=True):
            count = len(part.ids)
            end = part.start + part.filled + count
            seen_keys, seen_values = keys[None, :, part.start : end], values[None, :, part.start : end]
            if mask is None:
                asked = query[:, :, :, at]
                told = functional.scaled_dot_product_attention(asked, seen_keys, seen_values, scale=scaling)
                mixed.append(told.view(1, -1))
            else:
                asked = query[:, :, :, at : at + count].reshape(1, self._heads, -1, head_dim)
                told = functional.scaled_dot_product_attention(
                    asked, seen_keys, seen_values, attn_mask=mask, scale=scaling
                )
                mixed.append(told.view(self._heads, -1, count, head_dim).permute(2, 0, 1, 3).reshape(count, -1))
            at += count
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy so many positions, which may overlap."""
        if source != target:
            for layer in self._layers:
                for buffer in layer:
                    buffer[:, target : target + count] = buffer[:, source : source + count].clone()
