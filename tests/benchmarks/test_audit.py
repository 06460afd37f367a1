"""The audit finds a term that was broken, whoever broke it, and nothing where none was."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.audit import Audit, audit
from node import client, day, plan, profile
from node.battery import Battery, Flags
from node.facts import Facts
from node.guard import Guard, Reason
from node.lease import Lease
from node.messages import Granted, Range, Token
from node.site import Place, Rates
from node.terms import WILLING, Terms
from tests.node.test_agent import grant, running

HW4 = profile.load("hw4")
STEP_S = 600.0
PACE = 1200.0

WIFI_ONLY = replace(WILLING, cellular_gb_a_month=0.0)
OWNERS = (
    WIFI_ONLY,
    Terms(),
    replace(WIFI_ONLY, least_charge=0.6, parked=True),
    replace(WIFI_ONLY, wanted_charge=0.95),
    replace(WIFI_ONLY, wanted_charge=0.95, departs_at="07:00"),
    replace(WIFI_ONLY, hours=("22:00-06:30",)),
    replace(WIFI_ONLY, cellular_gb_a_month=0.0001),
    replace(WIFI_ONLY, hottest_cabin_c=20.0),
    replace(WIFI_ONLY, least_pay_per_h=0.3),
    replace(WIFI_ONLY, refused_models=("minilm",)),
)


def a_week(folder: Path, place: Place, ignoring: Reason | None = None, weights_bytes: int = 0) -> Audit:
    """Ten cars on virtual time, lent whenever they may be, or as if one reason to keep them did not count."""
    count = len(OWNERS)
    home = plan.load("home")
    calendar = day.Day(home, count, 0, 5)
    battery = Battery([HW4] * count, np.full(count, 0.7))
    guard = Guard([HW4] * count, battery, place, OWNERS, ["minilm"], home.start_s, weights_bytes)
    facts = Facts(folder, "lot", [f"car-{at:04d}" for at in range(count)])
    facts.cars([HW4] * count, guard, "", place.limit_kw, home.start_s, 0.0)
    held: dict[int, Lease] = {}
    everyone = np.arange(count)
    for step in range(int(7 * 86400 / STEP_S)):
        now_s, plugged = home.start_s + step * STEP_S, calendar.plugged.copy()
        real_s, parked = step * STEP_S / PACE, ~plugged & (step % 3 > 0)
        guard.look(now_s, STEP_S, plugged, parked, np.full(count, np.inf))
        since_s = now_s - calendar.age_s(np.arange(count), now_s)
        facts.states(guard, plugged, parked, since_s, now_s, real_s)
        works = (guard.reason == Reason.NONE) | (guard.reason == ignoring)
        _lend(facts, held, works, step, now_s, real_s)
        guard.pass_time(now_s + STEP_S, STEP_S, plugged, parked, works)
        guard.moved(now_s + STEP_S, np.where(works, 1000.0, 0.0), ~plugged)
        fetched = guard.fetch(now_s + STEP_S, STEP_S, plugged | parked, calendar.remaining_s(everyone, now_s))
        facts.fetched(fetched, guard.fetches.left_bytes, now_s + STEP_S, real_s + STEP_S / PACE)
        changes = calendar.advance(now_s + STEP_S)
        battery.arrive(changes.travelled, changes.used_kwh)
    facts.close()
    return audit(folder)


def _lend(facts: Facts, held: dict[int, Lease], works: Flags, step: int, now_s: float, real_s: float) -> None:
    for node, lease in list(held.items()):
        if not works[node]:
            facts.ended(held.pop(node), now_s, real_s)
            assert lease.node == node
    for node in np.flatnonzero(works).tolist():
        if node not in held:
            granted = Granted(Token(1, step), node, "minilm", "job-1", [Range(0, 1)], [b""], (), 30.0, False, False)
            held[node] = Lease.of(granted)
            facts.began(held[node], now_s, real_s)


def broken(found: Audit) -> set[tuple[str, str]]:
    return {(violation.car, violation.term) for violation in found.violations}


HOME = Place("home", pay_per_h=0.2)
SLOW = replace(HOME, limit_kw=4.0)
STREET = replace(HOME, wifi=False)


@pytest.mark.parametrize("place", [HOME, STREET, SLOW, replace(HOME, limit_kw=12.0)])
def test_a_week_in_which_all_terms_hold_is_clean(tmp_path: Path, place: Place) -> None:
    found = a_week(tmp_path, place)
    assert not found.violations
    assert found.cars == len(OWNERS)
    assert found.leases > 0
    assert found.departures > 0


@pytest.mark.parametrize(
    ("ignored", "place", "car", "term"),
    [
        (Reason.NOT_OPTED_IN, HOME, 1, "opted_in"),
        (Reason.UNPLUGGED, HOME, 0, "plugged in"),
        (Reason.CHARGE_LOW, HOME, 2, "least_charge"),
        (Reason.CHARGING_FIRST, SLOW, 3, "wanted_charge"),
        (Reason.CHARGING_FIRST, SLOW, 4, "wanted_charge"),
        (Reason.OUT_OF_HOURS, HOME, 5, "hours"),
        (Reason.NO_WIFI, STREET, 0, "cellular_gb_a_month"),
        (Reason.CELLULAR_SPENT, STREET, 6, "cellular_gb_a_month"),
        (Reason.TOO_HOT, HOME, 7, "hottest_cabin_c"),
        (Reason.PAID_TOO_LITTLE, HOME, 8, "least_pay_per_h"),
        (Reason.MODELS_REFUSED, HOME, 9, "refused_models"),
    ],
)
def test_a_term_that_is_not_kept_is_found(
    tmp_path: Path, ignored: Reason, place: Place, car: int, term: str
) -> None:
    assert (f"car-{car:04d}", term) in broken(a_week(tmp_path, place, ignored))


WEIGHTS_BYTES = 60_000_000


def test_a_week_that_begins_without_weights_is_clean(tmp_path: Path) -> None:
    found = a_week(tmp_path / "home", replace(HOME, line=Rates(214, 24), lan_mbit=300), None, WEIGHTS_BYTES)
    assert not found.violations
    # Who does not take part fetches nothing, nor who is paid too little, or refuses the model.
    line, lan = (found.fetched_bytes[link] / WEIGHTS_BYTES for link in ("line", "lan"))
    assert (line + lan, line, lan) == (7, 4, 3), "four came when nobody was there who had them"
    street = replace(STREET, cellular=Rates(97, 9))
    found = a_week(tmp_path / "street", street, None, WEIGHTS_BYTES)
    assert not found.violations
    assert not any(found.fetched_bytes.values()), "the only cap that is there is too small"


def test_work_without_weights_is_found(tmp_path: Path) -> None:
    slow = replace(HOME, line=Rates(0.1, 0.1))
    assert ("car-0000", "weights") in broken(a_week(tmp_path, slow, Reason.FETCHING, WEIGHTS_BYTES))


@pytest.mark.parametrize(
    ("altered", "term"),
    [
        ({"cellular": 2000.0}, "cellular_gb_a_month"),
        ({"left_bytes": 500.0}, "weights"),
        ({}, None),
    ],
)
def test_weights_over_the_cap_or_out_of_nowhere_are_found(
    tmp_path: Path, altered: dict[str, float], term: str | None
) -> None:
    owner = {**asdict(WILLING), "cellular_gb_a_month": 1e-6, "hottest_cabin_c": 99.0}
    fact = {"car": "car-0000", "t_s": 0.0, "real_s": 0.0}
    state = {"plugged": True, "parked": False, "since_s": 0.0, "charge": 0.5, "given_kw": 0.0, "cabin_c": 20.0}
    told = [
        {**fact, "fact": "car", "weights_bytes": 2000.0},
        {**fact, "fact": "terms", **owner},
        {**fact, "fact": "state", **state, "cellular_bytes": 0.0, "withheld": 12, "wifi": False},
        {**fact, "fact": "fetched", "line": 0.0, "lan": 0.0, "cellular": 1000.0, "left_bytes": 1000.0},
    ]
    told[-1] |= altered
    if "cellular" in altered:
        told[-1]["left_bytes"] = 0.0
    (tmp_path / "lot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    assert broken(audit(tmp_path)) == ({("car-0000", term)} if term else set())


def test_a_meter_that_leaves_weights_out_is_found(tmp_path: Path) -> None:
    terms = [replace(WILLING, cellular_gb_a_month=1.0)]
    place, yes = replace(STREET, cellular=Rates(97, 9)), np.ones(1, np.bool_)
    guard = Guard([HW4], Battery([HW4], np.full(1, 0.7)), place, terms, ["minilm"], 0.0, WEIGHTS_BYTES)
    facts = Facts(tmp_path, "lot", ["car-0000"])
    facts.cars([HW4], guard, "", inf, 0.0, 0.0)
    for step in range(10):
        facts.states(guard, yes, ~yes, np.zeros(1), float(step), float(step))
        facts.fetched(
            guard.fetch(step + 1.0, 1.0, yes, np.ones(1)), guard.fetches.left_bytes, step + 1.0, step + 1.0
        )
        guard.look(step + 1.0, 1.0, yes, ~yes, np.full(1, np.inf))
    facts.close()
    found = audit(tmp_path)
    assert not found.violations
    assert found.fetched_bytes == {"line": 0.0, "lan": 0.0, "cellular": WEIGHTS_BYTES}
    (file,) = tmp_path.glob("*.jsonl")
    file.write_text(re.sub(r'"cellular_bytes": [0-9.]+', '"cellular_bytes": 0.0', file.read_text()))
    assert broken(audit(tmp_path)) == {("car-0000", "cellular_gb_a_month")}


def test_what_has_no_pack_is_judged_as_always_full(tmp_path: Path) -> None:
    rack, yes = profile.load("rack"), np.ones(1, np.bool_)
    terms = [replace(WILLING, wanted_charge=0.95, departs_at="00:30")]
    guard = Guard([rack], Battery([rack], np.full(1, 0.7)), HOME, terms, ["minilm"], 0.0)
    facts = Facts(tmp_path, "lot", ["car-0000"])
    facts.cars([rack], guard, "", inf, 0.0, 0.0)
    for step in range(5):
        facts.states(guard, yes, ~yes, np.zeros(1), step * STEP_S, step * STEP_S / PACE)
        guard.pass_time((step + 1) * STEP_S, STEP_S, yes, ~yes, yes)
    facts.close()
    found = audit(tmp_path)
    assert (found.cars, found.violations) == (1, [])


def charging(folder: Path, lot: str, limit_kw: float, place: Place) -> None:
    """A car that charges for ten minutes in a lot of its own."""
    yes = np.ones(1, np.bool_)
    guard = Guard([HW4], Battery([HW4], np.full(1, 0.3)), place, [WILLING], ["minilm"], 0.0)
    facts = Facts(folder, lot, [lot])
    facts.cars([HW4], guard, "harbour", limit_kw, 0.0, 0.0)
    for step in range(5):
        guard.pass_time(step * 120.0, 120.0, yes, ~yes, ~yes)
        facts.states(guard, yes, ~yes, np.zeros(1), step * 120.0, step * 120.0 / PACE)
    facts.close()


def test_lots_of_one_place_take_no_more_than_its_connection_gives_or_are_found_out(tmp_path: Path) -> None:
    place = replace(HOME, limit_kw=12.0)
    for lot in ("car-0000", "car-0001"):
        charging(tmp_path / "shared", lot, place.limit_kw, place.part(1, 2))
        charging(tmp_path / "greedy", lot, place.limit_kw, place)
    shared = audit(tmp_path / "shared")
    assert (shared.places, shared.violations) == (1, [])
    (greedy,) = audit(tmp_path / "greedy").violations
    assert (greedy.car, greedy.term) == ("harbour home", "limit_kw")
    assert greedy.told == "its cars took 23.0 of 12.0 kW"


def test_a_car_whose_lot_came_back_is_one_car(tmp_path: Path) -> None:
    charging(tmp_path, "car-0000", 30.0, HOME)
    (tmp_path / "car-0000.jsonl").rename(tmp_path / "killed.jsonl")
    charging(tmp_path, "car-0000", 30.0, HOME)
    assert audit(tmp_path).cars == 1


def test_a_parked_cars_wanted_charge_counts_when_it_drives_off(tmp_path: Path) -> None:
    """What an owner lends off the charger may not be drained below what he wants to leave with."""
    yes, no = np.ones(1, np.bool_), np.zeros(1, np.bool_)
    terms = [replace(WILLING, parked=True, wanted_charge=0.6)]
    guard = Guard([HW4], Battery([HW4], np.full(1, 0.62)), HOME, terms, ["minilm"], 0.0)
    facts = Facts(tmp_path, "lot", ["car-0000"])
    facts.cars([HW4], guard, "", inf, 0.0, 0.0)
    for step in range(20):
        facts.states(guard, no, yes, np.zeros(1), step * 3600.0, step * 3.0)
        guard.pass_time(step * 3600.0, 3600.0, no, yes, yes)
    facts.states(guard, no, no, np.zeros(1), 20 * 3600.0, 60.0)
    facts.close()
    assert broken(audit(tmp_path)) == {("car-0000", "wanted_charge")}


def rows(folder: Path) -> Sequence[dict[str, Any]]:
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_lot_writes_what_the_audit_reads(tmp_path: Path) -> None:
    """A term that changes in the middle of a lease ends it; and the audit sees through facts that were altered."""
    folder = tmp_path / "facts"

    async def scene() -> None:
        async with running(tmp_path, facts=folder) as lot:
            await lot.coordinator.to_say.put(grant(1, 0, [b""], deferred=(0,), tenant="acme"))
            await lot.coordinator.fetching.wait()  # so the lease is live, and stays so
            (car,), stop_s = await asyncio.to_thread(
                client.terms, tmp_path, ["car-0004"], {"refused_tenants": ["acme"]}
            )
            assert stop_s < 1.0
            assert car.terms["refused_tenants"] == ["acme"]
            await lot.coordinator.until(lambda m: any(report.ended for report in m.reports))
            await lot.coordinator.to_say.put(grant(2, 0, [b"x"], tenant="acme"))
            await lot.coordinator.until(lambda m: any(o.node == 0 and o.share == 0 for o in m.offers))
            await lot.coordinator.to_say.put(grant(3, 1, [b"x"], tenant="acme"))
            await lot.coordinator.results(1, number=3)

    asyncio.run(scene())
    assert not audit(folder).violations
    facts = rows(folder)
    assert [fact["lease"] for fact in facts if fact["fact"] == "began"] == ["1/1", "1/3"]
    (file,) = folder.glob("*.jsonl")
    late = {**next(fact for fact in facts if fact.get("lease") == "1/1"), "lease": "1/9"}
    late |= {key: facts[-1][key] for key in ("t_s", "real_s")}
    file.write_text("".join(json.dumps(fact) + "\n" for fact in [*facts, late]))
    assert broken(audit(folder)) == {("car-0004", "refused_tenants")}


def test_a_fact_that_lacks_something_is_named_with_its_file(tmp_path: Path) -> None:
    fact = {"fact": "ended", "car": "car-0000", "t_s": 0.0, "real_s": 0.0}
    (tmp_path / "lot.jsonl").write_text(json.dumps(fact) + "\n" + json.dumps(fact) + "\n")
    with pytest.raises(ValueError, match=r"lot\.jsonl has a fact that lacks 'lease'"):
        audit(tmp_path)


def test_a_folder_without_facts_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no facts in"):
        audit(tmp_path)
