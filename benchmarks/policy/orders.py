"""What a policy is told and what it may order: facts in, slices out. Knows neither the core nor the simulator."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.policy.jobs import Job

Range = tuple[int, int]
"""Items [first, first + count), as (first, count)."""


@dataclass(frozen=True, slots=True)
class Plugged:
    """A car is here, with nothing resident but the model that answers requests."""

    car: int
    age_s: float  # since it was plugged in


@dataclass(frozen=True, slots=True)
class Departed:
    """A car is gone, and with it what it held; what that had done is reported just before."""

    car: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job was asked for."""

    job: Job


@dataclass(frozen=True, slots=True)
class Resident:
    """A car begins to load this model: it is resident by the time that anything else could run."""

    car: int
    model: str


@dataclass(frozen=True, slots=True)
class Reported:
    """A slice ended: it came to its end, gave way, was stopped, or its car departs."""

    slice: int
    car: int
    job: int
    done: int  # items, the first ones of the slice
    whole: bool  # all of them
    gave_way: bool
    useful_s: float
    lost_s: float
    loading_s: float


Fact = Plugged | Departed | Submitted | Resident | Reported


@dataclass(frozen=True, slots=True)
class Slice:
    """Run these items on this car, after what it holds already; those of a request run at once."""

    number: int  # never used again
    car: int
    job: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a policy wants now."""

    slices: Sequence[Slice] = field(default=())
    yields: Sequence[int] = field(default=())  # slices that end with the item in flight
    stops: Sequence[int] = field(default=())  # slices that end at once


class Policy(Protocol):
    """Who decides."""

    def decide(self, facts: Sequence[Fact], now_s: float) -> Orders:
        """Take facts in, in order, and say what to do."""

    def wakeup_s(self) -> float | None:
        """When to be asked again, if nothing happens."""
