"""The cars of a simulated week: when each is plugged in, how fast it is, and what is known of its habits."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from benchmarks import forecast as recorded
from benchmarks.policy.mix import (
    CARS,
    END_S,
    FAST_SHARE,
    FAST_SPEED,
    HOUR_S,
    UNSEEN_SHARE,
    WORKPLACE_SHARE,
    Suite,
)
from coordinator import cohorts
from coordinator.core.forecast import AGES_H, WEEK_H, Cohort, Forecast
from node import plan as days

_HISTORY = 120  # stays of a car that the forecast is told of: half a year of nights
_STEP_S = HOUR_S / 2
"""Before the week, the forecast is told so often."""
_END_H = END_S / HOUR_S
_WALKED_DAYS = 26 * 7  # before the week, of cars that are drawn from fits

_Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stay:
    """One time on the charger, in seconds of the week; the first ones may begin before it."""

    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Car:
    """One car's week, and the stays before it."""

    number: int
    speed: float  # HW4-seconds of work in a second
    cohort: int  # place among the cohorts
    stays: tuple[Stay, ...]
    before: tuple[Stay, ...]  # ended before the week began, the oldest first


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """The cars, and what is known of their cohorts."""

    cars: tuple[Car, ...]
    cohorts: tuple[Cohort, ...]

    def forecast(self) -> Forecast:
        """What a coordinator would know of these cars when the week begins: it saw them come and go."""
        made = Forecast(self.cohorts)
        come: defaultdict[int, list[int]] = defaultdict(list)
        gone: defaultdict[int, list[int]] = defaultdict(list)
        for car in self.cars:
            for stay in car.before:
                begin, end = floor(stay.begin_s / _STEP_S), floor(stay.end_s / _STEP_S)
                if begin < end:
                    come[begin].append(car.number)
                    gone[end].append(car.number)
        cohort = np.array([car.cohort for car in self.cars], np.intp)
        for step in sorted(come.keys() | gone.keys()):
            left, here = np.array(gone[step], np.int32), np.array(come[step], np.int32)
            made.left(left, step * _STEP_S)
            made.plugged_in(
                here, cohort[here], np.full(len(here), step * _STEP_S / HOUR_S % WEEK_H), step * _STEP_S
            )
        return made

    def work_s(self, until_s: float) -> float:
        """HW4-seconds that the cars plugged in could do by then."""
        return sum(
            car.speed * max(0.0, min(stay.end_s, until_s) - max(stay.begin_s, 0.0))
            for car in self.cars
            for stay in car.stays
        )


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where stays come from: recorded sessions, or the fits that are committed."""

    known: Cohort
    sessions: recorded.Sessions | None = None
    weeks: Sequence[tuple[int, int]] = field(default=())  # (user, week) after the split that lie within its records

    def draw(self, chosen: np.random.Generator) -> tuple[tuple[Stay, ...], tuple[Stay, ...]]:
        """The stays of a car in its week, and before."""
        if self.sessions is None:
            stays = _walked(self.known, chosen)
            return _split(stays)
        user, week = self.weeks[int(chosen.integers(len(self.weeks)))]
        of_user = self.sessions.user == user
        begin_h = self.sessions.begin_h[of_user] - week * WEEK_H
        end_h = self.sessions.end_h[of_user] - week * WEEK_H
        stays = [
            Stay(begin * HOUR_S, min(end, _END_H) * HOUR_S)
            for begin, end in zip(begin_h.tolist(), end_h.tolist(), strict=True)
            if begin < _END_H
        ]
        return _split(stays)


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Homes and workplaces."""

    home: Source
    workplace: Source

    @classmethod
    def read(cls, sessions: Path | None, workplace: Path | None) -> "Sources":
        """From files; what has none is drawn from the committed fits."""
        shipped = {cohort.name: cohort for cohort in cohorts.load()}
        return cls(
            Source(shipped["home"]) if sessions is None else _recorded("home", sessions, None),
            Source(shipped["workplace"])
            if workplace is None
            else _recorded("workplace", workplace, recorded.WORKPLACE_ZONE),
        )

    def fleet(self, suite: Suite, seed: int, count: int = CARS) -> Fleet:
        """The cars of a suite."""
        chosen = np.random.default_rng((seed, 1))
        at_work = round(count * WORKPLACE_SHARE) if suite.workplace else 0
        fast = set(chosen.permutation(count)[: round(count * FAST_SHARE)].tolist()) if suite.fast else set()
        cars = []
        for number in range(count):
            cohort = int(number >= count - at_work)
            stays, before = (self.workplace if cohort else self.home).draw(chosen)
            cars.append(Car(number, FAST_SPEED if number in fast else 1.0, cohort, stays, before))
        return Fleet(tuple(cars), (self.home.known, self.workplace.known))


def _split(stays: Sequence[Stay]) -> tuple[tuple[Stay, ...], tuple[Stay, ...]]:
    """Those of the week, and the last before it."""
    before = tuple(stay for stay in stays if stay.end_s <= 0)
    return tuple(stay for stay in stays if stay.end_s > 0), before[-_HISTORY:]


def _walked(known: Cohort, chosen: np.random.Generator) -> list[Stay]:
    """The stays of a car that comes and leaves as its cohort does."""
    chance, arrivals = (_home_arrivals, _work_arrivals)[known.name == "workplace"]()
    left, watched_h = known.departures + 0.5, known.watched_h + 0.5 * known.watched_h.sum() / known.departures.sum()
    rates = (left / watched_h).tolist()
    stays: list[Stay] = []
    free_h = -_WALKED_DAYS * 24.0
    for number in range(-_WALKED_DAYS, int(_END_H // 24)):
        weekend = int(number % 7 >= 5)
        begin_h = 24.0 * number + float(np.interp(chosen.random(), arrivals[weekend], np.arange(25)))
        if begin_h < free_h or chosen.random() >= chance[weekend]:
            continue
        free_h = min(_left_h(rates, begin_h, float(chosen.exponential())), _END_H)
        stays.append(Stay(begin_h * HOUR_S, free_h * HOUR_S))
    return stays


def _left_h(rates: list[list[list[float]]], begin_h: float, risk: float) -> float:
    """When the risk of leaving has added up to so much."""
    now_h = begin_h
    while now_h < _END_H:
        edge_h = floor(now_h) + 1.0
        age = bisect_right(AGES_H, now_h - begin_h)
        rate = rates[int(now_h % WEEK_H >= 5 * 24)][int(now_h % 24)][age]
        if risk <= rate * (edge_h - now_h):
            return now_h + risk / rate
        risk -= rate * (edge_h - now_h)
        now_h = edge_h
    return _END_H


def _home_arrivals() -> tuple[_Pair, NDArray[np.float64]]:
    """Chance that a car which is away comes on a day, by kind of day; share of arrivals before each hour."""
    habits = days.load("home").habits
    assert habits is not None
    hours = (habits.begins_s / HOUR_S + np.arange(25)) % 24  # their days begin at an hour of their own
    order = np.argsort(hours[:24])
    kinds = habits.kind_of_day[[2, 5]]  # Wednesday is any weekday, Saturday any day of a weekend
    shares = np.diff(habits.arrivals[kinds], axis=1)[:, order]
    before = np.concatenate([np.zeros((2, 1)), np.cumsum(shares, axis=1)], axis=1)
    chance = float(np.mean(habits.cars_chance)) * habits.chance[kinds]
    return (float(chance[0]), float(chance[1])), before


def _work_arrivals() -> tuple[_Pair, NDArray[np.float64]]:
    """The same of workplaces. Hours: about those of ACN-Data's site JPL, with a wave at noon; chances: assumed."""
    by_hour = np.zeros(24)
    by_hour[5:9] = 7, 25, 35, 8
    by_hour[11:14] = 10, 10, 5
    before = np.concatenate([[0.0], np.cumsum(by_hour) / by_hour.sum()])
    return (0.6, 0.02), np.stack([before, before])


def _recorded(name: str, path: Path, zone: ZoneInfo | None) -> Source:
    """Sessions, their weeks after the split, and the cohort as the sessions of most users before it teach it."""
    sessions = recorded.read(path, zone)
    split_h = float(np.quantile(sessions.begin_h, recorded.FIT_SHARE) // 24 * 24)
    unseen = np.random.default_rng(0).permutation(sessions.users) < UNSEEN_SHARE * sessions.users
    fitted = Forecast([recorded.flat(name)])
    recorded.replay(fitted, sessions.of(~unseen), None, split_h)
    (known,) = fitted.learnt()
    weeks: list[tuple[int, int]] = []
    for user in range(sessions.users):
        of_user: NDArray[np.bool_] = sessions.user == user
        first_h = max(float(sessions.begin_h[of_user].min()), split_h)
        last_h = float(sessions.end_h[of_user].max()) - _END_H
        weeks += [(user, week) for week in range(int(np.ceil(first_h / WEEK_H)), int(last_h // WEEK_H) + 1)]
    return Source(known, sessions, tuple(weeks))
