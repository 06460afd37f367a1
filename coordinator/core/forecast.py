"""Whether a node will still be here: survival by cohort, hour of week and age, sharpened by its own history.

A node's rate of leaving, departures an hour, is that of its cohort at this hour and age, times a factor of its
own at this hour. Both are learnt the same way, departures over what was watched, each drawn towards something
coarser by the weight of a few departures (a gamma prior on a Poisson rate): an hour and age towards the hour
and the age apart, a node towards its cohort. Knows no clock, lease or job, and reads no file: what
is known at the start is a parameter. Hours are the car's, `pace` of them in one of the coordinator's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.core.events import Rows

Floats = NDArray[np.float64]

AGES_H = (2.0, 8.0, 24.0)
"""Where classes of age begin, after the first: an errand, a shift, a night, days."""
SHAPE = (2, 24, len(AGES_H) + 1)
"""Cells of a cohort: weekday or weekend, hour of day, class of age."""

HOURS = SHAPE[:2]

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

_PRESENCE_WEIGHT_H = 200.0  # node-hours that what is known at first of an hour's presence is worth: assumed
_PRESENCE_REMEMBERS_H = 4_000.0  # node-hours, so that a cohort may change its ways
_OWN_SHARE_WEIGHT_H = 48.0  # draws a node's share of time here towards its cohort's
_OWN_PRESENCE_WEIGHT_H = 8.0  # ... its share in an hour of its day towards the cohort's there, by its own share
_RETURN_WEIGHT = 3.0  # returns that draw how often a node comes towards its cohort's
_LAST_TIME = 0.005  # of a node's departures: it does not come again
_LEAST_SHARE = 0.002  # nobody is surely here, or surely away

_EARLY_WEIGHT, _EARLY = 10.0, 0.5  # before a declared end a node leaves half as often as it would else: assumed
_DUE_WEIGHT, _DUE_PER_H = 10.0, 1.0  # from then on it leaves within an hour or so: assumed
_OWN_WORD_WEIGHT = 2.0  # departures that draw an owner's word towards that of the cohort: assumed
_LONGEST_STAY_H = 10_000.0  # of a longer one only so much is learnt from
_RATED_AFTER = 100  # stays that end before rates are brought up to date if nobody asks for them
_HOURS_BEFORE, _HOURS_AFTER = np.roll(np.arange(24), 1), np.roll(np.arange(24), -1)


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Nodes with like habits, and what is known of them: figures that ship, or that were learnt."""

    name: str
    departures: Floats  # SHAPE
    watched_h: Floats  # SHAPE, node-hours: over 0 somewhere
    presence: Floats = field(default_factory=lambda: np.full(HOURS, 0.5))  # HOURS, share of nodes here; assumed


_Cells = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
"""Where stretches of time fall: cohort, weekday or weekend, hour, class of age."""


class _Pieces(NamedTuple):
    """Stretches of node-time, each within one hour of the car's clock; arrays of one shape."""

    cells: _Cells
    length_h: Floats
    rate: Floats  # of the cohort, departures an hour
    due: Floats  # share of the length after the declared end
    told: NDArray[np.bool_]  # there is a declared end


class _Stretch(NamedTuple):
    """Stretches of time of some rows, cut at full hours; arrays of one length."""

    at: NDArray[np.intp]  # place of the row
    begin_h: Floats
    end_h: Floats


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
    """What is known of every node that was ever plugged in, by row: 1.1 kB each."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        """`cohorts` are named by their place in this sequence from then on."""
        self.cohorts = tuple(cohort.name for cohort in cohorts)
        self._departures = np.array([cohort.departures for cohort in cohorts], np.float64)  # [C, *SHAPE]
        self._watched_h = np.array([cohort.watched_h for cohort in cohorts], np.float64)
        assert self._departures.shape[1:] == self._watched_h.shape[1:] == SHAPE
        self._rates = _rates(self._departures, self._watched_h)
        self._unrated = 0  # stays that ended since
        presence = np.array([cohort.presence for cohort in cohorts], np.float64)
        self._present_h = _PRESENCE_WEIGHT_H * presence  # [C, *HOURS] node-hours here, and away
        self._absent_h = _PRESENCE_WEIGHT_H * (1.0 - presence)
        # [C, 4] with a declared end: departures before it, those expected there; departures after it, hours there
        self._word = np.tile(
            (_EARLY_WEIGHT * _EARLY, _EARLY_WEIGHT, _DUE_WEIGHT * _DUE_PER_H, _DUE_WEIGHT), (len(cohorts), 1)
        )
        self._cohort = np.zeros(0, np.intp)
        self._pace_h = np.zeros(0)  # car hours in a coordinator second
        self._monday_h = np.zeros(0)  # hour of the car's week at coordinator second 0, were its pace always so
        self._plugged_h = np.zeros(0)  # when its stay began, on that clock; NaN: not here
        self._watched_from_h = np.zeros(0)
        self._away_from_h = np.zeros(0)  # when it departed; NaN: it is here, or out of sight
        self._declared_h = np.zeros(0)  # NaN: nothing declared
        self._own_left = np.zeros((0, 2, 24), np.float32)
        self._own_expected = np.zeros((0, 2, 24), np.float32)  # departures, had it been as its cohort
        self._own_excess = np.zeros((0, 2, 24), np.float32)  # how much oftener it leaves than its cohort, over 1
        self._own_word = np.zeros((0, 4), np.float32)  # as `_word`
        self._own_present_h = np.zeros((0, 2, 24), np.float32)
        self._own_absent_h = np.zeros((0, 2, 24), np.float32)

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
        self._returned(rows[np.isfinite(self._away_from_h[rows])], now_s)
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
        until_h = self._now_h(rows, now_s)
        at, begin_h, end_h = _by_hour(np.maximum(self._watched_from_h[rows], until_h - _LONGEST_STAY_H), until_h)
        last = np.searchsorted(at, np.arange(len(rows)), "right") - 1
        pieces = self._pieces(rows[at], begin_h, end_h)
        expected = pieces.rate * pieces.length_h
        cohort, kind, hour, _ = pieces.cells
        np.add.at(self._watched_h, pieces.cells, pieces.length_h)
        np.add.at(self._present_h, (cohort, kind, hour), pieces.length_h)
        np.add.at(self._own_present_h, (rows[at], kind, hour), pieces.length_h)
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
            for column in (
                *(self._own_left, self._own_expected, self._own_word),
                *(self._own_present_h, self._own_absent_h),
            ):
                column[rows] *= _OWN_KEEPS
            self._away_from_h[rows] = until_h
        self._own_excess[rows] = _own_factor(self._own_left[rows], self._own_expected[rows]) - 1.0
        self._plugged_h[rows] = np.nan
        self._unrated += len(rows)
        if self._unrated >= _RATED_AFTER:
            self._rate()

    def stays(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """The chance that each is still here after each horizon, [H] or [N, H] coordinator seconds -> [N, H].

        0 for a row that is not here now.
        """
        self._grow(int(rows.max(initial=-1)) + 1)
        self._rate()
        horizon_h = np.minimum(horizon_s * self._pace_h[rows, None], LONGEST_H)
        return self._stays(rows, horizon_h, self._now_h(rows, now_s)[:, None])

    def present(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """The chance that each, here or not, is here after each horizon, be it that it left and came back: [N, H].

        Rows that were never plugged in: 0. Whoever is away comes back at the rate that keeps the share of its like
        that are here on its daily course; whoever came back leaves as its cohort does, whatever its age.
        """
        self._grow(int(rows.max(initial=-1)) + 1)
        self._rate()
        horizon_h = np.minimum(horizon_s * self._pace_h[rows, None], LONGEST_H)
        now_h = self._now_h(rows, now_s)[:, None]
        _, lengths = np.frexp(horizon_h.max(axis=1, initial=0.0))
        apart = np.unique(lengths)  # whose clock runs faster looks at more hours, which the others need not
        if len(apart) == 1:
            return self._present(rows, horizon_h, now_h)
        chances = np.zeros(horizon_h.shape)
        for length in apart.tolist():
            some = lengths == length
            chances[some] = self._present(rows[some], horizon_h[some], now_h[some])
        return chances

    def _present(self, rows: Rows, horizon_h: Floats, now_h: Floats) -> Floats:
        """As `present`, in hours of the car: [N, H], at [N, 1] on its clock."""
        hours = int(np.ceil(horizon_h.max(initial=0.0))) + 1
        edge_h = np.floor(now_h) + np.arange(1, hours + 1)
        stays = self._stays(rows, np.concatenate([horizon_h, edge_h - now_h], axis=1), now_h)
        here = np.isfinite(self._plugged_h[rows])
        leave, come = self._turnover(rows, np.floor(now_h) + np.arange(-1, hours + 1), now_h[:, 0])
        leave[:, 0] = 1.0 - (1.0 - leave[:, 0]) ** (edge_h - now_h)[:, 0]
        come[:, 0] = 1.0 - (1.0 - come[:, 0]) ** (edge_h - now_h)[:, 0]
        back = np.zeros((len(rows), hours + 1))  # came back and is here: now, and at each edge
        staying = np.column_stack([here, stays[:, horizon_h.shape[1] :]])
        for hour in range(hours):
            away = 1.0 - staying[:, hour] - back[:, hour]
            back[:, hour + 1] = back[:, hour] * (1.0 - leave[:, hour]) + away * come[:, hour]
        then_h = now_h + horizon_h
        piece = np.clip(np.floor(then_h) - np.floor(now_h), 0, hours - 1).astype(np.intp)
        begin_h = np.maximum(np.floor(now_h) + piece, now_h)
        part = (then_h - begin_h) / (np.floor(now_h) + piece + 1.0 - begin_h)
        before, after = (np.take_along_axis(back, place, 1) for place in (piece, piece + 1))
        chance = stays[:, : horizon_h.shape[1]] + before + part * (after - before)
        return np.where(self._pace_h[rows, None] > 0.0, np.clip(chance, 0.0, 1.0), 0.0)

    def _stays(self, rows: Rows, horizon_h: Floats, now_h: Floats) -> Floats:
        """As `stays`, in hours of the car: [N, H], at [N, 1] on its clock."""
        here = np.isfinite(self._plugged_h[rows])
        if not here.all():
            chances = np.zeros(horizon_h.shape)
            if here.any():
                chances[here] = self._stays(rows[here], horizon_h[here], now_h[here])
            return chances
        first_h = np.floor(now_h)
        edge_h = first_h + np.arange(np.ceil(horizon_h.max(initial=0.0)) + 2)
        begin_h, end_h = np.maximum(edge_h, now_h), edge_h + 1.0
        pieces = self._pieces(rows[:, None], begin_h, end_h)
        _, kind, hour, _ = pieces.cells
        rate = pieces.rate * (1.0 + self._own_excess[rows[:, None], kind, hour])
        if pieces.told.any():
            early, due_per_h = self._word_of(rows)
            rate *= np.where(pieces.told, early + (1.0 - early) * pieces.due, 1.0)
            rate += due_per_h * pieces.due
        risk = np.cumsum(rate * pieces.length_h, axis=1)
        piece = (np.floor(now_h + horizon_h) - first_h).astype(np.intp)
        beyond_h = np.take_along_axis(end_h, piece, 1) - (now_h + horizon_h)
        risk_then = np.take_along_axis(risk, piece, 1) - np.take_along_axis(rate, piece, 1) * beyond_h
        return np.exp(-np.maximum(risk_then, 0.0))

    def learnt(self) -> tuple[Cohort, ...]:
        """What is known of the cohorts by now."""
        self._rate()
        known = zip(self.cohorts, self._departures.copy(), self._watched_h.copy(), self._shares(), strict=True)
        return tuple(Cohort(*one) for one in known)

    def _shares(self) -> Floats:
        """Share of each cohort's nodes that are here in each hour, [C, *HOURS]."""
        shares: Floats = self._present_h / (self._present_h + self._absent_h)
        return shares

    def _returned(self, rows: Rows, now_s: float) -> None:
        """These [N], which had departed, are about to be plugged in: learn from their absence."""
        if not rows.size:
            return
        until_h = self._now_h(rows, now_s)
        at, begin_h, end_h = _by_hour(np.maximum(self._away_from_h[rows], until_h - LONGEST_H), until_h)
        _, kind, hour, _ = self._cells(rows[at], begin_h, end_h)
        np.add.at(self._absent_h, (self._cohort[rows[at]], kind, hour), end_h - begin_h)
        np.add.at(self._own_absent_h, (rows[at], kind, hour), end_h - begin_h)
        known_h = self._present_h + self._absent_h
        kept = _PRESENCE_REMEMBERS_H / np.maximum(known_h, _PRESENCE_REMEMBERS_H)
        self._present_h *= kept
        self._absent_h *= kept
        self._away_from_h[rows] = np.nan

    def _comes_again(self, rows: Rows, now_h: Floats) -> Floats:
        """The chance that each is not away for good, by how often it comes and how long it has been away: [N]."""
        like = self._shares()[self._cohort[rows]].mean((1, 2))
        left, watched_h = self._departures.sum((1, 2, 3)), self._watched_h.sum((1, 2, 3))
        per_h = (left / watched_h)[self._cohort[rows]] * like / (1.0 - like)
        own_left, own_absent_h = self._own_left[rows].sum((1, 2)), self._own_absent_h[rows].sum((1, 2))
        per_h = (_RETURN_WEIGHT + own_left) / (_RETURN_WEIGHT / per_h + own_absent_h)
        missed = np.nan_to_num(now_h - self._away_from_h[rows]) * per_h
        again: Floats = 1.0 / (1.0 + _LAST_TIME / (1.0 - _LAST_TIME) * np.exp(np.minimum(missed, 50.0)))
        return again

    def _turnover(self, rows: Rows, hour_h: Floats, now_h: Floats) -> tuple[Floats, Floats]:
        """Chances, within each hour but the first and the last of these [N, H + 2], that one who is here leaves,
        and that one who is away comes: [N, H] each."""
        at = np.arange(len(rows))[:, None]
        kind, hour = (hour_h % WEEK_H >= 5 * 24).astype(np.intp), (hour_h % 24).astype(np.intp)
        share = self._own_shares(rows)[at, kind, hour]
        edges = (share[:, :-1] + share[:, 1:]) / 2.0
        begin, end = edges[:, :-1], edges[:, 1:]
        kind, hour = kind[:, 1:-1], hour[:, 1:-1]
        rate = (self._departures.sum(3) / self._watched_h.sum(3))[self._cohort[rows, None], kind, hour]
        stay = np.exp(-rate * (1.0 + self._own_excess[rows[:, None], kind, hour]))
        stay = np.minimum(stay, end / begin)
        come = np.clip((end - begin * stay) / (1.0 - begin), 0.0, 1.0)
        return 1.0 - stay, come * self._comes_again(rows, now_h)[:, None]

    def _own_shares(self, rows: Rows) -> Floats:
        """The share of its time that each is here, by hour: [N, *HOURS]."""
        like = self._shares()[self._cohort[rows]]
        present_h, known_h = self._own_present_h[rows], self._own_present_h[rows] + self._own_absent_h[rows]
        expected_h = (known_h * like).sum((1, 2))
        own = (_OWN_SHARE_WEIGHT_H + present_h.sum((1, 2))) / (_OWN_SHARE_WEIGHT_H + expected_h)
        like = np.minimum(like * own[:, None, None], 1.0 - _LEAST_SHARE)
        shares: Floats = (_OWN_PRESENCE_WEIGHT_H * like + present_h) / (_OWN_PRESENCE_WEIGHT_H + known_h)
        return shares.clip(_LEAST_SHARE, 1.0 - _LEAST_SHARE)

    def _rate(self) -> None:
        """Bring the rates up to date: a tenth of a millisecond, which not every departure is to cost."""
        if self._unrated:
            kept = _CELL_REMEMBERS / np.maximum(self._departures, _CELL_REMEMBERS)
            self._departures *= kept
            self._watched_h *= kept
            self._rates = _rates(self._departures, self._watched_h)
            self._unrated = 0

    def _now_h(self, rows: Rows, now_s: float) -> Floats:
        return self._monday_h[rows] + self._pace_h[rows] * now_s

    def _cells(self, rows: Rows, begin_h: Floats, end_h: Floats) -> _Cells:
        middle_h = (begin_h + end_h) / 2
        age_h = np.fmax(middle_h - self._plugged_h[rows], 0.0)  # of the absent, too
        kind = (middle_h % WEEK_H >= 5 * 24).astype(np.intp)
        hour = (middle_h % 24).astype(np.intp)
        return np.broadcast_to(self._cohort[rows], kind.shape), kind, hour, np.searchsorted(AGES_H, age_h, "right")

    def _pieces(self, rows: Rows, begin_h: Floats, end_h: Floats) -> _Pieces:
        cells = self._cells(rows, begin_h, end_h)
        length_h = end_h - begin_h
        declared_h = self._declared_h[rows]
        after_h = np.clip(end_h - declared_h, 0.0, length_h)
        due = np.fmax(after_h / np.maximum(length_h, 1e-9), 0.0)
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
        for name in (
            *("_cohort", "_pace_h", "_monday_h", "_plugged_h", "_watched_from_h", "_declared_h", "_away_from_h"),
            *("_own_left", "_own_expected", "_own_excess", "_own_word", "_own_present_h", "_own_absent_h"),
        ):
            before = getattr(self, name)
            column = np.zeros((room, *before.shape[1:]), before.dtype)  # takes no memory until it is written
            column[:known] = before
            setattr(self, name, column)
        for column in (self._plugged_h, self._declared_h, self._away_from_h):
            column[known:] = np.nan


def _by_hour(from_h: Floats, until_h: Floats) -> _Stretch:
    """The stretches between these [N], cut at full hours."""
    first_h, until_h = np.floor(from_h), np.maximum(from_h, until_h)
    count = (np.floor(until_h) - first_h).astype(np.intp) + 1
    at = np.repeat(np.arange(len(from_h)), count)
    edge_h = first_h[at] + np.arange(len(at)) - (np.cumsum(count) - count)[at]
    return _Stretch(at, np.maximum(edge_h, from_h[at]), np.minimum(edge_h + 1.0, until_h[at]))


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
    return by_hour / 2 + (by_hour[..., _HOURS_BEFORE] + by_hour[..., _HOURS_AFTER]) / 4
