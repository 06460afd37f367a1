"""Cars are lent while they are on their chargers, and parked ones while their owners lend them so."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node import plan
from node.day import Day
from node.events import Event, PluggedIn, Unplugged
from node.lent import Lent
from node.terms import WILLING, Columns, Terms

CARS = 200
SPEED = 60.0
PARKED_TOO = replace(WILLING, parked=True)


def heard(here: NDArray[np.bool_], events: list[Event]) -> NDArray[np.bool_]:
    """Who is here by what a lot was told [N]; who was here is here."""
    here = here.copy()
    for event in events:
        match event:
            case Unplugged(nodes):
                here[nodes] = False
            case PluggedIn(nodes):
                here[nodes] = True
    return here


def test_a_lot_that_is_told_every_change_knows_who_is_lent() -> None:
    day = Day(plan.load("home"), CARS, 0, 2)
    terms = Columns([(WILLING, PARKED_TOO, replace(PARKED_TOO, opted_in=False))[at % 3] for at in range(CARS)])
    lent, here, stayed = Lent(day, SPEED), np.zeros(CARS, np.bool_), 0
    also_parked = np.arange(CARS) % 3 == 1
    for step in range(14 * 24 * 4):
        now_s, was_parked, were = day.start_s + step * 900.0, day.parked.copy(), lent.cars
        changes = day.advance(now_s)
        events = lent.follow(terms, now_s, changes)
        here = heard(here, events)
        assert here.tolist() == lent.cars.tolist() == (day.plugged | (day.parked & also_parked)).tolist()
        left = [node for event in events if isinstance(event, Unplugged) for node in event.nodes.tolist()]
        assert set(changes.left.tolist()) <= set(left)
        assert set(changes.drove[were[changes.drove]].tolist()) <= set(left), "a drive that was short is one, too"
        arrived = [node for event in events if isinstance(event, PluggedIn) for node in event.nodes.tolist()]
        assert set(changes.came.tolist()) <= set(arrived)
        plugged = set(changes.came.tolist()) & set(np.flatnonzero(was_parked & also_parked).tolist())
        assert plugged & set(left) <= set(changes.drove.tolist()), "plugged in where it stands a car has not left"
        stayed += len(plugged - set(left))
        for event in events:
            if isinstance(event, PluggedIn):
                assert (day.parked[event.nodes] == event.parked).all()
                assert event.age_s is not None
                assert event.age_s.tolist() == day.age_s(event.nodes, now_s).tolist()
                assert event.window_s.tolist() == (day.remaining_s(event.nodes, now_s) / SPEED).tolist()
    assert stayed > 0


def test_what_owners_say_holds_at_once_and_only_those_whom_it_concerns_are_told_of() -> None:
    day = Day(plan.load("home"), CARS, 0, 2)
    changes = day.advance(day.start_s)
    lent = Lent(day, SPEED)
    lent.follow(Columns([WILLING] * CARS), day.start_s, changes)
    (came,) = lent.follow(Columns([PARKED_TOO] * CARS), day.start_s)
    assert isinstance(came, PluggedIn)
    assert (came.parked, came.nodes.tolist()) == (True, np.flatnonzero(day.parked).tolist())
    (left,) = lent.follow(Columns([Terms()] * CARS), day.start_s)
    assert isinstance(left, Unplugged)
    assert left.nodes.tolist() == came.nodes.tolist(), "those on their chargers stay, and `guard` withholds them"
    assert not lent.follow(Columns([Terms()] * CARS), day.start_s)


def test_an_end_that_a_driver_told_is_known_until_the_car_comes_again() -> None:
    day = Day(plan.load("home"), CARS, 0, 2)
    terms = Columns([PARKED_TOO] * CARS)
    lent = Lent(day, SPEED)
    lent.follow(terms, day.start_s, day.advance(day.start_s))
    one = np.flatnonzero(~day.plugged & ~day.parked)[:1]
    day.plug(one, day.start_s, 3600.0)
    told = lent.plug(one, day.start_s, 3600.0)
    assert (told.declared, told.window_s.tolist()) == (True, [60.0])
    assert lent.cars[one].all()
    again = Lent(day, SPEED)
    again.declared_until_s = lent.declared_until_s
    declared = [
        event for event in again.follow(terms, day.start_s) if isinstance(event, PluggedIn) and event.declared
    ]
    assert [event.nodes.tolist() for event in declared] == [one.tolist()]
    day.unplug(one, day.start_s)
    assert lent.unplug(one).nodes.tolist() == one.tolist()
    assert not lent.cars[one].any()
    here, parked, until_s = lent.cars, False, day.start_s
    while one[0] not in (changes := day.advance(until_s)).came:
        here = heard(here, lent.follow(terms, until_s, changes))
        assert here[one].tolist() == day.parked[one].tolist(), "told of, though it was to leave"
        parked |= bool(day.parked[one[0]])
        until_s += 900.0
    assert parked
    assert np.isfinite(lent.declared_until_s[one[0]])
    lent.follow(terms, until_s, changes)
    assert lent.declared_until_s[one[0]] == np.inf
