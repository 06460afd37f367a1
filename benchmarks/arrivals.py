"""How requests arrive, and how long they are: the shape of a recorded trace, or a recorded trace itself.

A shape is two things: how unlike each other the gaps between arrivals are, and how long prompts and answers are. It
says nothing of the rate, which a benchmark chooses.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import BenchmarkFailed

Quantiles = Sequence[tuple[float, float]]
"""A distribution: (part of all that lies below, value), from 0 to 1; between two points by the logarithm."""

GAPS: Quantiles = (
    *((0.0, 0.0026), (0.25, 0.0051), (0.5, 0.164), (0.75, 0.267), (0.9, 0.701), (0.95, 1.029), (0.98, 2.05)),
    *((0.99, 5.66), (0.995, 25.6), (0.999, 203.0), (1.0, 557.0)),
)
"""Between two arrivals, over the mean. The source counts in milliseconds, 0.0026 of its mean: what came within one
is taken to be so far apart."""
PROMPT_TOKENS: Quantiles = (
    *((0.0, 3), (0.01, 17), (0.05, 75), (0.1, 147), (0.25, 578), (0.5, 1_469), (0.75, 2_744), (0.9, 5_188)),
    *((0.95, 7_303), (0.98, 7_436), (1.0, 7_437)),
)
ANSWER_TOKENS: Quantiles = (
    *((0.0, 6), (0.1, 7), (0.25, 9), (0.5, 13), (0.75, 24), (0.9, 55), (0.95, 90), (0.98, 171), (0.99, 251)),
    *((0.995, 359), (0.999, 825), (1.0, 1_899)),
)
"""All three: percentiles of AzureLLMInferenceTrace_code of 2023, 8,819 requests in 57 minutes to a service that
completes code (github.com/Azure/AzurePublicDataset, CC BY 4.0; P. Patel et al., Splitwise, ISCA 2024). The gaps
vary by 13 times their mean (coefficient of variation) and hardly depend on each other (correlation of two
neighbours' logarithms: 0.06), nor do the lengths of a prompt and its answer (0.00): each is drawn by itself."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests one after the other. Columns of equal length N."""

    at: NDArray[np.float64]  # [N] when, in mean gaps, from 0 on
    prompt_tokens: NDArray[np.int64]  # [N]
    answer_tokens: NDArray[np.int64]  # [N]

    @property
    def variation(self) -> float:
        """Standard deviation of the gaps over their mean: 1 when requests know nothing of each other."""
        gaps = np.diff(self.at)
        return float(gaps.std() / gaps.mean())


def drawn(count: int, seed: int) -> Arrivals:
    """So many requests of the committed shape.

    Of each distribution every N-th part gives its mean once, in an order that is drawn: so all draws ask for the
    same work, at the same rate, and none lacks the longest gap.
    """
    chosen = np.random.default_rng(seed)
    gaps = chosen.permutation(_parts(GAPS, count))
    prompts = chosen.permutation(_parts(PROMPT_TOKENS, count))
    answers = chosen.permutation(_parts(ANSWER_TOKENS, count))
    return _arrivals(np.concatenate(([0.0], gaps[1:].cumsum())), prompts.round(), answers.round())


def recorded(path: Path, count: int, seed: int) -> Arrivals:
    """So many requests of a trace that follow each other, from one that is drawn on. Raises BenchmarkFailed.

    A CSV file with the columns arrival_s, context_tokens and generated_tokens.
    """
    names = ("arrival_s", "context_tokens", "generated_tokens")
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [[float(row[name]) for name in names] for row in csv.DictReader(lines)]
    except OSError as wrong:
        raise BenchmarkFailed(f"{path} cannot be read: {wrong.strerror}") from None
    except (KeyError, TypeError, ValueError) as wrong:
        raise BenchmarkFailed(f"{path}: no trace of requests: {wrong}") from None
    if len(rows) < count:
        raise BenchmarkFailed(f"{path} holds {len(rows):,} requests; ask for no more than that")
    first = int(np.random.default_rng(seed).integers(len(rows) - count + 1))
    at, prompts, answers = np.array(rows[first : first + count]).T
    if not (np.diff(at) >= 0).all() or not 0 < at[-1] - at[0] < inf:
        raise BenchmarkFailed(f"{path}: its requests do not come one after the other")
    return _arrivals(at - at[0], prompts, answers)


def _arrivals(at: NDArray[np.float64], prompts: NDArray[np.float64], answers: NDArray[np.float64]) -> Arrivals:
    whole = (np.maximum(tokens, 1).astype(np.int64) for tokens in (prompts, answers))
    return Arrivals(at * (len(at) - 1) / at[-1], *whole)


def _parts(quantiles: Quantiles, count: int) -> NDArray[np.float64]:
    """[count] means of as many equal parts of a distribution, the lowest first."""
    below, values = np.array(quantiles).T
    each = -(-10_000 // count)  # places in one part
    places = (np.arange(count * each) + 0.5) / (count * each)
    at_places: NDArray[np.float64] = np.exp(np.interp(places, below, np.log(values)))
    means: NDArray[np.float64] = at_places.reshape(count, each).mean(axis=1)
    return means
