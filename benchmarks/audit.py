"""Whether owners' terms were kept: judged by the raw facts that lots write with `--facts`, and by nothing else.

Imports nothing of the product: how a pack charges, what an hour of the day is, what a term means is said here once
more. A look from outside cannot be sharper than the facts: what changes is to take effect within `GRACE_S` of real
time, and a charge is exact to `EXACT`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from math import inf
from pathlib import Path
from typing import Any

GRACE_S = 1.0
"""Real seconds in which what changed takes effect."""
EXACT = 0.002
"""Of a pack: facts are told in ten-thousandths, and lag behind by a look."""
STEP_S = 60.0
"""Of the reckoning what a car would have charged without work."""
MINUTES = 24 * 60
MONTH_S = 30 * 24 * 3600.0
"""In which a cap over the cellular network holds."""

Fact = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """One term that was not kept."""

    car: str
    term: str
    t_s: float  # of the cars' clock, since Monday 00:00
    told: str


@dataclass(slots=True)
class Car:
    """One car as its facts so far have it."""

    name: str
    hardware: Fact = field(default_factory=dict)
    terms: Fact = field(default_factory=dict)
    state: Fact = field(default_factory=dict)
    working: dict[str, Fact] = field(default_factory=dict)  # leases by name
    broken_s: dict[str, float] = field(default_factory=dict)  # real seconds at which work began to break a term
    alone: float = 0.0  # what it would be charged without work since it was plugged in
    alone_s: float = 0.0  # of the cars' clock, when that was reckoned
    leases: int = 0
    compute_j: float = 0.0
    awake_j: float = 0.0
    lacking_bytes: float = 0.0  # of the weights of its models
    metered_bytes: float = 0.0  # over the cellular network in a month, as far as is known
    weights_bytes: float = 0.0  # of these what its own fetches took
    month: int = -1


@dataclass(slots=True)
class Audit:
    """What the facts came to."""

    violations: list[Violation] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # of cars: one whose lot came back is the same
    facts: int = 0
    leases: int = 0
    departures: int = 0  # at which a wanted charge was due
    compute_j: float = 0.0
    awake_j: float = 0.0
    fetched_bytes: dict[str, float] = field(default_factory=lambda: {"line": 0.0, "lan": 0.0, "cellular": 0.0})
    places: int = 0  # with a connection that gives only so much

    @property
    def cars(self) -> int:
        """How many there were."""
        return len(self.names)


@dataclass(slots=True)
class Connection:
    """What the cars of one lot take from a place's connection."""

    limit_kw: float  # of all cars there, those of other lots too
    cars: set[str] = field(default_factory=set)
    drawn_kw: list[tuple[float, float]] = field(default_factory=list)  # at which time of the cars' clock, in order


Place = tuple[str, str]
"""A site, and what kind of place it is."""


def audit(folder: Path) -> Audit:
    """Judge every file of facts in a folder; raises ValueError when there is none, or a line is no fact."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ValueError(f"there are no facts in {folder}; let lots write some with --facts {folder}")
    found = Audit()
    lots: dict[Place, list[Connection]] = {}
    for file in files:
        try:
            for place, connection in judge(facts_of(file), found).items():
                lots.setdefault(place, []).append(connection)
        except KeyError as missing:
            raise ValueError(f"{file} has a fact that lacks {missing}; let the lots write facts anew") from None
    for place, connections in lots.items():
        _share(place, connections, found)
    return found


def judge(facts: Iterable[Fact], found: Audit) -> dict[Place, Connection]:
    """Go through the facts of one lot, in their order; what it took of the connections of places."""
    cars: dict[str, Car] = {}
    connections: dict[Place, Connection] = {}
    last_s = 0.0
    for fact in facts:
        found.facts += 1
        last_s = fact["t_s"]
        car = cars.setdefault(fact["car"], Car(fact["car"]))
        _pass(car, fact, found)
        match fact["fact"]:
            case "car":
                car.hardware = fact
                car.lacking_bytes = fact.get("weights_bytes", 0.0)
            case "terms":
                car.terms = fact
            case "state":
                _draw(car, fact, connections)
                _move(car, fact)
                _meter(car, fact, found)
            case "fetched":
                _fetch(car, fact, found)
            case "began":
                car.working[fact["lease"]] = fact
                car.leases += 1
                _begin(car, fact, found)
                if car.lacking_bytes:
                    told = f"{fact['lease']} began while {car.lacking_bytes:,.0f} bytes of weights were lacking"
                    found.violations.append(Violation(car.name, "weights", fact["t_s"], told))
            case "ended":
                car.working.pop(fact["lease"], None)
                car.compute_j += fact["compute_modelled_j"]
                car.awake_j += fact["awake_modelled_j"]
            case other:
                raise ValueError(f"there is no fact of the kind {other!r}")
        _note(car, fact)
    for car in cars.values():
        found.leases += car.leases
        found.compute_j += car.compute_j
        found.awake_j += car.awake_j
    found.names |= cars.keys()
    for connection in connections.values():
        connection.drawn_kw.append((last_s, 0.0))  # it tells no more: its process ended
    return connections


def _draw(car: Car, fact: Fact, connections: dict[Place, Connection]) -> None:
    """A car takes more or less of its place's connection; all that a lot tells of one moment counts together."""
    hardware = car.hardware
    if "limit_kw" not in hardware:
        return
    place = hardware["site"], hardware["place"]
    taken = connections.setdefault(place, Connection(hardware["limit_kw"]))
    taken.cars.add(car.name)
    more_kw = fact["drawn_kw"] - (car.state["drawn_kw"] if car.state else 0.0)
    at_s, before_kw = taken.drawn_kw[-1] if taken.drawn_kw else (fact["t_s"], 0.0)
    if at_s == fact["t_s"] and taken.drawn_kw:
        taken.drawn_kw.pop()
    taken.drawn_kw.append((fact["t_s"], before_kw + more_kw))


def _share(place: Place, lots: Sequence[Connection], found: Audit) -> None:
    """All lots together take no more than the connection of a place gives. Facts tell of 10 W."""
    found.places += 1
    told = [[(at_s, lot, drawn_kw) for at_s, drawn_kw in one.drawn_kw] for lot, one in enumerate(lots)]
    drawn_kw = [0.0] * len(lots)
    limit_kw = min(one.limit_kw for one in lots) + 0.005 * sum(len(one.cars) for one in lots) + 0.01
    over = False
    for at_s, lot, now_kw in merge(*told, key=lambda moment: moment[0]):
        drawn_kw[lot] = now_kw
        was_over, over = over, sum(drawn_kw) > limit_kw
        if over and not was_over:
            took = f"its cars took {sum(drawn_kw):.1f} of {lots[lot].limit_kw:.1f} kW"
            found.violations.append(Violation(" ".join(filter(None, place)), "limit_kw", at_s, took))


def facts_of(file: Path) -> Iterator[Fact]:
    """Those of one file. The last line may be torn: its process was killed."""
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            fact = json.loads(line)
        except ValueError:
            fact = None
        if isinstance(fact, dict) and fact.keys() >= {"fact", "car", "t_s", "real_s"}:
            yield fact
        elif number < len(lines):
            raise ValueError(f"{file} line {number} is no fact: {line[:80]!r}")


def _pass(car: Car, fact: Fact, found: Audit) -> None:
    """Time passed since the fact before: what work broke then and did not mend in time is a violation."""
    for term, since_s in car.broken_s.items():
        if car.working and fact["real_s"] - since_s > GRACE_S:
            told = f"work went on for {fact['real_s'] - since_s:.1f} s"
            found.violations.append(Violation(car.name, term, fact["t_s"], told))
            car.broken_s[term] = inf  # told
    if fact["fact"] == "state" and car.state and _is_lent_here(car, car.state):
        stays_or_left = fact["since_s"] == car.state["since_s"]  # else it left and came again in between
        if stays_or_left:
            _charge_alone(car, fact)
        charge = (fact if stays_or_left else car.state)["charge"]
        due = _due(car.terms, car.state["t_s"], fact["t_s"])
        if (
            not (stays_or_left and _is_lent_here(car, fact))
            and not car.terms["departs_at"]
            and car.terms["wanted_charge"]
        ):
            due = (fact["t_s"],)
        for due_s in due:
            found.departures += 1
            _wish(car, charge, due_s, found)


def _is_here(state: Fact) -> bool:
    return bool(state["plugged"] or state["parked"])


def _is_lent_here(car: Car, state: Fact) -> bool:
    """On its charger, or parked off it by an owner who lends it so."""
    return bool(state["plugged"] or (state["parked"] and car.terms["parked"]))


def _move(car: Car, fact: Fact) -> None:
    """Something of the car is otherwise."""
    before = car.state
    if not (before and _is_here(before) and before["since_s"] == fact["since_s"]):
        car.alone, car.alone_s = fact["charge"], fact["t_s"]
    car.state = fact


def _begin(car: Car, fact: Fact, found: Audit) -> None:
    """Work begins: no grace for what was forbidden for long, and none at all for what is refused by name."""
    for term in _broken(car, fact["t_s"]):
        age_s = fact["real_s"] - car.broken_s.get(term, fact["real_s"])
        if term == "hours":
            age_s = max(age_s, _since_hours(car, fact))
        if age_s > GRACE_S or term in ("opted_in", "refused_models", "refused_tenants"):
            told = f"{fact['lease']} of {fact['model']} began"
            found.violations.append(Violation(car.name, term, fact["t_s"], told))


def _fetch(car: Car, fact: Fact, found: Audit) -> None:
    """Weights came: by a car that its owner lends, never over the cap, and no byte of them twice."""
    _turn_month(car, fact)
    for link in found.fetched_bytes:
        found.fetched_bytes[link] += fact[link]
    car.weights_bytes += fact["cellular"]
    car.metered_bytes += fact["cellular"]
    cap_bytes = _cap_bytes(car.terms)
    if fact["cellular"] and car.metered_bytes > cap_bytes:
        told = f"weights brought the month to {car.metered_bytes:,.0f} of {cap_bytes:,.0f} bytes"
        found.violations.append(Violation(car.name, "cellular_gb_a_month", fact["t_s"], told))
    came = fact["line"] + fact["lan"] + fact["cellular"]
    if fact["left_bytes"] != car.lacking_bytes - came:
        told = (
            f"{car.lacking_bytes:,.0f} bytes were lacking, {came:,.0f} came, {fact['left_bytes']:,.0f} are lacking"
        )
        found.violations.append(Violation(car.name, "weights", fact["t_s"], told))
    car.lacking_bytes = fact["left_bytes"]
    for term, since_s in car.broken_s.items():
        if fact["real_s"] - since_s > GRACE_S and term != "cellular_gb_a_month":  # that is judged by the byte
            found.violations.append(Violation(car.name, term, fact["t_s"], f"{came:,.0f} bytes of weights came"))


def _meter(car: Car, fact: Fact, found: Audit) -> None:
    """What a car says that it moved over the cellular network is no less than its fetches took."""
    _turn_month(car, fact)
    car.metered_bytes = fact["cellular_bytes"]
    if car.metered_bytes < car.weights_bytes:
        told = (
            f"{car.metered_bytes:,.0f} bytes are metered, and weights took {car.weights_bytes:,.0f} of this month"
        )
        found.violations.append(Violation(car.name, "cellular_gb_a_month", fact["t_s"], told))


def _cap_bytes(terms: Fact) -> float:
    """What an owner allows over the cellular network in a month; no facts tell what is infinite."""
    return float(terms.get("cellular_gb_a_month", inf)) * 1e9


def _turn_month(car: Car, fact: Fact) -> None:
    month = int(fact["t_s"] // MONTH_S)
    if month != car.month:
        car.month, car.metered_bytes, car.weights_bytes = month, 0.0, 0.0


def _since_hours(car: Car, fact: Fact) -> float:
    """Real seconds since the last of the owner's hours ended."""
    minute = fact["t_s"] / 60.0 % MINUTES
    ended = min((minute - _minutes(span.split("-")[1])) % MINUTES for span in car.terms["hours"])
    passed_s: float = fact["real_s"] - car.hardware["real_s"]
    pace: float = max(fact["t_s"] - car.hardware["t_s"], 1e-9) / max(passed_s, 1e-9)
    since_s: float = ended * 60.0 / pace
    return since_s


def _note(car: Car, fact: Fact) -> None:
    """What work breaks now, or would, and since when."""
    now_s: float = fact["real_s"]
    car.broken_s = {term: car.broken_s.get(term, now_s) for term in _broken(car, fact["t_s"])}


def _broken(car: Car, now_s: float) -> list[str]:
    """The terms that work breaks now, by the cars' clock."""
    terms, state = car.terms, car.state
    if not terms or not state:
        return ["opted_in"]
    minute = now_s / 60.0 % MINUTES
    spent = state["cellular_bytes"] >= _cap_bytes(terms)
    rules = (
        ("opted_in", not terms["opted_in"]),
        ("plugged in", not (state["plugged"] or (terms["parked"] and state["parked"]))),
        ("least_charge", state["charge"] < terms["least_charge"] - EXACT),
        ("hours", bool(terms["hours"]) and not any(_within(span, minute) for span in terms["hours"])),
        ("cellular_gb_a_month", not state["wifi"] and spent),
        ("hottest_cabin_c", state["cabin_c"] > terms.get("hottest_cabin_c", inf) + 0.1),
        ("least_pay_per_h", state.get("pay_per_h", inf) < terms["least_pay_per_h"]),
        ("refused_models", any(work["model"] in terms["refused_models"] for work in car.working.values())),
        ("refused_tenants", any(work["tenant"] in terms["refused_tenants"] for work in car.working.values())),
    )
    return [term for term, broken in rules if broken]


def _within(span: str, minute: float) -> bool:
    since, until = (_minutes(part) for part in span.split("-"))
    return (minute - since) % MINUTES < ((until - since) % MINUTES or MINUTES)


def _minutes(time: str) -> int:
    hours, minutes = time.strip().split(":")
    return int(hours) * 60 + int(minutes)


def _due(terms: Fact, since_s: float, until_s: float) -> Sequence[float]:
    """When, after since and up to until, the owner wanted to leave."""
    if not terms.get("departs_at") or not terms.get("wanted_charge"):
        return ()
    at_s = _minutes(terms["departs_at"]) % MINUTES * 60.0
    days = range(int((since_s - at_s) // 86400) + 1, int((until_s - at_s) // 86400) + 1)
    return [day * 86400 + at_s for day in days]


def _wish(car: Car, charge: float, due_s: float, found: Audit) -> None:
    """The wanted charge was to be there by now, if it could be had without work."""
    wanted = car.terms["wanted_charge"]
    could = min(wanted, car.alone)
    if car.terms["opted_in"] and charge < could - EXACT:
        told = f"charged to {charge:.1%} of the {wanted:.0%} wanted, and to {could:.1%} without work"
        found.violations.append(Violation(car.name, "wanted_charge", due_s, told))


def _charge_alone(car: Car, fact: Fact) -> None:
    """What the car would have taken from the wall until this fact if it had not worked, step by step."""
    hardware, seconds = car.hardware, fact["t_s"] - car.alone_s
    if "usable_kwh" not in hardware:  # it has no pack: always full
        return
    limit = max(hardware["charge_to"], car.terms.get("wanted_charge", 0.0))
    steps = min(int(seconds // STEP_S) + 1, 10_000)
    for _ in range(steps):
        over = (car.alone - hardware["taper_from"]) / (1 - hardware["taper_from"])
        part = min(1.0, max(hardware["taper_to"], 1 - (1 - hardware["taper_to"]) * over))
        power_kw = min(fact["given_kw"], hardware["wall_kw"] * part)
        gain = power_kw * seconds / steps / 3600 / hardware["usable_kwh"]
        car.alone = car.alone if car.alone >= limit else min(limit, car.alone + gain)
    car.alone_s = fact["t_s"]
