"""Whether a node will still be here: survival by cohort, hour of week and age, sharpened by its own history.

A node's rate of leaving, departures an hour, is that of its cohort at this hour and age, times a factor of its
own at this hour. Both are learnt the same way, departures over what was watched, each drawn towards something
coarser by the weight of a few departures (a gamma prior on a Poisson rate): an hour and age towards the hour
and the age apart, a node towards its cohort. Knows no clock, lease or job, and reads no file: what
is known at the start is a parameter. Hours are the car's, `pace` of them in one of the coordinator's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.core.events import Rows

Floats = NDArray[np.float64]

AGES_H = (2.0, 8.0, 24.0)
"""Where classes of age begin, after the first: an errand, a shift, a night, days."""
SHAPE = (2, 24, len(AGES_H) + 1)
"""Cells of a cohort: weekday or weekend, hour of day, class of age."""

HOUR_S = 3600.0
WEEK_H = 168.0
LONGEST_H = 2 * WEEK_H
"""Longer horizons are answered as if they were this long."""

_CELL_WEIGHT = 5.0  # departures that draw a cell towards the product of its hour and its age
_HOUR_WEIGHT = 3.0  # ... an hour towards its neighbours, those towards the cohort's mean, an age towards 1
_NODE_WEIGHT = 3.0  # ... a node towards its cohort
_OWN_HOUR_WEIGHT = 2.0  # ... an hour of a node towards the node
_OWN_KIND_WEIGHT = 4.0  # ... an hour of its weekdays or weekends towards that hour
_CELL_REMEMBERS = 200.0  # departures, so that a cohort may change its ways
_OWN_KEEPS = 0.99  # of its history, at each departure of a node
# Chosen in some thirty tries on the residential sessions; `python -m benchmarks forecast` measures them.

_EARLY_WEIGHT, _EARLY = 10.0, 0.5  # before a declared end a node leaves half as often as it would else: assumed
_DUE_WEIGHT, _DUE_PER_H = 10.0, 1.0  # from then on it leaves within an hour or so: assumed
_OWN_WORD_WEIGHT = 2.0  # departures that draw an owner's word towards that of the cohort: assumed


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Nodes with like habits, and what is known of them: figures that ship, or that were learnt."""

    name: str
    departures: Floats  # SHAPE
    watched_h: Floats  # SHAPE, node-hours: over 0 somewhere


_Cells = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
"""Where stretches of time fall: cohort, weekday or weekend, hour, class of age."""


class _Pieces(NamedTuple):
    """Stretches of node-time, each within one hour of the car's clock; arrays of one shape."""

    cells: _Cells
    length_h: Floats
    rate: Floats  # of the cohort, departures an hour
    due: Floats  # share of the length after the declared end
    told: NDArray[np.bool_]  # there is a declared end


class Survival(Protocol):
    """Who can tell how long nodes stay: the forecast, or somebody who knows."""

    def plugged_in(
        self,
        rows: Rows,
        cohort: NDArray[np.integer],
        hour_of_week: Floats,
        now_s: float,
        *,
        age_s: Floats | float = 0.0,
        remaining_s: Floats | float = np.nan,
        pace: Floats | float = 1.0,
    ) -> None:
        """As `Forecast.plugged_in`."""

    def left(self, rows: Rows, now_s: float, *, departed: bool = True) -> None:
        """As `Forecast.left`."""

    def stays(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """As `Forecast.stays`."""

    def present(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """As `Forecast.present`."""


class Forecast:
    """What is known of every node that was ever plugged in, by row: 0.7 kB each."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        """`cohorts` are named by their place in this sequence from then on."""
        self._names = tuple(cohort.name for cohort in cohorts)
        self._departures = np.array([cohort.departures for cohort in cohorts], np.float64)  # [C, *SHAPE]
        self._watched_h = np.array([cohort.watched_h for cohort in cohorts], np.float64)
        assert self._departures.shape[1:] == self._watched_h.shape[1:] == SHAPE
        self._rates = _rates(self._departures, self._watched_h)
        # [C, 4] with a declared end: departures before it, those expected there; departures after it, hours there
        self._word = np.tile(
            (_EARLY_WEIGHT * _EARLY, _EARLY_WEIGHT, _DUE_WEIGHT * _DUE_PER_H, _DUE_WEIGHT), (len(cohorts), 1)
        )
        self._cohort = np.zeros(0, np.intp)
        self._pace_h = np.zeros(0)  # car hours in a coordinator second
        self._monday_h = np.zeros(0)  # hour of the car's week at coordinator second 0, were its pace always so
        self._plugged_h = np.zeros(0)  # when its stay began, on that clock; NaN: not here
        self._watched_from_h = np.zeros(0)
        self._declared_h = np.zeros(0)  # NaN: nothing declared
        self._own_left = np.zeros((0, 2, 24), np.float32)
        self._own_expected = np.zeros((0, 2, 24), np.float32)  # departures, had it been as its cohort
        self._own_factor = np.zeros((0, 2, 24), np.float32)
        self._own_word = np.zeros((0, 4), np.float32)  # as `_word`

    def plugged_in(
        self,
        rows: Rows,
        cohort: NDArray[np.integer],
        hour_of_week: Floats,
        now_s: float,
        *,
        age_s: Floats | float = 0.0,
        remaining_s: Floats | float = np.nan,
        pace: Floats | float = 1.0,
    ) -> None:
        """These [N] are here, in the car's week at hours from Monday 00:00, for age_s already (the car's seconds).

        An owner may have declared that they leave in remaining_s, coordinator seconds; NaN: nothing declared.
        `pace`: seconds of the car in one of the coordinator's.
        """
        self._grow(int(rows.max(initial=-1)) + 1)
        self._cohort[rows] = cohort
        self._pace_h[rows] = np.asarray(pace) / HOUR_S
        self._monday_h[rows] = hour_of_week - self._pace_h[rows] * now_s
        self._watched_from_h[rows] = hour_of_week
        self._plugged_h[rows] = hour_of_week - np.asarray(age_s) / HOUR_S
        self._declared_h[rows] = hour_of_week + self._pace_h[rows] * remaining_s

    def left(self, rows: Rows, now_s: float, *, departed: bool = True) -> None:
        """The stays of these [N] ended: learn from them. Not `departed`: they are merely out of sight."""
        rows = rows[np.isfinite(self._plugged_h[rows])]
        if not rows.size:
            return
        from_h, until_h = self._watched_from_h[rows], self._now_h(rows, now_s)
        first_h = np.floor(from_h)
        count = (np.floor(until_h) - first_h).astype(np.intp) + 1
        last = np.cumsum(count) - 1
        at = np.repeat(np.arange(len(rows)), count)
        edge_h = first_h[at] + np.arange(len(at)) - (last - count + 1)[at]
        begin_h, end_h = np.maximum(edge_h, from_h[at]), np.minimum(edge_h + 1.0, until_h[at])
        pieces = self._pieces(rows[at], begin_h, end_h)
        expected = pieces.rate * pieces.length_h
        _, kind, hour, _ = pieces.cells
        np.add.at(self._watched_h, pieces.cells, pieces.length_h)
        np.add.at(self._own_expected, (rows[at], kind, hour), expected)
        early = (until_h < self._declared_h[rows]) & departed
        due = (until_h >= self._declared_h[rows]) & departed
        word = np.zeros((len(rows), 4))
        word[:, 0], word[:, 2] = early, due
        np.add.at(word[:, 1], at, expected * (1.0 - pieces.due) * pieces.told)
        np.add.at(word[:, 3], at, pieces.length_h * pieces.due)
        self._own_word[rows] += word
        np.add.at(self._word, self._cohort[rows], word)
        if departed:
            np.add.at(self._departures, tuple(index[last] for index in pieces.cells), 1.0)
            self._own_left[rows, kind[last], hour[last]] += 1.0
            for column in (self._own_left, self._own_expected, self._own_word):
                column[rows] *= _OWN_KEEPS
        kept = _CELL_REMEMBERS / np.maximum(self._departures, _CELL_REMEMBERS)
        self._departures *= kept
        self._watched_h *= kept
        self._rates = _rates(self._departures, self._watched_h)
        self._own_factor[rows] = _own_factor(self._own_left[rows], self._own_expected[rows])
        self._plugged_h[rows] = np.nan

    def stays(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """The chance that each is still here after each horizon, [H] or [N, H] coordinator seconds -> [N, H].

        0 for a row that is not here now.
        """
        horizon_h = np.minimum(horizon_s * self._pace_h[rows, None], LONGEST_H)
        now_h = self._now_h(rows, now_s)[:, None]
        first_h = np.floor(now_h)
        edge_h = first_h + np.arange(np.ceil(horizon_h.max(initial=0.0)) + 2)
        begin_h, end_h = np.maximum(edge_h, now_h), edge_h + 1.0
        pieces = self._pieces(rows[:, None], begin_h, end_h)
        early, due_per_h = self._word_of(rows)
        _, kind, hour, _ = pieces.cells
        rate = pieces.rate * self._own_factor[rows[:, None], kind, hour]
        rate *= np.where(pieces.told, early + (1.0 - early) * pieces.due, 1.0)
        rate += due_per_h * pieces.due
        risk = np.cumsum(rate * pieces.length_h, axis=1)
        piece = (np.floor(now_h + horizon_h) - first_h).astype(np.intp)
        beyond_h = np.take_along_axis(end_h, piece, 1) - (now_h + horizon_h)
        risk_then = np.take_along_axis(risk, piece, 1) - np.take_along_axis(rate, piece, 1) * beyond_h
        return np.where(np.isfinite(self._plugged_h[rows, None]), np.exp(-np.maximum(risk_then, 0.0)), 0.0)

    def present(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """The chance that each, here or not, is here after each horizon, be it that it left and came back: [N, H].

        Rows that were never plugged in: 0.
        """
        back = 0.29 * (1.0 - np.exp(-horizon_s / (6 * 3600.0)))
        stays = self.stays(rows, horizon_s, now_s)
        return stays + (1.0 - stays) * back

    def learnt(self) -> tuple[Cohort, ...]:
        """What is known of the cohorts by now."""
        known = zip(self._names, self._departures.copy(), self._watched_h.copy(), strict=True)
        return tuple(Cohort(*one) for one in known)

    def _now_h(self, rows: Rows, now_s: float) -> Floats:
        return self._monday_h[rows] + self._pace_h[rows] * now_s

    def _cells(self, rows: Rows, begin_h: Floats, end_h: Floats) -> _Cells:
        middle_h = (begin_h + end_h) / 2
        with np.errstate(invalid="ignore"):
            age_h = np.nan_to_num(middle_h - self._plugged_h[rows])
        kind = (middle_h % WEEK_H >= 5 * 24).astype(np.intp)
        hour = (middle_h % 24).astype(np.intp)
        return np.broadcast_to(self._cohort[rows], kind.shape), kind, hour, np.searchsorted(AGES_H, age_h, "right")

    def _pieces(self, rows: Rows, begin_h: Floats, end_h: Floats) -> _Pieces:
        cells = self._cells(rows, begin_h, end_h)
        length_h = end_h - begin_h
        declared_h = self._declared_h[rows]
        after_h = np.clip(end_h - declared_h, 0.0, length_h)
        due = np.nan_to_num(after_h / np.maximum(length_h, 1e-9))
        told = np.broadcast_to(np.isfinite(declared_h), length_h.shape)
        return _Pieces(cells, length_h, self._rates[cells], due, told)

    def _word_of(self, rows: Rows) -> tuple[Floats, Floats]:
        """How much rarer these leave before a declared end, and how soon after it: [N, 1] each."""
        cohort, own = self._word[self._cohort[rows], :, None], self._own_word[rows, :, None]
        early = (_OWN_WORD_WEIGHT + own[:, 0]) / (_OWN_WORD_WEIGHT * cohort[:, 1] / cohort[:, 0] + own[:, 1])
        due_per_h = (_OWN_WORD_WEIGHT + own[:, 2]) / (_OWN_WORD_WEIGHT * cohort[:, 3] / cohort[:, 2] + own[:, 3])
        return early, due_per_h

    def _grow(self, size: int) -> None:
        known = len(self._cohort)
        if size <= known:
            return
        room = max(size, 2 * known, 64)
        empty = {"_own_factor": 1.0, "_plugged_h": np.nan, "_declared_h": np.nan}
        for name in (
            *("_cohort", "_pace_h", "_monday_h", "_plugged_h", "_watched_from_h", "_declared_h"),
            *("_own_left", "_own_expected", "_own_factor", "_own_word"),
        ):
            before = getattr(self, name)
            column = np.full((room, *before.shape[1:]), empty.get(name, 0), before.dtype)
            column[:known] = before
            setattr(self, name, column)


def _rates(departures: Floats, watched_h: Floats) -> Floats:
    """Departures an hour in each cell, [C, *SHAPE]."""
    mean = departures.sum((1, 2, 3), keepdims=True)[..., 0] / watched_h.sum((1, 2, 3), keepdims=True)[..., 0]
    left, hours = departures.sum(3), watched_h.sum(3)
    around = (_smooth(left) + _HOUR_WEIGHT) / (_smooth(hours) + _HOUR_WEIGHT / mean)
    of_hour = ((left + _HOUR_WEIGHT) / (hours + _HOUR_WEIGHT / around))[..., None]
    expected = (watched_h * of_hour).sum((1, 2), keepdims=True)
    of_age = (departures.sum((1, 2), keepdims=True) + _HOUR_WEIGHT) / (expected + _HOUR_WEIGHT)
    rates: Floats = (departures + _CELL_WEIGHT) / (watched_h + _CELL_WEIGHT / (of_hour * of_age))
    return rates


def _own_factor(left: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much oftener than their cohort these leave at each hour: [N, 2, 24] -> [N, 2, 24]."""
    factor = (_NODE_WEIGHT + left.sum((1, 2), keepdims=True)) / (_NODE_WEIGHT + expected.sum((1, 2), keepdims=True))
    left, expected = _smooth(left), _smooth(expected)
    of_hour = left.sum(1, keepdims=True), expected.sum(1, keepdims=True)
    factor = factor * (_OWN_HOUR_WEIGHT + of_hour[0]) / (_OWN_HOUR_WEIGHT + of_hour[1] * factor)
    own: NDArray[np.float32] = factor * (_OWN_KIND_WEIGHT + left) / (_OWN_KIND_WEIGHT + expected * factor)
    return own


def _smooth(by_hour: NDArray[np.floating]) -> NDArray[np.floating]:
    """A quarter of each hour of the day (the last axis) goes to each of its neighbours."""
    return by_hour / 2 + (np.roll(by_hour, 1, -1) + np.roll(by_hour, -1, -1)) / 4
