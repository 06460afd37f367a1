"""Packs, sites and heat in columns keep the books of energy and the limits that are written down."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import profile, site
from node.battery import TAPER_FROM, Battery
from node.site import Heat, shared

HW4, AI5 = profile.load("hw4"), profile.load("ai5")
HOUR_S = 3600.0
YES, NO = np.array([True]), np.array([False])


def pack(charge: float, charge_to: float = 1.0) -> Battery:
    battery = Battery([HW4], np.array([charge]))
    battery.charge_to[:] = charge_to
    return battery


def test_below_the_taper_a_pack_takes_all_that_the_wall_has_left() -> None:
    battery = pack(0.2)
    battery.advance(HOUR_S, YES, YES)
    assert battery.state_of_charge[0] == pytest.approx(0.2 + (11.5 - 0.215 - 0.160) / 75)
    assert battery.compute_kwh[0] == pytest.approx(0.160)
    assert battery.awake_kwh[0] == pytest.approx(0.215)


def test_above_the_taper_charging_slows_down_and_computing_costs_it_nothing() -> None:
    lone, working = pack(0.85), pack(0.85)
    lone.advance(HOUR_S, YES, NO, NO)
    working.advance(HOUR_S, YES, YES)
    assert TAPER_FROM < lone.state_of_charge[0] < 0.85 + 11.5 / 75
    assert working.state_of_charge == lone.state_of_charge


def test_charging_ends_at_the_limit_and_the_wall_goes_on_to_feed_the_computer() -> None:
    battery = pack(0.79, 0.8)
    battery.advance(24 * HOUR_S, YES, YES)
    assert battery.state_of_charge[0] == 0.8


def test_away_from_the_charger_work_comes_out_of_the_pack() -> None:
    battery = pack(0.5)
    battery.advance(10 * HOUR_S, NO, YES, YES, parked=YES)
    assert battery.state_of_charge[0] == pytest.approx(0.5 - 10 * 0.375 / 75)
    battery.advance(10 * HOUR_S, NO, YES, YES, parked=NO)
    assert battery.state_of_charge[0] == pytest.approx(0.5 - 10 * 0.375 / 75), "a car that is away is not modelled"


def test_what_a_weak_connection_lacks_comes_out_of_the_pack() -> None:
    battery = pack(0.5)
    battery.advance(HOUR_S, YES, YES, YES, given_kw=np.array([0.1]))
    assert battery.state_of_charge[0] == pytest.approx(0.5 - 0.275 / 75)


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=12),
    st.one_of(st.floats(0, 100), st.just(float("inf"))),
)
def test_a_site_gives_no_more_than_it_has_and_wastes_nothing(wanted: list[float], limit_kw: float) -> None:
    given_kw, level_kw = shared(limit_kw, np.array(wanted))
    assert given_kw.sum() == pytest.approx(min(limit_kw, sum(wanted)))
    assert (given_kw <= np.array(wanted) + 1e-9).all()
    assert ((given_kw >= level_kw - 1e-9) | (given_kw == np.array(wanted))).all(), "who gets less gets the level"


@settings(max_examples=50)
@given(st.floats(-20, 45), st.integers(1, 200), st.booleans())
def test_a_cabin_stays_between_the_air_and_what_warms_it(ambient_c: float, steps: int, computing: bool) -> None:
    heat = Heat([HW4, AI5], 20.0)
    load_kw = np.array([0.375, 1.015]) if computing else np.zeros(2)
    for _ in range(steps):
        heat.advance(600.0, ambient_c, load_kw)
    most_c = max(20.0, ambient_c) + 12 * load_kw
    assert ((heat.cabin_c >= min(20.0, ambient_c) - 1e-9) & (heat.cabin_c <= most_c + 1e-9)).all()
    assert ((heat.speed() >= 0) & (heat.speed() <= 1)).all()


def test_a_hot_car_computes_more_slowly() -> None:
    heat = Heat([HW4, AI5], 45.0)
    heat.advance(20 * HOUR_S, 45.0, np.array([0.375, 1.015]))
    assert heat.speed()[0] == pytest.approx((70 - 49.5) / 20, abs=0.01) or heat.speed()[0] == 1.0
    assert heat.speed()[1] == pytest.approx((70 - (45 + 12 * 1.015)) / 20, abs=0.01)


def test_every_place_has_figures_for_every_hour() -> None:
    for name in site.names():
        place = site.load(name)
        for column in (place.price_per_kwh, place.carbon_g_per_kwh, place.ambient_c):
            assert len(column) == 24
    with pytest.raises(ValueError, match="there is no place 'moon'; choose one of depot, garage, home"):
        site.load("moon")
