"""What happened in a demo, as facts: told by `summary`, judged beside the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accounts import Accounts
from benchmarks.departures import Departure
from coordinator.client import Node


@dataclass(frozen=True, slots=True)
class Work:
    """What it is called for people, its model, its payloads: one batch job, or an interactive one for each."""

    name: str
    model: str
    interactive: bool
    inputs: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Done:
    """The results in the order of the payloads, and how long they took from submission, in seconds."""

    work: Work
    results: Sequence[bytes]
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Story:
    """What happened on the fleet."""

    start_s: float  # until the fleet could take work
    done: Sequence[Done]
    departures: Sequence[Departure]
    nodes: Sequence[Node]  # at the end
    accounts: Accounts  # at the end


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one job's results compare with the reference."""

    model: str
    verdict: str  # for people
    ties: Sequence[str]  # places where the reference's choice hung by a thread, and the fleet chose otherwise
    wrong: Sequence[str]  # places that differ with no such excuse


def complaints(story: Story, comparisons: Sequence[Comparison]) -> list[str]:
    """Everything that should not have happened, a sentence each: none after a demo that went well."""
    found = [
        f"{departure.car} held no live lease when it left"
        for departure in story.departures
        if departure.leases == 0
    ]
    for comparison in comparisons:
        found += [f"{comparison.model}: {place}" for place in comparison.wrong]
        if len(comparison.ties) > 1:
            found.append(f"{comparison.model}: {len(comparison.ties)} answers hang by a thread; one may")
    return found
