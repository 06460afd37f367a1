"""The choice of the next token, and how likely it and others were."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from node.workloads.chat import ChatRequest

_LIKELIEST = 512
"""Tokens among which top-p is looked for first: to sort a whole vocabulary takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probabilities at one place of an answer, under the model itself: before temperature and top-p."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # the likeliest tokens, the likeliest first


def choose(logits: Tensor, requests: Sequence[ChatRequest], positions: Sequence[int]) -> list[int]:
    """The next token of each row, at these positions of their answers: logits [B, V]."""
    tokens: list[int] = logits.argmax(-1).tolist()
    for index, (request, position) in enumerate(zip(requests, positions, strict=True)):
        if request.temperature > 0:
            tokens[index] = sample(logits[index].cpu(), request, position)
    return tokens


def sample(logits: Tensor, request: ChatRequest, position: int) -> int:
    """Draw a token by Gumbel noise keyed on seed and position, so that every attempt draws the same: logits [V]."""
    return int(_drawn(logits, request, position).argmax())


def gap(logits: Tensor, request: ChatRequest, position: int) -> float:
    """How near the choice of a token is, in logits: what the chosen one has before the next, the noise of the draw
    included: logits [V]."""
    scale = request.temperature or 1.0
    scores = _drawn(logits.cpu(), request, position) if request.temperature > 0 else logits
    first: float
    second: float
    first, second = scores.topk(2).values.tolist()
    return scale * (first - second)


def _drawn(logits: Tensor, request: ChatRequest, position: int) -> Tensor:
    """What the largest of is drawn: logits [V] -> [V]."""
    logits = logits / request.temperature
    if request.top_p < 1:
        logits = _nucleus(logits, max(request.top_p, 1e-6))
    generator = torch.Generator().manual_seed((request.seed * 1_000_003 + position) % (1 << 63))
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return logits + noise


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Only the likeliest tokens that together have this probability: logits [V]."""
    odds = logits.softmax(0)
    best, order = odds.topk(min(_LIKELIEST, len(odds)))
    if best.sum() < top_p:
        best, order = odds.sort(descending=True)
    inside = order[best.cumsum(0) - best < top_p]
    return torch.full_like(logits, -torch.inf).index_copy_(0, inside, logits[inside])


def likelihood(logits: Tensor, token: int, top: int) -> Likelihood:
    """Of a token that was chosen, and of so many of the likeliest: logits [V]."""
    odds = logits.log_softmax(-1)
    best = odds.topk(top)
    return Likelihood(float(odds[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
