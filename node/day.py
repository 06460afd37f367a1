"""When a lot's vehicles are on the charger: windows that open and close, on simulated time. What they do off it is
`parking`'s business.

Pure. Seconds here are simulated, since Monday 00:00 of the first week; the agent compresses real time. Every
draw is a function of the seed, the vehicle and how many draws it has had: neither the hour of asking nor the
other vehicles change a car's day. What a car keeps from day to day (how often it plugs in, its usual hour, its
usual stay) is drawn once; around it, each day is drawn so that over all cars hours and stays are as fitted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erf

import numpy as np
from numpy.typing import NDArray

from node.draws import fraction, key, mixed
from node.parking import Parking
from node.plan import DAY_S, HOUR_S, SATURDAY, SUNDAY, Habits, Plan
from node.storm import Storm
from node.vehicles import Nodes

LEAST_STAY_S = 60.0
"""A car that has stayed beyond every session on record is expected to stay a minute more (assumed)."""
SETTLING_S = 28 * DAY_S
"""Simulated time before the start, so that a lot begins in the middle of its cars' lives."""

_TOLD = -1
"""Band of a car whose driver said how long it stays."""
_LAST = 0.999
"""Part of the quantiles beyond which a car that comes so late by the clock leaves at the last (assumed)."""
_SCORE = np.linspace(-6.0, 6.0, 4801)
_BELOW = np.array([0.5 + 0.5 * erf(score / 2.0**0.5) for score in _SCORE.tolist()])

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What happened since the last call; a car in both left before it came."""

    left: Nodes  # [K]
    came: Nodes  # [L]
    drove: Nodes  # [D] were parked off the charger, and drove off
    travelled: Nodes  # [T] came, or are parked for the first time since they left
    used_kwh: NDArray[np.float64]  # [T] what the trip of each takes, the way back with it


@dataclass(frozen=True, slots=True, eq=False)
class Stays:
    """Times on the charger, storms left out. Columns of S."""

    node: Nodes
    begin_s: Seconds
    end_s: Seconds


class Day:
    """The days of N vehicles."""

    def __init__(
        self, plan: Plan | Sequence[Plan], vehicles: int, first_index: int, seed: int, storms: Sequence[Storm] = ()
    ) -> None:
        """`plan` is of all, or one of each. `first_index` numbers the first vehicle in the whole fleet: it seeds
        the cars' draws. All plans start as the first."""
        plans = (plan,) * vehicles if isinstance(plan, Plan) else tuple(plan)
        assert len(plans) == vehicles, "one plan of each vehicle"
        self._plans = tuple({id(one): one for one in plans}.values())
        place = {id(one): at for at, one in enumerate(self._plans)}
        self._plan_of = np.array([place[id(one)] for one in plans], np.intp)  # [N]
        self.start_s = self._plans[0].start_s
        self.plugged = np.zeros(vehicles, np.bool_)  # [N] as last told by `advance`, `plug` or `unplug`
        self.parked = np.zeros(vehicles, np.bool_)  # [N] likewise: off the charger, and not driving
        self._there = np.zeros(vehicles, np.bool_)  # [N] as simulated
        self._next_s = np.full(vehicles, self.start_s)  # [N] of the next change
        self._since_s = np.zeros(vehicles)  # [N] when the stay of now began
        self._left_s = np.full(vehicles, self.start_s)  # [N] when the absence of now began, or the last one
        self._origin_s = np.zeros(vehicles)  # [N] from where its quantiles count: then, or the midnight before
        self._band = np.full(vehicles, _TOLD, np.intp)  # [N] what the stay of now was drawn from
        self._passed = np.zeros(vehicles)  # [N] part of its quantiles that was over when it came
        self._stream = mixed(np.arange(first_index, first_index + vehicles, dtype=np.uint64), seed)
        self._drawn = np.zeros(vehicles, np.uint64)  # [N]
        traits = [fraction(mixed(self._stream, trait)) for trait in (2, 3, 4)]
        self._usual_hour, self._usual_stay = _score(traits[0]), _score(traits[1])  # [N]
        self._chance = np.zeros(vehicles)  # [N] own chance to plug in on a day
        self._away_s = [_absence(storm, self.start_s, self._stream) for storm in storms if storm.away_s]
        self._sundays = [(self.start_s + storm.at_s, storm.sundays) for storm in storms if storm.sundays]
        self._told_s = -np.inf
        self._travelled = np.ones(vehicles, np.bool_)  # [N] since it was last told what that took
        self._parking = Parking([one.away for one in plans], self._stream)
        everyone = np.arange(vehicles)
        for habits, at in self._by_plan(everyone):
            self._chance[at] = np.interp(traits[2][at], habits.cars_part, habits.cars_chance)
            self._next_s[at] = self._next_arrival_s(at, np.full(len(at), self.start_s - SETTLING_S))
        self._run(self.start_s, [])

    def next_change_s(self) -> float:
        """When the next window opens or closes; infinite when none will."""
        storms_s = [edge_s[edge_s > self._told_s].min(initial=np.inf) for edges in self._away_s for edge_s in edges]
        return float(min(self._next_s.min(initial=np.inf), self._parking.next_change_s(), *storms_s, np.inf))

    @property
    def by_charger(self) -> NDArray[np.bool_]:
        """Which of the parked stand by their chargers [N], unplugged; the others are elsewhere."""
        return self._parking.by_charger

    def advance(self, now_s: float) -> Changes:
        """Let simulated time pass until now_s."""
        went, came = self._run(now_s, [])
        withdrawn, back = np.zeros_like(self._there), np.zeros_like(self._there)
        for begin_s, end_s in self._away_s:
            withdrawn |= (begin_s <= now_s) & (now_s < end_s)
            back |= (self._told_s < end_s) & (end_s <= now_s)
        self._told_s = now_s
        until_s = np.where(self._there, self._since_s, self._next_s)
        drove = self._parking.pass_time(~self._there, self._left_s, until_s, now_s)
        self.parked = self._parking.parked & ~withdrawn
        self._travelled |= went
        here = self._there & ~withdrawn
        left = np.flatnonzero(self.plugged & (went | back | ~here))
        arrived = np.flatnonzero(here & (came | ~self.plugged | back))
        travelled = np.flatnonzero(self._travelled & (here | self.parked))
        self._travelled[travelled] = False
        self.plugged[:] = here
        return Changes(left, arrived, np.flatnonzero(drove), travelled, self._used_kwh(travelled))

    def stays(self, until_s: float) -> Stays:
        """Let simulated time pass; every stay that began by then, whole."""
        ended: list[Stays] = []
        self._run(until_s, ended)
        here = np.flatnonzero(self._there)
        parts = [*ended, Stays(here, self._since_s[here], self._next_s[here])]
        return Stays(*(np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)))

    def remaining_s(self, nodes: Nodes, now_s: float) -> Seconds:
        """How much longer these [K] are expected to stay: the median of a car that has its habits and has stayed as
        long."""
        expected = np.maximum(self._next_s[nodes] - now_s, LEAST_STAY_S)
        lasting_s = np.array([plan.stay_s for plan in self._plans])[self._plan_of[nodes]]
        expected = np.where(np.isfinite(expected), expected, lasting_s)
        for habits, at in self._by_plan(nodes):
            kept, free = _shares(habits.stay_spread)
            for band in np.unique(self._band[nodes[at]]):
                rows = at[self._band[nodes[at]] == band]
                if band == _TOLD or not rows.size:
                    continue
                quantiles_s, usual = habits.stays_s[band], kept * self._usual_stay[nodes[rows]]
                elapsed_s, passed = now_s - self._origin_s[nodes[rows]], self._passed[nodes[rows]]
                part = (np.interp(elapsed_s, quantiles_s, habits.part) - passed) / (1.0 - passed)
                gone = _below((_score(part) - usual) / free)
                middle = passed + (1.0 - passed) * _below(usual + free * _score((1.0 + gone) / 2.0))
                median_s = np.interp(middle, habits.part, quantiles_s)
                expected[rows] = np.maximum(median_s - elapsed_s, LEAST_STAY_S)
        at = np.flatnonzero(self.parked[nodes])
        expected[at] = self._parking.remaining_s(nodes[at], now_s)
        return expected

    def age_s(self, nodes: Nodes, now_s: float) -> Seconds:
        """For how long these [K] have been here, on the charger or parked off it; a storm that took them away for a
        while ends no stay."""
        since_s = np.where(self.parked[nodes], self._parking.since_s[nodes], self._since_s[nodes])
        return np.maximum(now_s - since_s, 0.0)

    def plug(self, nodes: Nodes, now_s: float, stay_s: float | None) -> None:
        """A driver's hand plugs these in, for so long, or until it unplugs them."""
        self.plugged[nodes] = self._there[nodes] = True
        self.parked[nodes] = self._travelled[nodes] = False
        self._since_s[nodes] = now_s
        self._band[nodes] = _TOLD
        self._next_s[nodes] = np.inf if stay_s is None else now_s + stay_s
        for begin_s, end_s in self._away_s:
            for edge_s in (begin_s, end_s):  # the storm that it is in is over for it
                edge_s[nodes] = np.where(begin_s[nodes] <= now_s, -np.inf, edge_s[nodes])

    def unplug(self, nodes: Nodes, now_s: float) -> None:
        """A driver's hand takes these away; they come back when their day says so."""
        self.plugged[nodes] = self.parked[nodes] = self._there[nodes] = False
        self._left_s[nodes] = now_s
        self._travelled[nodes] = True
        self._next_s[nodes] = self._next_arrival_s(nodes, np.full(len(nodes), now_s))

    def _by_plan(self, nodes: Nodes) -> Iterator[tuple[Habits, Nodes]]:
        """The habits of those that come and go, and where among these [K] they are."""
        for number, plan in enumerate(self._plans):
            at = np.flatnonzero(self._plan_of[nodes] == number)
            if plan.habits is not None and at.size:
                yield plan.habits, at

    def _run(self, until_s: float, ended: list[Stays]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Every change up to then; who left and who came meanwhile, [N] each."""
        went, came = np.zeros_like(self._there), np.zeros_like(self._there)
        while True:
            due = np.flatnonzero(self._next_s <= until_s)
            if not due.size:
                return went, came
            leaving, arriving = due[self._there[due]], due[~self._there[due]]
            went[leaving] = came[arriving] = True
            came[leaving] = False
            ended.append(Stays(leaving, self._since_s[leaving], self._next_s[leaving]))
            self._left_s[leaving] = self._next_s[leaving]
            self._next_s[leaving] = self._next_arrival_s(leaving, self._next_s[leaving])
            self._since_s[arriving] = self._next_s[arriving]
            self._next_s[arriving] = self._leaves_s(arriving)
            self._there[due] ^= True

    def _leaves_s(self, nodes: Nodes) -> Seconds:
        """Draw when these [K], which came at _since_s, leave."""
        leaves_s = np.full(len(nodes), np.inf)
        for habits, at in self._by_plan(nodes):
            rows = nodes[at]
            since_s = self._since_s[rows]
            number, kind = self._calendar(habits, since_s, till_morning=True)
            band = habits.band_of_hour[kind, (since_s % DAY_S // HOUR_S).astype(np.intp)]
            self._band[rows] = band
            self._origin_s[rows] = np.where(habits.by_clock[band], number * DAY_S, since_s)
            part = _kept(self._uniform(rows), self._usual_stay[rows], habits.stay_spread)
            for one in np.unique(band):
                of = np.flatnonzero(band == one)
                origin_s, quantiles_s = self._origin_s[rows[of]], habits.stays_s[one]
                passed = np.interp(since_s[of] - origin_s, quantiles_s, habits.part, left=0.0)
                passed = np.minimum(np.where(habits.by_clock[one], passed, 0.0), _LAST)
                ends_s = origin_s + np.interp(passed + (1.0 - passed) * part[of], habits.part, quantiles_s)
                leaves_s[at[of]] = np.maximum(ends_s, since_s[of] + LEAST_STAY_S)
                self._passed[rows[of]] = passed
        return leaves_s

    def _next_arrival_s(self, nodes: Nodes, after_s: Seconds) -> Seconds:
        """Draw when these [K] plug in next."""
        arrival_s = np.full(len(nodes), np.inf)
        for habits, at in self._by_plan(nodes):
            begins_s = np.floor((after_s[at] - habits.begins_s) / DAY_S) * DAY_S + habits.begins_s
            while at.size:
                # One draw a day tells both whether the car plugs in and, scaled, at what hour.
                rows = nodes[at]
                _, kind = self._calendar(habits, begins_s)
                draw = self._uniform(rows) / np.minimum(self._chance[rows] * habits.chance[kind], 1.0)
                share = _kept(np.minimum(draw, 1.0), self._usual_hour[rows], habits.hour_spread)
                at_s = np.full(len(at), np.inf)
                for one in np.unique(kind):
                    of = np.flatnonzero(kind == one)
                    hours, before = np.arange(25.0), habits.arrivals[one]
                    if habits.again:
                        gone = np.interp((after_s[at[of]] - begins_s[of]) / HOUR_S, hours, before)
                        share[of] = gone + (1.0 - gone) * share[of]
                        draw[of[gone >= _LAST]] = 1.0  # nothing is left of the day
                    at_s[of] = begins_s[of] + np.interp(share[of], before, hours) * HOUR_S
                found = (draw < 1.0) & (at_s > after_s[at])
                arrival_s[at[found]] = at_s[found]
                at, begins_s = at[~found], begins_s[~found] + DAY_S
        return arrival_s

    def _calendar(
        self, habits: Habits, at_s: Seconds, till_morning: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Which day of habits it is, counted from the first Monday, and its kind. `till_morning`: who comes on the
        eve of a holiday stays as on a Saturday."""
        number = np.floor((at_s - habits.begins_s) / DAY_S)
        weekday = (number % 7).astype(np.intp)
        for begins_s, days in self._sundays:
            first = np.floor((begins_s - habits.begins_s) / DAY_S)
            if till_morning:
                weekday[number == first - 1] = SATURDAY
            weekday[(first <= number) & (number < first + days)] = SUNDAY
        return number, habits.kind_of_day[weekday]

    def _used_kwh(self, nodes: Nodes) -> NDArray[np.float64]:
        used = np.zeros(len(nodes))
        draws = fraction(mixed(key(self._left_s[nodes]) ^ self._stream[nodes], seed=1))
        for habits, at in self._by_plan(nodes):
            used[at] = np.interp(draws[at], habits.energy_part, habits.energy_kwh)
        return used

    def _uniform(self, nodes: Nodes) -> NDArray[np.float64]:
        """The next draw of each of these [K], in [0, 1)."""
        self._drawn[nodes] += np.uint64(1)
        return fraction(mixed(self._drawn[nodes] ^ self._stream[nodes], seed=0))


def _columns(stays: Stays) -> tuple[Nodes, Seconds, Seconds]:
    return stays.node, stays.begin_s, stays.end_s


def _absence(storm: Storm, start_s: float, stream: NDArray[np.uint64]) -> tuple[Seconds, Seconds]:
    """From when to when each vehicle is away, [N] each."""
    begin_s = start_s + storm.at_s + storm.spread_s * fraction(mixed(stream, seed=5))
    return begin_s, begin_s + storm.away_s


def _kept(draw: NDArray[np.float64], usual: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """A uniform draw of a car [K] that leans to what is usual for it: over all cars uniform again."""
    kept, free = _shares(spread)
    return _below(kept * usual + free * _score(draw))


def _shares(spread: float) -> tuple[float, float]:
    """What of a normal score is the car's own, and what the day's."""
    return spread**0.5, (1.0 - spread) ** 0.5


def _score(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal score of a part, 0 to 1."""
    return np.interp(part, _BELOW, _SCORE)


def _below(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a normal distribution below a score."""
    below: NDArray[np.float64] = np.interp(score, _SCORE, _BELOW)
    return below
