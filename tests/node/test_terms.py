"""Owners' terms hold, whatever the coordinator would have the cars do."""

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import day, plan, profile
from node.battery import Battery, Flags, Floats
from node.guard import Guard, Reason
from node.site import Place
from node.terms import WILLING, Terms, assigned, changed, read

HW4, AI5 = profile.load("hw4"), profile.load("ai5")
STEP_S = 900.0
DAY_S = 24 * 3600.0


def guard_of(terms: Terms, place: Place | None = None, charge: float = 0.6) -> Guard:
    battery = Battery([HW4], np.array([charge]))
    return Guard([HW4], battery, place or Place(), [terms], ["minilm"], 0.0)


def reason(guard: Guard, now_s: float = 0.0, plugged: bool = True, parked: bool = False) -> Reason:
    guard.look(now_s, 1.0, np.array([plugged]), np.array([parked]), np.array([np.inf]))
    return Reason(int(guard.reason[0]))


@pytest.mark.parametrize(
    ("terms", "place", "because"),
    [
        (Terms(), Place(), Reason.NOT_OPTED_IN),
        (WILLING, Place(), Reason.NONE),
        (replace(WILLING, hours=("22:00-06:00",)), Place(), Reason.NONE),
        (replace(WILLING, hours=("06:00-22:00", "23:00-23:30")), Place(), Reason.OUT_OF_HOURS),
        (replace(WILLING, least_charge=0.61), Place(), Reason.CHARGE_LOW),
        (replace(WILLING, wanted_charge=0.75), Place(), Reason.CHARGING_FIRST),
        (replace(WILLING, wanted_charge=0.75, departs_at="07:30"), Place(), Reason.NONE),
        (replace(WILLING, wanted_charge=0.75, departs_at="00:30"), Place(), Reason.CHARGING_FIRST),
        (WILLING, Place(wifi=False), Reason.NONE),
        (replace(WILLING, cellular_gb_a_month=0.0), Place(wifi=False), Reason.NO_WIFI),
        (replace(WILLING, cellular_gb_a_month=1.0), Place(wifi=False), Reason.NONE),
        (replace(WILLING, hottest_cabin_c=19.0), Place(), Reason.TOO_HOT),
        (replace(WILLING, least_pay_per_h=0.3), Place(pay_per_h=0.2), Reason.PAID_TOO_LITTLE),
        (replace(WILLING, refused_models=("minilm",)), Place(), Reason.MODELS_REFUSED),
    ],
)
def test_each_term_keeps_a_car_from_work_by_itself(terms: Terms, place: Place, because: Reason) -> None:
    assert reason(guard_of(terms, place)) is because


def test_only_an_owner_who_says_so_lends_a_parked_car() -> None:
    assert reason(guard_of(WILLING), plugged=False, parked=True) is Reason.UNPLUGGED
    assert reason(guard_of(replace(WILLING, parked=True)), plugged=False, parked=True) is Reason.NONE
    assert reason(guard_of(replace(WILLING, parked=True)), plugged=False) is Reason.UNPLUGGED


def test_metered_bytes_are_spent_until_the_month_ends() -> None:
    guard = guard_of(replace(WILLING, cellular_gb_a_month=0.001), Place(wifi=False))
    guard.moved(0.0, np.array([2e6]))
    assert reason(guard) is Reason.CELLULAR_SPENT
    guard.moved(31 * DAY_S, np.array([0.0]))
    assert reason(guard) is Reason.NONE


def test_a_sleeping_car_costs_its_waking_and_one_that_charges_does_not() -> None:
    yes, no = np.array([True]), np.array([False])
    guard = guard_of(WILLING, charge=0.8)
    guard.look(0.0, 60.0, yes, no, np.array([np.inf]))
    guard.pass_time(60.0, 60.0, yes, no, no)
    assert guard.wake_j(60.0)[0] == HW4.wake_j > 0
    guard.pass_time(120.0, 60.0, yes, no, yes)
    assert guard.wake_j(120.0)[0] == 0.0, "it has just worked"
    charging = guard_of(WILLING, charge=0.5)
    charging.pass_time(60.0, 60.0, yes, no, no)
    assert charging.wake_j(60.0)[0] == 0.0


def test_what_has_no_pack_works_in_its_place_and_has_whatever_charge_is_wanted() -> None:
    kinds = [profile.load("rack"), profile.load("optimus"), HW4]
    battery = Battery(kinds, np.full(3, 0.3))
    strict = replace(WILLING, least_charge=0.5, wanted_charge=1.0, departs_at="07:00")
    guard = Guard(kinds, battery, Place(limit_kw=11.0), [strict] * 3, ["minilm"], 0.0)
    plugged, works = np.ones(3, np.bool_), np.array([True, False, False])
    for step in range(8):
        guard.look(step * STEP_S, STEP_S, plugged, ~plugged, np.full(3, np.inf))
        assert Reason(int(guard.reason[0])) is Reason.NONE
        assert Reason(int(guard.reason[2])) is not Reason.NONE, "a car has to charge first"
        guard.pass_time((step + 1) * STEP_S, STEP_S, plugged, ~plugged, works)
    assert battery.state_of_charge[0] == 1.0
    assert 0.3 < battery.state_of_charge[2] < 0.8


def test_a_file_says_what_differs_for_some_vehicles() -> None:
    common, others = read(
        '[terms]\nopted_in = true\nhours = ["22:00-06:30"]\n[vehicles.car-0002]\nleast_charge = 0.5\n'
    )
    assert (common.opted_in, common.hours, common.least_charge) == (True, ("22:00-06:30",), 0.2)
    assert others == {"car-0002": replace(common, least_charge=0.5)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[terms]\nleast_charge = 20", "least_charge = 20 cannot be; give a part of the pack from 0 to 1"),
        ("[terms]\nhours = ['9-5']", "hours '9-5' cannot be; write them like"),
        ("[terms]\ndeparts_at = '7.30'", "departs_at = '7.30' cannot be; give a time of day"),
        ("[terms]\nleast = 1", "there is no term 'least'; there are opted_in, parked"),
        ("[terms]\nopted_in = 'yes'", "opted_in = 'yes' cannot be; give true or false"),
        ("[vehicles.car-3]\nopted_in = true", "it has terms of 'car-3'; vehicles are named like car-0003"),
        ("[owner]", "it has a table 'owner'; there are"),
        ("terms", "it is not TOML"),
    ],
)
def test_a_term_that_cannot_be_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(text)


def test_terms_are_typed_as_in_the_file() -> None:
    assert assigned("least_charge=0.3") == {"least_charge": 0.3}
    assert assigned("departs_at=07:30") == {"departs_at": "07:30"}
    assert changed(WILLING, assigned("refused_models=minilm")).refused_models == ("minilm",)
    assert changed(Terms(), assigned("cellular_gb_a_month=inf")).cellular_gb_a_month == inf
    with pytest.raises(ValueError, match="names no value"):
        assigned("least_charge")


CARS, DAYS = 256, 4


def owners(generator: np.random.Generator) -> list[Terms]:
    """Owners of all kinds, most of whom take part."""

    def one_of(*choices: Any) -> Any:
        return choices[generator.integers(len(choices))]

    return [
        Terms(
            opted_in=one_of(True, True, True, False),
            parked=one_of(True, False),
            least_charge=generator.uniform(0, 0.9),
            wanted_charge=one_of(0.0, generator.uniform(0.3, 1.0)),
            departs_at=one_of("", "", "06:00", "07:30", "16:45"),
            hours=one_of((), (), ("22:00-06:30",), ("09:00-12:00", "13:00-17:00")),
            cellular_gb_a_month=one_of(0.0, 0.001, 1000.0),
            hottest_cabin_c=one_of(inf, 22.0, 30.0),
            least_pay_per_h=one_of(0.0, 0.0, 0.1, 0.3),
            refused_models=one_of((), (), ("minilm",)),
        )
        for _ in range(CARS)
    ]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([inf, 1000.0, 300.0, 40.0]),
    st.sampled_from([-10.0, 15.0, 30.0]),
    st.booleans(),
)
def test_no_term_is_broken_in_years_of_cars(seed: int, limit_kw: float, ambient_c: float, wifi: bool) -> None:
    """Under a coordinator that lends to whoever is offered: 2.8 car-years in each example."""
    generator = np.random.default_rng(seed)
    terms = owners(generator)
    home = plan.load("home")
    profiles = [(HW4, AI5)[at % 2] for at in range(CARS)]
    calendar = day.Day(home, CARS, 0, seed)
    battery = Battery(profiles, generator.uniform(0.1, 0.9, CARS))
    place = Place(limit_kw=limit_kw, wifi=wifi, pay_per_h=0.2, ambient_c=(ambient_c,) * 24)
    guard = Guard(profiles, battery, place, terms, ["minilm"], home.start_s)
    alone = Battery(profiles, battery.state_of_charge)  # the same cars without work, since each plugged in
    alone.charge_to = battery.charge_to
    nobody, unsaid = np.zeros(CARS, np.bool_), np.full(CARS, inf)
    judge = Judge(terms)
    worked = 0
    for step in range(int(DAYS * DAY_S / STEP_S)):
        now_s, until_s = home.start_s + step * STEP_S, home.start_s + (step + 1) * STEP_S
        plugged, parked = calendar.plugged.copy(), ~calendar.plugged & (generator.random(CARS) < 0.5)
        guard.look(now_s, STEP_S, plugged, parked, unsaid)
        computing = (guard.reason == Reason.NONE) & (generator.random(CARS) < 0.9)
        worked += int(computing.sum())
        least = battery.state_of_charge
        guard.pass_time(until_s, STEP_S, plugged, parked, computing)
        guard.moved(until_s, np.where(computing, 1e5, 0.0))
        alone.advance(STEP_S, plugged, nobody, nobody, nobody, guard.given_kw)
        least = np.minimum(least, battery.state_of_charge)
        judge.work(computing, now_s, plugged | (judge.parked & parked), least, wifi, guard.cellular_bytes)
        judge.charge(plugged, until_s, battery.state_of_charge, alone.state_of_charge)
        changes = calendar.advance(until_s)
        battery.arrive(changes.travelled, changes.used_kwh)
        alone.state_of_charge = np.where(calendar.plugged, alone.state_of_charge, battery.state_of_charge)
        alone.state_of_charge[changes.came] = battery.state_of_charge[changes.came]
    assert worked > 0


class Judge:
    """What the owners said, told again without the code that keeps it."""

    def __init__(self, terms: list[Terms]) -> None:
        self._opted_in = np.array([row.opted_in for row in terms])
        self.parked = np.array([row.parked for row in terms])
        self._least = np.array([row.least_charge for row in terms])
        self._wanted = np.array([row.wanted_charge for row in terms])
        self._night = np.array([row.hours == ("22:00-06:30",) for row in terms])
        self._office = np.array([len(row.hours) == 2 for row in terms])
        self._cap = np.array([row.cellular_gb_a_month for row in terms]) * 1e9
        self._pay = np.array([row.least_pay_per_h for row in terms])
        self._refuses = np.array([bool(row.refused_models) for row in terms])
        self._any_time = np.array([not row.departs_at for row in terms])
        self._due = {"06:00": 360, "07:30": 450, "16:45": 1005}
        self._departs = np.array([self._due.get(row.departs_at, -1) for row in terms])

    def work(
        self, computing: Flags, now_s: float, there: Flags, least: Floats, wifi: bool, moved_bytes: Floats
    ) -> None:
        """Nobody worked whose owner forbids it; `least` is the lowest charge meanwhile."""
        minute = now_s / 60 % 1440
        night, office = minute >= 1320 or minute < 390, 540 <= minute < 720 or 780 <= minute < 1020
        for broken in (
            ~self._opted_in,
            ~there,
            least < self._least - 1e-9,
            self._night & (not night),
            self._office & (not office),
            (moved_bytes > self._cap + 1e5) & (not wifi),
            self._pay > 0.2,
            self._refuses,
        ):
            assert not (computing & broken).any()

    def charge(self, plugged: Flags, now_s: float, charge: Floats, alone: Floats) -> None:
        """Who may leave now has what its owner wants, or had it not without work either."""
        due = plugged & (self._any_time | (self._departs == now_s / 60 % 1440))
        assert (~due | (charge >= np.minimum(self._wanted, alone) - 1e-6)).all()
