"""Counts since start, by label. Only ever added to."""

from collections import defaultdict
from dataclasses import dataclass, field


def _counts() -> defaultdict[str, int]:
    return defaultdict(int)


def _pair_counts() -> defaultdict[tuple[str, str], int]:
    return defaultdict(int)


def _pair_amounts() -> defaultdict[tuple[str, str], float]:
    return defaultdict(float)


def _triple_counts() -> defaultdict[tuple[str, str, str], int]:
    return defaultdict(int)


def _outcome_counts() -> defaultdict[tuple[str, int, bool], int]:
    return defaultdict(int)


def _chance_sums() -> defaultdict[tuple[str, int], float]:
    return defaultdict(float)


@dataclass(slots=True)
class Tally:
    """What the scheduler counted; see `Snapshot` for the keys."""

    jobs_submitted: defaultdict[tuple[str, str, str], int] = field(default_factory=_triple_counts)
    jobs_finished: defaultdict[tuple[str, str], int] = field(default_factory=_pair_counts)
    items_finished: defaultdict[tuple[str, str, str], int] = field(default_factory=_triple_counts)
    deadlines_missed: defaultdict[str, int] = field(default_factory=_counts)
    departures: defaultdict[tuple[str, str], int] = field(default_factory=_pair_counts)
    leases: defaultdict[tuple[str, str], int] = field(default_factory=_pair_counts)
    results_rejected: defaultdict[str, int] = field(default_factory=_counts)
    accelerator_s: defaultdict[tuple[str, str], float] = field(default_factory=_pair_amounts)
    energy_modelled_j: defaultdict[tuple[str, str], float] = field(default_factory=_pair_amounts)
    decisions: defaultdict[str, int] = field(default_factory=_counts)
    forecast_outcomes: defaultdict[tuple[str, int, bool], int] = field(default_factory=_outcome_counts)
    forecast_chances: defaultdict[tuple[str, int], float] = field(default_factory=_chance_sums)
