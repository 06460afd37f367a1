"""The figures of a day in node/days, fitted to recorded sessions: `fit` makes the text of such a file.

A car that is away draws once a day of habits, with a chance of its own, an hour; it plugs in if that is still to
come. So the chance of a car and the share of an hour follow from how often it was drawn for (`_Draws`): each
expected number of arrivals is set equal to the number seen, in turns. What lies between cars is the intraclass
correlation of normal scores (one-way analysis of variance, Donner 1986, doi 10.2307/1403259).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.forecast import Sessions

DAY_H = 24.0
PART = (0, 0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99, 1)
CARS_PART = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1)
ENERGY_PART = (0.05, 0.25, 0.5, 0.75, 0.95)
LEAST_SESSIONS, LEAST_H = 20, 28 * DAY_H
"""A user of whom there is less on record says little of how often it plugs in."""
LEAST_CHANCE = 0.01
_ROUNDS = 30
_BAND = 120  # sessions, at least, of which quantiles are taken
_SHORTEST_H, _LONGEST_H = 1 / 60, 14 * DAY_H

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """What is decided before the fit: kinds of day that are told apart, and where a lot begins."""

    cohort: str
    kinds: Sequence[Sequence[str]]
    start_h: int
    state_of_charge: float


WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SHAPES = {
    "home": Shape("home", (WEEK[:4], WEEK[4:5], WEEK[5:6], WEEK[6:]), 90, 0.7),
    "workplace": Shape("workplace", (WEEK[:5], WEEK[5:]), 34, 0.6),
}


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What the sessions say. K kinds of day, hours of the day of habits."""

    begins_h: int
    chance: Floats  # [K] by kind, of the first one's
    arrivals: Floats  # [K, 24] shares, by hour of the day of habits
    bands: Sequence[tuple[int, int, int, Floats]]  # kind, from and until which hour of the clock, quantiles
    cars: Floats  # own chances, by CARS_PART
    hour_spread: float
    stay_spread: float


def fit(sessions: Sessions, shape: Shape) -> Fitted:
    """All figures of a day; ValueError when there are too few sessions."""
    if len(sessions.user) < 2 * _BAND:
        raise ValueError(f"{len(sessions.user)} sessions are too few to fit a day to; give at least {2 * _BAND}")
    kind_of_day = np.array([next(k for k, days in enumerate(shape.kinds) if day in days) for day in WEEK])
    begins_h = int(np.bincount((sessions.begin_h % DAY_H).astype(int), minlength=24).argmin())
    begins_h -= 24 * (begins_h >= 12)  # then the evening before belongs to a day
    draws = _Draws.of(sessions, begins_h, kind_of_day)
    users, length_h = known(sessions)
    chance, kinds, arrivals = draws.rates(len(shape.kinds), users)
    # Who stays long is drawn for less often: quantiles over sessions would count short stays twice. The root, for
    # part of that is chance: with it the windows of all sessions come out as they were recorded.
    weight = length_h / DAY_H / np.maximum(np.bincount(draws.user, minlength=len(users)), 1)
    bands = _bands(sessions, begins_h, kind_of_day, weight[sessions.user] ** 0.5)
    return Fitted(
        begins_h,
        kinds,
        arrivals,
        bands,
        np.clip(_weighted_quantiles(chance[users], length_h[users], CARS_PART), LEAST_CHANCE, 1.0),
        _spread(draws.hour_scores(arrivals), draws.user_of_arrival),
        _spread(_stay_scores(sessions, begins_h, kind_of_day, bands), sessions.user),
    )


def spreads(sessions: Sessions, shape: Shape) -> tuple[float, float, float]:
    """How unlike each other cars are: shares of the variance of hour and stay that lie between them, and by how
    much the chance to plug in on a day rises from p10 to p90 of them."""
    fitted = fit(sessions, shape)
    few, many = np.interp((0.1, 0.9), CARS_PART, fitted.cars)
    return fitted.hour_spread, fitted.stay_spread, float(many - few)


@dataclass(frozen=True, slots=True, eq=False)
class _Draws:
    """Every day of habits on which a car was away, or left: D draws, of which some ended in an arrival."""

    user: NDArray[np.int32]  # [D]
    kind: NDArray[np.intp]  # [D]
    from_h: Floats  # [D] of the day of habits: since when it was away
    arrived_h: Floats  # [D] NaN: it did not plug in

    @classmethod
    def of(cls, sessions: Sessions, begins_h: int, kind_of_day: NDArray[np.intp]) -> "_Draws":
        """From what lies between the sessions of a user."""
        user, day, from_h, arrived_h = [], [], [], []
        order = np.lexsort((sessions.begin_h, sessions.user))
        who = sessions.user[order]
        begin_h, end_h = sessions.begin_h[order] - begins_h, sessions.end_h[order] - begins_h
        for at in np.flatnonzero(who[1:] == who[:-1]).tolist():
            left_h, came_h = float(end_h[at]), float(begin_h[at + 1])
            first, last = int(left_h // DAY_H), int(came_h // DAY_H)
            for number in range(first, last + 1):
                user.append(who[at])
                day.append(number)
                from_h.append(left_h - DAY_H * first if number == first else 0.0)
                arrived_h.append(came_h - DAY_H * last if number == last else np.nan)
        return cls(
            np.array(user, np.int32), kind_of_day[np.array(day, np.intp) % 7], np.array(from_h), np.array(arrived_h)
        )

    @property
    def user_of_arrival(self) -> NDArray[np.int32]:
        """[A] of those that may be compared by hour: they had nearly the whole day before them."""
        return self.user[self._comparable]

    @property
    def _comparable(self) -> NDArray[np.bool_]:
        return np.isfinite(self.arrived_h) & (self.from_h < DAY_H / 4)

    def rates(self, kinds: int, known: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        """Chance by user, its factor by kind of day, shares of the hours by kind."""
        arrived = np.isfinite(self.arrived_h)
        hour = np.where(arrived, self.arrived_h, 0).astype(np.intp)
        seen = np.zeros((kinds, 24))
        np.add.at(seen, (self.kind[arrived], hour[arrived]), 1.0)
        by_user = np.bincount(self.user[arrived], minlength=len(known)).astype(np.float64)
        chance, factor = np.full(len(known), 0.5), np.ones(kinds)
        shares = np.full((kinds, 24), 1 / 24)
        open_hours = np.clip(np.arange(1, 25) - self.from_h[:, None], 0.0, 1.0)  # [D, 24] part still to come
        for _ in range(_ROUNDS):
            own = np.minimum(chance[self.user] * factor[self.kind], 1.0)
            for kind in range(kinds):
                of = self.kind == kind
                expected = own[of] @ open_hours[of]
                shares[kind] = seen[kind] / np.maximum(expected, 1e-9)
                factor[kind] *= shares[kind].sum()
                shares[kind] /= shares[kind].sum()
            factor /= factor[0]
            ahead = np.einsum("dh,dh->d", open_hours, shares[self.kind])
            expected = np.bincount(self.user, ahead * factor[self.kind], len(known))
            chance = np.minimum(by_user / np.maximum(expected, 1e-9), 1.0)
        return chance, factor, shares

    def hour_scores(self, arrivals: Floats) -> Floats:
        """Normal scores of the hours of arrival among all of their kind of day [A]."""
        of = self._comparable
        before = np.concatenate([np.zeros((len(arrivals), 1)), np.cumsum(arrivals, axis=1)], axis=1)
        hour = self.arrived_h[of].astype(np.intp)
        share = before[self.kind[of], hour] + (self.arrived_h[of] - hour) * arrivals[self.kind[of], hour]
        return _scores(share)


def known(sessions: Sessions) -> tuple[NDArray[np.bool_], Floats]:
    """Which users have enough on record, and how long each is on it, hours [U]."""
    first, last = np.full(sessions.users, np.inf), np.full(sessions.users, -np.inf)
    np.minimum.at(first, sessions.user, sessions.begin_h)
    np.maximum.at(last, sessions.user, sessions.end_h)
    often = np.bincount(sessions.user, minlength=sessions.users) >= LEAST_SESSIONS
    length_h = np.where(np.isfinite(first), last - first, 0.0)
    enough: NDArray[np.bool_] = often & (length_h >= LEAST_H)
    if not enough.any():
        raise ValueError(f"no user has {LEAST_SESSIONS} sessions over {LEAST_H / DAY_H:g} days; give more sessions")
    return enough, length_h


def _kinds(sessions: Sessions, begins_h: int, kind_of_day: NDArray[np.intp]) -> NDArray[np.intp]:
    of: NDArray[np.intp] = kind_of_day[((sessions.begin_h - begins_h) // DAY_H % 7).astype(np.intp)]
    return of


def _bands(
    sessions: Sessions, begins_h: int, kind_of_day: NDArray[np.intp], weight: Floats
) -> Sequence[tuple[int, int, int, Floats]]:
    """Quantiles of the stay, by kind of day and hours of plugging in: as few hours as hold enough sessions."""
    kind = _kinds(sessions, begins_h, kind_of_day)
    hour, length_h = sessions.begin_h % DAY_H, sessions.end_h - sessions.begin_h
    bands: list[tuple[int, int, int, Floats]] = []
    for one in range(int(kind_of_day.max()) + 1):
        edges = [0]
        for until in range(1, 25):
            ahead = np.count_nonzero((kind == one) & (hour >= until))
            here = np.count_nonzero((kind == one) & (hour >= edges[-1]) & (hour < until))
            if until == 24 or (here >= _BAND and ahead >= _BAND):
                edges.append(until)
        for begin, end in pairwise(edges):
            of = (kind == one) & (hour >= begin) & (hour < end)
            of = next(some for some in (of, kind == one, kind >= 0) if some.any())
            stays_h = np.clip(length_h[of], _SHORTEST_H, _LONGEST_H)
            bands.append((one, begin, end, _weighted_quantiles(stays_h, weight[of], PART)))
    return bands


def _stay_scores(
    sessions: Sessions,
    begins_h: int,
    kind_of_day: NDArray[np.intp],
    bands: Sequence[tuple[int, int, int, Floats]],
) -> Floats:
    """Normal scores of the stays, each among those of its band [S]."""
    kind = _kinds(sessions, begins_h, kind_of_day)
    hour, length_h = sessions.begin_h % DAY_H, sessions.end_h - sessions.begin_h
    share = np.zeros(len(kind))
    for one, begin, end, _ in bands:
        of = np.flatnonzero((kind == one) & (hour >= begin) & (hour < end))
        share[of[np.argsort(length_h[of], kind="stable")]] = (np.arange(len(of)) + 0.5) / max(1, len(of))
    return _scores(share)


def _scores(share: Floats) -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf(one) for one in np.clip(share, 1e-4, 1 - 1e-4).tolist()])


def _spread(scores: Floats, group: NDArray[np.int32]) -> float:
    """Intraclass correlation: what share of the variance lies between the groups, each counted as one."""
    count = np.bincount(group).astype(np.float64)
    mean = np.bincount(group, scores) / np.maximum(count, 1.0)
    within = np.bincount(group, (scores - mean[group]) ** 2)
    several = count >= 5  # of fewer, a mean says nothing
    if np.count_nonzero(several) < 2:
        return 0.0
    inside = within[several].sum() / (count[several] - 1).sum()
    between = max(0.0, float(np.var(mean[several], ddof=1) - np.mean(inside / count[several])))
    return float(min(between / (between + inside), 0.95))


def _weighted_quantiles(values: Floats, weights: Floats, part: Sequence[float]) -> Floats:
    order = np.argsort(values)
    middle = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return np.interp(part, middle, values[order])


def text(fitted: Fitted, name: str, shape: Shape, energy_kwh: Floats, top: Sequence[str], scale: float) -> str:
    """The file of a day; `scale` is of all chances."""
    cars = np.clip(fitted.cars * scale, LEAST_CHANCE, 1.0)
    lines = [
        *(f"# {line}" for line in top),
        f'name = "{name}"',
        f'cohort = "{shape.cohort}"  # whose habits the coordinator\'s forecast takes its owners to have',
        f"start_h = {shape.start_h}  # hour of the week at which a lot begins, from Monday 00:00, assumed",
        f"state_of_charge = {shape.state_of_charge}  # before the first trip, assumed",
        f"begins_h = {fitted.begins_h}  # from midnight: a day of habits begins when the fewest plug in",
        "again = false",
        "",
        "# Chance that a car which is away plugs in on a day, at an hour still to come, at these parts of the",
        "# cars; and which share of the variance of the hour and of the stay, as normal scores, lies between cars.",
        "[cars]",
        f"part = {_listed(CARS_PART)}",
        f"chance = {_listed(cars)}",
        f"hour_spread = {fitted.hour_spread:.3f}",
        f"stay_spread = {fitted.stay_spread:.3f}",
        "",
        "# Energy that a session delivers, kWh: what the trip before it took.",
        "[energy]",
        f"part = {_listed(ENERGY_PART)}",
        f"kwh = {_listed(np.quantile(energy_kwh, ENERGY_PART))}",
        "",
        "# Hours connected are given at these parts of the sessions, by hour of plugging in.",
        "[stays]",
        f"part = {_listed(PART)}",
    ]
    for kind, days in enumerate(shape.kinds):
        shares = np.roll(100 * fitted.arrivals[kind], fitted.begins_h)
        listed = ", ".join(f'"{day}"' for day in days)
        lines += [
            "",
            "[[kind]]",
            f"days = [{listed}]",
            f"chance = {fitted.chance[kind]:.3g}  # times the car's own",
            f"arrivals = {_listed(shares)}  # per cent, in each hour from 0 to 23",
            "stay = [",
            *(
                f"    {{ from_hour = {begin}, until_hour = {end}, hours = {_listed(hours)} }},"
                for of, begin, end, hours in fitted.bands
                if of == kind
            ),
            "]",
        ]
    return "\n".join(lines) + "\n"


def _listed(values: Sequence[float] | Floats) -> str:
    return "[" + ", ".join(f"{value:.3g}" if value < 99.5 else f"{value:.0f}" for value in values) + "]"
