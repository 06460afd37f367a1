"""When a lot's vehicles are on the charger: windows that open and close, on simulated time.

Pure. Seconds here are simulated, since Monday 00:00 of the first week; the agent compresses real time. Every
draw is a function of the seed, the vehicle and how many draws it has had: neither the hour of asking nor the
other vehicles change a car's day. Figures are lines in node/days/*.toml, each with its source.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.vehicles import Nodes

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
LEAST_STAY_S = 60.0
"""A car that has stayed beyond every session on record is expected to stay a minute more (assumed)."""
SETTLING_S = 28 * DAY_S
"""Simulated time before the start, so that a lot begins in the middle of its cars' lives."""

_TOLD = -1
"""Band of a car whose driver said how long it stays."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a kind of car lives."""

    name: str
    cohort: str  # whose habits its owners have, as the coordinator's forecast names them
    start_s: float  # simulated time at which a lot begins
    state_of_charge: float  # at the start
    stay_s: float  # expected of a car that stays until unplugged
    comes_and_goes: bool  # else plugged in from the start until unplugged by hand
    plugs_in: float = 0.0  # chance a day
    arrivals: NDArray[np.float64] | None = None  # [2, 25] weekday and weekend: share before each hour
    energy_part: NDArray[np.float64] | None = None  # [E]
    energy_kwh: NDArray[np.float64] | None = None  # [E]
    band_of_hour: NDArray[np.intp] | None = None  # [2, 24] row of `stays_s`
    part: NDArray[np.float64] | None = None  # [Q] rising from 0 to 1
    stays_s: NDArray[np.float64] | None = None  # [B, Q] quantiles of a stay


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What happened since the last call; a car in both left before it came."""

    left: Nodes  # [K]
    came: Nodes  # [L]
    used_kwh: NDArray[np.float64]  # [L] what the trip of each that came has taken


def names() -> tuple[str, ...]:
    """Every day there is a file for."""
    files = resources.files("node").joinpath("days").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name: str) -> Plan:
    """The day of that name; raises ValueError when there is none."""
    if name not in names():
        raise ValueError(f"there is no day {name!r}; choose one of {', '.join(names())}")
    tables = tomllib.loads(resources.files("node").joinpath("days", f"{name}.toml").read_text("utf-8"))
    if "arrivals" not in tables:
        return Plan(
            tables["name"], tables["cohort"], 0.0, tables["state_of_charge"], tables["stay_h"] * HOUR_S, False
        )
    return _coming_and_going(tables)


class Day:
    """The days of N vehicles."""

    def __init__(self, plan: Plan, vehicles: int, first_index: int, seed: int) -> None:
        """`first_index` numbers the first vehicle in the whole fleet: it seeds the cars' draws."""
        self.plan = plan
        self.plugged = np.zeros(vehicles, np.bool_)  # [N] as last told by `advance`, `plug` or `unplug`
        self._there = np.zeros(vehicles, np.bool_)  # [N] as simulated
        self._next_s = np.full(vehicles, plan.start_s)  # [N] of the next change
        self._since_s = np.zeros(vehicles)  # [N] when the stay of now began
        self._band = np.full(vehicles, _TOLD, np.intp)  # [N] what the stay of now was drawn from
        self._stream = _mixed(np.arange(first_index, first_index + vehicles, dtype=np.uint64), seed)
        self._drawn = np.zeros(vehicles, np.uint64)  # [N]
        if plan.comes_and_goes:
            everyone = np.arange(vehicles)
            self._next_s = self._next_arrival_s(everyone, np.full(vehicles, plan.start_s - SETTLING_S))
            self._run(plan.start_s)

    def next_change_s(self) -> float:
        """When the next window opens or closes; infinite when none will."""
        return float(self._next_s.min(initial=np.inf))

    def advance(self, now_s: float) -> Changes:
        """Let simulated time pass until now_s."""
        went, came = self._run(now_s)
        left = np.flatnonzero(self.plugged & (went | ~self._there))
        arrived = np.flatnonzero(self._there & (came | ~self.plugged))
        self.plugged[:] = self._there
        return Changes(left, arrived, self._used_kwh(arrived))

    def remaining_s(self, nodes: Nodes, now_s: float) -> NDArray[np.float64]:
        """How much longer these [K] are expected to stay: the median, given how long they have stayed."""
        expected = np.maximum(self._next_s[nodes] - now_s, LEAST_STAY_S)
        expected = np.where(np.isfinite(expected), expected, self.plan.stay_s)
        if self.plan.stays_s is not None and self.plan.part is not None:
            for band, quantiles_s in enumerate(self.plan.stays_s):
                rows = np.flatnonzero(self._band[nodes] == band)
                age_s = now_s - self._since_s[nodes[rows]]
                part = np.interp(age_s, quantiles_s, self.plan.part)
                median_s = np.interp((1.0 + part) / 2.0, self.plan.part, quantiles_s)
                expected[rows] = np.maximum(median_s - age_s, LEAST_STAY_S)
        return expected

    def age_s(self, nodes: Nodes, now_s: float) -> NDArray[np.float64]:
        """For how long these [K] have been here."""
        return np.maximum(now_s - self._since_s[nodes], 0.0)

    def plug(self, nodes: Nodes, now_s: float, stay_s: float | None) -> None:
        """A driver's hand plugs these in, for so long, or until it unplugs them."""
        self.plugged[nodes] = self._there[nodes] = True
        self._since_s[nodes] = now_s
        self._band[nodes] = _TOLD
        self._next_s[nodes] = np.inf if stay_s is None else now_s + stay_s

    def unplug(self, nodes: Nodes, now_s: float) -> None:
        """A driver's hand takes these away; they come back when their day says so."""
        self.plugged[nodes] = self._there[nodes] = False
        self._next_s[nodes] = self._next_arrival_s(nodes, np.full(len(nodes), now_s))

    def _run(self, until_s: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Every change up to then; who left and who came meanwhile, [N] each."""
        went, came = np.zeros_like(self._there), np.zeros_like(self._there)
        while True:
            due = np.flatnonzero(self._next_s <= until_s)
            if not due.size:
                return went, came
            leaving, arriving = due[self._there[due]], due[~self._there[due]]
            went[leaving] = came[arriving] = True
            came[leaving] = False
            self._since_s[arriving] = self._next_s[arriving]
            self._next_s[leaving] = self._next_arrival_s(leaving, self._next_s[leaving])
            self._next_s[arriving] += self._stay_s(arriving)
            self._there[due] ^= True

    def _stay_s(self, nodes: Nodes) -> NDArray[np.float64]:
        """Draw how long these [K], which came at _since_s, stay."""
        plan = self.plan
        if plan.band_of_hour is None or plan.stays_s is None or plan.part is None:
            return np.full(len(nodes), np.inf)
        weekend, hour = _calendar(self._since_s[nodes])
        self._band[nodes] = plan.band_of_hour[weekend, hour]
        draws = self._uniform(nodes)
        rows = zip(draws, self._band[nodes], strict=True)
        return np.array([np.interp(draw, plan.part, plan.stays_s[band]) for draw, band in rows])

    def _next_arrival_s(self, nodes: Nodes, after_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw when these [K] plug in next."""
        arrival_s = np.full(len(nodes), np.inf)
        if self.plan.arrivals is None:
            return arrival_s
        midnight_s = np.floor(after_s / DAY_S) * DAY_S
        waiting = np.arange(len(nodes))
        while waiting.size:
            # One draw a day tells both whether the car plugs in and, scaled, at what hour.
            draw = self._uniform(nodes[waiting]) / self.plan.plugs_in
            weekend, _ = _calendar(midnight_s[waiting])
            hours = np.where(
                weekend == 1,
                np.interp(draw, self.plan.arrivals[1], np.arange(25.0)),
                np.interp(draw, self.plan.arrivals[0], np.arange(25.0)),
            )
            at_s = midnight_s[waiting] + hours * HOUR_S
            found = (draw < 1.0) & (at_s > after_s[waiting])
            arrival_s[waiting[found]] = at_s[found]
            midnight_s[waiting] += DAY_S
            waiting = waiting[~found]
        return arrival_s

    def _used_kwh(self, nodes: Nodes) -> NDArray[np.float64]:
        if self.plan.energy_part is None or self.plan.energy_kwh is None:
            return np.zeros(len(nodes))
        draws = _fraction(_mixed(self._drawn[nodes] ^ self._stream[nodes], seed=1))
        return np.interp(draws, self.plan.energy_part, self.plan.energy_kwh)

    def _uniform(self, nodes: Nodes) -> NDArray[np.float64]:
        """The next draw of each of these [K], in [0, 1)."""
        self._drawn[nodes] += np.uint64(1)
        return _fraction(_mixed(self._drawn[nodes] ^ self._stream[nodes], seed=0))


def _calendar(at_s: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """1 for Saturday and Sunday else 0, and the hour of the day."""
    weekend = (np.floor(at_s / DAY_S) % 7 >= 5).astype(np.intp)
    return weekend, (at_s % DAY_S // HOUR_S).astype(np.intp)


def _fraction(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The upper 53 bits as a number in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Sebastiano Vigna's splitmix64 finaliser: bits that look random, the same for the same input."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = (values + np.uint64(seed & 0xFFFFFFFF) * np.ones_like(values) * golden + np.uint64(1)) * golden
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _coming_and_going(tables: Mapping[str, Any]) -> Plan:
    shares = np.array([tables["arrivals"]["weekday"], tables["arrivals"]["weekend"]], np.float64)
    before = np.concatenate([np.zeros((2, 1)), np.cumsum(shares, axis=1)], axis=1)
    bands = tables["stays"]["band"]
    band_of_hour = np.zeros((2, 24), np.intp)
    for row, band in enumerate(bands):
        kind = 0 if band["days"] == "weekday" else 1
        band_of_hour[kind, band["from_hour"] : band["until_hour"]] = row
    stays_s = np.array([band["hours"] for band in bands], np.float64) * HOUR_S
    return Plan(
        name=tables["name"],
        cohort=tables["cohort"],
        start_s=tables["start_h"] * HOUR_S,
        state_of_charge=tables["state_of_charge"],
        stay_s=float(np.median(stays_s)),
        comes_and_goes=True,
        plugs_in=tables["plugs_in"],
        arrivals=before / before[:, -1:],
        energy_part=np.array(tables["energy"]["part"]),
        energy_kwh=np.array(tables["energy"]["kwh"]),
        band_of_hour=band_of_hour,
        part=np.array(tables["stays"]["part"]),
        stays_s=stays_s,
    )
