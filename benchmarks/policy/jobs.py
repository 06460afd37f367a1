"""The jobs of a simulated week, and the requests: a draw for each seed."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from benchmarks.figures import BenchmarkFailed
from benchmarks.policy.cars import Fleet
from benchmarks.policy.mix import (
    ANSWER_WITHIN_S,
    CHAT,
    CHURN_ITEMS_S,
    CHURN_MOST_ITEMS,
    DEADLINE_LEAST_S,
    DEADLINE_MOST_S,
    DENSITIES,
    FAST_MODEL,
    FAST_MODEL_SHARE,
    FAST_SPEED,
    IDEAL_SHARE,
    ITEM_LEAST_S,
    ITEM_MEDIAN_S,
    ITEM_MOST_S,
    ITEM_SIGMA,
    MODELS,
    REQUEST_EVERY_S,
    REQUEST_S,
    SLACK_LEAST,
    SLACK_MOST,
    WEEK_S,
    WORK_MEDIAN_S,
    WORK_SIGMA,
    Cell,
)


@dataclass(frozen=True, slots=True)
class Job:
    """So many equal items. Seconds of work are those of an HW4."""

    number: int
    model: str
    items: int
    item_s: float
    submit_s: float
    deadline_s: float
    density: float  # value of a second of work
    interactive: bool = False

    @property
    def work_s(self) -> float:
        """All of it."""
        return self.items * self.item_s

    @property
    def value(self) -> float:
        """Of the whole job on time."""
        return self.density * self.work_s

    @property
    def fast_only(self) -> bool:
        """Whether it needs an AI5."""
        return self.model == FAST_MODEL


def draw(cell: Cell, fleet: Fleet, seed: int) -> list[Job]:
    """Jobs by submission, as much work as the cell's load says."""
    chosen = np.random.default_rng((seed, 2))
    capacity_s = fleet.work_s(WEEK_S)
    mean_speed = capacity_s / WEEK_S
    offered_s = cell.load * capacity_s
    jobs: list[Job] = []
    work_s = 0.0
    while work_s < offered_s:
        model, item_s, items = _whole(chosen) if cell.suite.whole_items else _divisible(chosen)
        job_s = items * item_s
        slowest = FAST_SPEED if model == FAST_MODEL else 1.0
        ideal_s = max(item_s / slowest, job_s / (IDEAL_SHARE * mean_speed))
        slack_s = float(chosen.uniform(SLACK_LEAST, SLACK_MOST)) * ideal_s
        within_s = min(max(slack_s, DEADLINE_LEAST_S), DEADLINE_MOST_S)
        within_s = max(within_s, cell.suite.least_items * item_s)
        submit_s = float(chosen.uniform(0.0, WEEK_S))
        density = DENSITIES[int(chosen.integers(len(DENSITIES)))]
        jobs.append(Job(0, model, items, item_s, submit_s, submit_s + within_s, density))
        work_s += job_s
    jobs.sort(key=lambda job: job.submit_s)
    return [_numbered(job, number) for number, job in enumerate(jobs, 1)]


def requests(arrivals_s: Sequence[float], seed: int, first: int) -> list[Job]:
    """Interactive jobs of one item over the week: the trace from a random second on, again and again, thinned."""
    chosen = np.random.default_rng((seed, 3))
    trace_s = np.asarray(arrivals_s)
    span_s = float(trace_s[-1])
    begun_s = float(chosen.uniform(0.0, span_s))
    tiled_s = (np.arange(np.ceil(WEEK_S / span_s) + 1)[:, None] * span_s + trace_s).ravel() - begun_s
    kept = chosen.random(len(tiled_s)) < span_s / len(trace_s) / REQUEST_EVERY_S
    times_s = tiled_s[kept & (tiled_s >= 0) & (tiled_s < WEEK_S)]
    return [
        Job(first + at, CHAT, 1, REQUEST_S, submit_s, submit_s + ANSWER_WITHIN_S, 0.0, interactive=True)
        for at, submit_s in enumerate(times_s.tolist())
    ]


def arrivals(path: Path | None) -> list[float]:
    """Arrival times of a trace, seconds from its first; without one, evenly random ones (assumed)."""
    if path is None:
        return list(np.cumsum(np.random.default_rng(0).exponential(1.0, 3_000)).tolist())
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            times_s = [float(row["arrival_s"]) for row in csv.DictReader(lines)]
    except OSError as wrong:
        raise BenchmarkFailed(f"{path} cannot be read: {wrong.strerror}") from None
    except (KeyError, TypeError, ValueError) as wrong:
        raise BenchmarkFailed(f"{path}: no trace of requests: {wrong}") from None
    if len(times_s) < 2 or not 0 < times_s[-1] < inf:
        raise BenchmarkFailed(f"{path} holds no requests")
    return times_s


def _divisible(chosen: np.random.Generator) -> tuple[str, float, int]:
    """Model, seconds of an item, items."""
    job_s = WORK_MEDIAN_S * float(np.exp(WORK_SIGMA * chosen.standard_normal()))
    item_s = ITEM_MEDIAN_S * float(np.exp(ITEM_SIGMA * chosen.standard_normal()))
    item_s = min(max(item_s, ITEM_LEAST_S), ITEM_MOST_S)
    fast = chosen.random() < FAST_MODEL_SHARE
    model = FAST_MODEL if fast else MODELS[int(chosen.integers(len(MODELS) - 1))]
    return model, item_s, max(1, round(job_s / item_s))


def _whole(chosen: np.random.Generator) -> tuple[str, float, int]:
    item_s = CHURN_ITEMS_S[int(chosen.integers(len(CHURN_ITEMS_S)))]
    return MODELS[0], item_s, int(chosen.integers(1, CHURN_MOST_ITEMS + 1))


def _numbered(job: Job, number: int) -> Job:
    return Job(number, job.model, job.items, job.item_s, job.submit_s, job.deadline_s, job.density)
