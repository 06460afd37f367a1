"""What the cars of a cluster lived through, added up from the facts that their lots wrote with `--facts`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.audit import Fact, facts_of
from node.guard import Reason


@dataclass(slots=True)
class Chronicle:
    """Seconds are of the cars' clock; states of charge are modelled, 0 to 1."""

    cars: set[str] = field(default_factory=set)
    lasted_s: float = 0.0  # of the lot that lived longest
    came: int = 0
    left_charge: list[float] = field(default_factory=list)  # one of every departure
    lowest_charge: float = 1.0  # of any car on the charger or parked off it
    lowest_at_work: float = 1.0
    plugged_s: float = 0.0  # car-seconds, as those that follow
    parked_s: float = 0.0
    worked_s: float = 0.0  # holding a lease
    worked_parked_s: float = 0.0  # ... off the charger
    withheld_s: dict[str, float] = field(default_factory=dict)  # by reason, of cars plugged in or parked
    leases: int = 0
    compute_modelled_j: float = 0.0  # as reported: of the accelerators' seconds
    awake_modelled_j: float = 0.0
    drawn_modelled_j: float = 0.0  # on the cars' clock, by computers that held work
    drawn_awake_modelled_j: float = 0.0  # ... by the cars around these


def chronicle(folder: Path) -> Chronicle:
    """Of all lots; raises ValueError for a file that is none of facts."""
    found = Chronicle()
    for file in sorted(folder.glob("*.jsonl")):
        _read(facts_of(file), found)
    return found


def _read(facts: Iterable[Fact], found: Chronicle) -> None:
    states: dict[str, Fact] = {}
    hardware: dict[str, Fact] = {}
    held: Counter[str] = Counter()
    since_s: dict[str, float] = {}
    begun_s = ended_s = None
    for fact in facts:
        car, ended_s = fact["car"], fact["t_s"]
        begun_s = ended_s if begun_s is None else begun_s
        found.cars.add(car)
        if car in states:
            _pass(states[car], hardware[car], held[car], ended_s - since_s[car], found)
        since_s[car] = ended_s
        match fact["fact"]:
            case "car":
                hardware[car] = fact
            case "state":
                _move(states.get(car), fact, bool(held[car]), found)
                states[car] = fact
            case "began":
                held[car] += 1
                found.leases += 1
            case "ended":
                held[car] -= 1
                found.compute_modelled_j += fact["compute_modelled_j"]
                found.awake_modelled_j += fact["awake_modelled_j"]
    if begun_s is not None and ended_s is not None:
        found.lasted_s = max(found.lasted_s, ended_s - begun_s)
        for car, state in states.items():
            _pass(state, hardware[car], held[car], ended_s - since_s[car], found)


def _pass(state: Fact, hardware: Fact, leases: int, seconds: float, found: Chronicle) -> None:
    """A car was so for so long."""
    if not (state["plugged"] or state["parked"]):
        return
    found.plugged_s += seconds if state["plugged"] else 0.0
    found.parked_s += seconds if not state["plugged"] else 0.0
    if leases:
        found.worked_s += seconds
        found.drawn_modelled_j += seconds * hardware.get("board_w", 0.0)
        found.drawn_awake_modelled_j += seconds * hardware.get("awake_w", 0.0)
        found.worked_parked_s += seconds if not state["plugged"] else 0.0
    elif state["withheld"]:
        reason = Reason(state["withheld"]).name.lower()
        found.withheld_s[reason] = found.withheld_s.get(reason, 0.0) + seconds


def _move(before: Fact | None, now: Fact, at_work: bool, found: Chronicle) -> None:
    """A car is otherwise than before."""
    was_plugged = before is not None and before["plugged"]
    stayed = before is not None and was_plugged and now["plugged"] and before["since_s"] == now["since_s"]
    if before is not None and was_plugged and not stayed:
        found.left_charge.append(before["charge"])
    if before is not None and now["plugged"] and not stayed:
        found.came += 1
    if now["plugged"] or now["parked"]:
        found.lowest_charge = min(found.lowest_charge, now["charge"])
        if at_work:
            found.lowest_at_work = min(found.lowest_at_work, now["charge"])
