"""Weights reach the cars of a place: no byte twice, no link over its rate, no cap passed."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import profile, site
from node.battery import Battery, Flags, Floats
from node.guard import Guard, Reason
from node.network import Fetched, Fetches
from node.site import BYTES_PER_MBIT, Place, Rates
from node.terms import WILLING, Terms

HW4 = profile.load("hw4")
TOTAL = 125_000_000
HOME, GARAGE = site.load("home"), site.load("garage")
LINE, LAN = HOME.line.down_mbit * BYTES_PER_MBIT, HOME.lan_mbit * BYTES_PER_MBIT
CELLULAR = GARAGE.cellular.down_mbit * BYTES_PER_MBIT
DAY_S = 24 * 3600.0


def flags(*values: int) -> Flags:
    return np.array(values, np.bool_)


def floats(*values: float) -> Floats:
    return np.array(values, np.float64)


def test_a_place_says_what_its_links_give() -> None:
    assert Rates(214, 24, 0.013).down_s(TOTAL) == pytest.approx(4.673, abs=0.001)
    assert (HOME.link, HOME.lan_mbit, HOME.cellular) == (Rates(214, 24, 0.013), 300, GARAGE.link)
    assert (GARAGE.link, GARAGE.wifi) == (Rates(97, 9, 0.031), False)
    assert Place().link.down_s(TOTAL) == 0.0


def test_one_car_of_a_site_fetches_over_the_line_and_the_others_get_it_from_that_one() -> None:
    fetches = Fetches(3, HOME, TOTAL)
    all_of_them, windows_s, unmetered = flags(1, 1, 1), floats(3600, 3600, 3600), np.zeros(3)
    took_s = TOTAL / LINE + 2 * TOTAL / LAN
    expected_s = TOTAL / LINE + np.arange(3) * TOTAL / LAN
    assert fetches.left_s(all_of_them, all_of_them, windows_s, unmetered) == pytest.approx(expected_s)
    got = fetches.advance(took_s + 0.01, all_of_them, all_of_them, windows_s, unmetered)
    assert (got.line.tolist(), got.lan.tolist()) == ([TOTAL, 0, 0], [0, TOTAL, TOTAL])
    assert not fetches.left_bytes.any()


def test_whoever_will_have_its_weights_before_it_leaves_goes_first() -> None:
    fetches = Fetches(4, HOME, TOTAL)
    fetches.left_bytes[3] = TOTAL / 2
    needed_s = TOTAL / LINE
    windows_s = floats(0.9 * needed_s, 40.0, 20.0, 0.4 * needed_s)
    got = fetches.advance(1.0, flags(1, 1, 1, 1), flags(1, 1, 1, 1), windows_s, np.zeros(4))
    assert np.flatnonzero(got.all).tolist() == [2], "of those that make it the one that leaves soonest"
    got = fetches.advance(1.0, flags(1, 0, 0, 1), flags(1, 1, 1, 1), windows_s, np.zeros(4))
    assert np.flatnonzero(got.all).tolist() == [0], "none makes it as foreseen: the one that stays longest"


def test_a_fetch_that_a_departure_interrupts_goes_on_at_the_next_stay() -> None:
    fetches = Fetches(1, HOME, TOTAL)
    fetches.advance(0.6 * TOTAL / LINE, flags(1), flags(1), floats(inf), np.zeros(1))
    left = fetches.left_bytes[0]
    assert left == pytest.approx(0.4 * TOTAL, abs=1)
    assert fetches.told(0, 12.3) == "fetching weights: 60% of 125 MB, 12 s to go"
    assert not fetches.advance(3600.0, flags(0), flags(1), floats(0.0), np.zeros(1)).all.any()
    got = fetches.advance(3600.0, flags(1), flags(1), floats(inf), np.zeros(1))
    assert got.line[0] == left


def test_without_wifi_each_car_fetches_by_itself_and_begins_nothing_that_its_cap_has_no_room_for() -> None:
    fetches, room = Fetches(4, HOME, TOTAL), floats(TOTAL, TOTAL - 1, 0, 0)
    wifi = flags(0, 0, 1, 1)
    got = fetches.advance(1.0, flags(1, 1, 1, 1), wifi, np.full(4, inf), room)
    assert got.cellular.tolist() == [np.floor(CELLULAR), 0, 0, 0]
    assert got.line.tolist() == [0, 0, np.floor(LINE), 0]
    assert fetches.too_large(wifi, room).tolist() == [False, True, False, False]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_bytes_are_conserved_and_no_link_gives_more_than_it_can(data: st.DataObject) -> None:
    cars = data.draw(st.integers(1, 6))

    def some() -> Flags:
        return flags(*data.draw(st.lists(st.integers(0, 1), min_size=cars, max_size=cars)))

    fetches, got = Fetches(cars, HOME, TOTAL), np.zeros(cars)
    room = floats(*data.draw(st.lists(st.integers(0, 2 * TOTAL), min_size=cars, max_size=cars)))
    for _ in range(data.draw(st.integers(1, 12))):
        seconds, may, wifi = data.draw(st.floats(0, 30)), some(), some()
        windows_s = floats(*data.draw(st.lists(st.floats(0, 60), min_size=cars, max_size=cars)))
        before = fetches.left_bytes.copy()
        told_s = fetches.left_s(may, wifi, windows_s, room)
        moved = fetches.advance(seconds, may, wifi, windows_s, room)
        room = room - moved.cellular
        got += moved.all
        assert (moved.all == before - fetches.left_bytes).all()
        assert (moved.all == np.floor(moved.all)).all(), "whole bytes"
        assert (np.stack([moved.line, moved.lan, moved.cellular]) >= 0).all()
        assert not moved.all[~may].any()
        assert moved.line.sum() <= LINE * seconds + 1
        assert moved.lan.sum() <= LAN * seconds + 1
        assert (moved.cellular <= CELLULAR * seconds + 1).all()
        assert (room[moved.cellular > 0] >= 0).all(), "no cap is passed"
        assert not (moved.line + moved.lan)[~wifi].any()
        assert not moved.cellular[wifi].any()
        assert np.count_nonzero(moved.line) <= 1, "one at a time"
        had, has = may & wifi & (before == 0), (moved.line > 0) & (fetches.left_bytes == 0)
        assert not moved.lan.any() or had.any() or has.any(), "somebody there has it"
        done = may & (before > 0) & (told_s < seconds - 1e-3)
        assert (fetches.left_bytes[done] == 0).all(), "as was said"
    assert (got + fetches.left_bytes == TOTAL).all()


class Lot:
    """Cars under their owners' terms, on virtual time."""

    def __init__(self, place: Place, *terms: Terms) -> None:
        count = len(terms)
        battery = Battery([HW4] * count, np.full(count, 0.7))
        self.guard = Guard([HW4] * count, battery, place, terms, ["minilm"], 0.0, TOTAL)
        self.now_s = 0.0

    def live(self, seconds: float, plugged: Flags, window_s: float = 3600.0) -> Fetched:
        """One step, and the look after it."""
        self.now_s += seconds
        nobody, count = np.zeros(len(plugged), np.bool_), len(plugged)
        self.guard.pass_time(self.now_s, seconds, plugged, nobody, nobody)
        got = self.guard.fetch(self.now_s, seconds, plugged, np.full(count, window_s))
        self.guard.look(self.now_s, 1.0, plugged, nobody, np.full(count, inf))
        return got

    @property
    def reasons(self) -> list[Reason]:
        return [Reason(reason) for reason in self.guard.reason.tolist()]


def test_a_car_without_its_weights_does_no_work_and_says_why() -> None:
    lot = Lot(HOME, WILLING, WILLING, Terms())
    there = flags(1, 1, 1)
    lot.live(0.5, there)
    assert lot.reasons == [Reason.FETCHING, Reason.FETCHING, Reason.NOT_OPTED_IN]
    assert not lot.guard.awake.any()
    lot.live(2.5, there)
    left_s = (TOTAL / LINE - 2.5) / 2.0
    assert lot.guard.told(2.0)[0] == f"fetching weights: 53% of 125 MB, {left_s:.0f} s to go"
    lot.live(TOTAL / LINE - 2.49, there)
    assert lot.reasons[:2] == [Reason.NONE, Reason.FETCHING]
    assert lot.guard.awake.tolist() == [True, False, False], "to fetch it is awake"
    assert lot.live(60.0, there).lan[1] > 0.99 * TOTAL
    assert lot.guard.told(2.0)[:2] == ["", ""]


def test_weights_count_against_the_cap_with_everything_else_and_never_pass_it() -> None:
    generous, exact, short = (replace(WILLING, cellular_gb_a_month=size) for size in (1.0, 0.125, 0.124))
    lot = Lot(GARAGE, generous, exact, short, replace(generous, opted_in=False))
    there = flags(1, 1, 1, 1)
    lot.live(1.0, there)
    assert lot.reasons[:3] == [Reason.FETCHING, Reason.FETCHING, Reason.WEIGHTS_TOO_LARGE]
    for _ in range(30):
        lot.live(1.0, there)
    assert lot.guard.cellular_bytes.tolist() == [TOTAL, TOTAL, 0, 0]
    assert lot.reasons[:3] == [Reason.NONE, Reason.CELLULAR_SPENT, Reason.WEIGHTS_TOO_LARGE]
    lot.now_s = 31 * DAY_S
    lot.live(1.0, there)
    assert lot.reasons[:3] == [Reason.NONE, Reason.NONE, Reason.WEIGHTS_TOO_LARGE]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_nobody_works_before_its_weights_are_there_and_no_cap_is_passed(seed: int, wifi: bool) -> None:
    generator = np.random.default_rng(seed)
    caps = generator.choice([0.0, 0.1, 0.125, 0.2, 0.3], 16)
    lot = Lot(replace(HOME if wifi else GARAGE), *(replace(WILLING, cellular_gb_a_month=cap) for cap in caps))
    fetched, moved = np.zeros(16), np.zeros(16)
    for _ in range(60):
        there = generator.random(16) < 0.7
        got = lot.live(float(generator.uniform(0.0, 3.0)), there, float(generator.uniform(0.0, 10.0)))
        fetched += got.all
        works = np.array(lot.reasons) == Reason.NONE
        assert (fetched[works] == TOTAL).all()
        works_bytes = np.where(works, np.minimum(5e5, caps * 1e9 - lot.guard.cellular_bytes).clip(0.0), 0.0).round()
        moved += works_bytes
        lot.guard.moved(lot.now_s, works_bytes)
        assert (lot.guard.cellular_bytes == (0 if wifi else 1) * (fetched + moved)).all()
        assert wifi or (lot.guard.cellular_bytes <= caps * 1e9).all()
    assert fetched.max() == TOTAL
