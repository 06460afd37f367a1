"""What one sees of cars over time, recorded or modelled: when they are plugged in, how long, when they leave."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import habits
from benchmarks.forecast import SEED, Sessions
from coordinator.core.forecast import AGES_H, WEEK_H
from node.day import Day
from node.plan import HOUR_S, parse

CARS, WEEKS = 400, 10
STEP_H = 0.25
LEAST_H = 14 * 24.0  # of a user after the date: of less, one cannot say how often it is plugged in
LEAST_CASES = 100  # of a car at an hour at an age: fewer make no chance


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one sees of cars over time."""

    plugged: NDArray[np.float64]  # [168] share by hour of the week
    stays_h: NDArray[np.float64]  # [S]
    cases: NDArray[np.float64]  # [2, 24, A] cars there at a full hour: weekday or weekend, hour, class of age
    left: NDArray[np.float64]  # [2, 24, A] of them, gone within the hour

    @property
    def leaves(self) -> NDArray[np.float64]:
        """[2, 24, A] chance to go within the hour; NaN of too few."""
        return np.where(self.cases >= LEAST_CASES, self.left / np.maximum(self.cases, 1.0), np.nan)


def recorded(sessions: Sessions, from_h: float = -np.inf) -> Seen:
    """Of the users with enough on record: from the day after the first plug-in, or from_h, to the day of the last
    plug-out."""
    known, _ = habits.known(sessions)
    spans: list[tuple[int, float, float]] = []
    for user in np.flatnonzero(known).tolist():
        of = sessions.user == user
        begin_h, end_h = float(sessions.begin_h[of][0]), float(sessions.end_h[of][-1])
        first_h, last_h = max((begin_h // 24 + 1) * 24, from_h), end_h // 24 * 24
        if last_h - first_h >= LEAST_H:
            spans.append((user, first_h, last_h))
    if not spans:
        raise ValueError(f"nobody is on record for {LEAST_H / 24:g} days after the date; give an earlier --date")
    return _seen(sessions, spans)


def modelled(text: str, weeks: int = WEEKS) -> Seen:
    """Of cars that live by this day."""
    return _seen(*lived(text, weeks))


def lived(text: str, weeks: int = WEEKS) -> tuple[Sessions, list[tuple[int, float, float]]]:
    """What such cars do: their sessions, and the hours from and until which each was watched."""
    plan = parse(text)
    begin_h = np.ceil(plan.start_s / HOUR_S / WEEK_H) * WEEK_H
    end_h = begin_h + weeks * WEEK_H
    stays = Day(plan, CARS, 0, SEED).stays(end_h * HOUR_S)
    order = np.argsort(stays.begin_s, kind="stable")
    user, begins_h, ends_h = (
        column[order] for column in (stays.node, stays.begin_s / HOUR_S, stays.end_s / HOUR_S)
    )
    known = ends_h > begin_h
    sessions = Sessions(user[known].astype(np.int32), begins_h[known], ends_h[known], 0)
    return sessions, [(car, begin_h, end_h) for car in range(CARS)]


def _seen(sessions: Sessions, spans: Sequence[tuple[int, float, float]]) -> Seen:
    here, watched = np.zeros(168), np.zeros(168)
    kept = np.zeros(len(sessions.user), np.bool_)
    for user, from_h, until_h in spans:
        of = sessions.user == user
        grid_h = np.arange(from_h, until_h, STEP_H) + STEP_H / 2
        begin_h, end_h = np.sort(sessions.begin_h[of]), np.sort(sessions.end_h[of])
        now = np.searchsorted(begin_h, grid_h, "right") - np.searchsorted(end_h, grid_h, "right")
        hour = (grid_h % WEEK_H).astype(np.intp)
        here += np.bincount(hour, now, 168)
        watched += np.bincount(hour, minlength=168)
        kept |= of & (sessions.begin_h >= from_h)
    begin_h, end_h = sessions.begin_h[kept], sessions.end_h[kept]
    first = np.floor(begin_h) + 1.0
    hours = np.maximum(np.ceil(end_h) - first, 0.0).astype(np.intp)  # full hours that each stay lives to see
    stay = np.repeat(np.arange(len(hours)), hours)
    at_h = first[stay] + np.arange(len(stay)) - np.repeat(np.cumsum(hours) - hours, hours)
    age = np.searchsorted(AGES_H, at_h - begin_h[stay], "right")
    cell = ((at_h % WEEK_H >= 5 * 24).astype(np.intp), (at_h % 24).astype(np.intp), age)
    cases, left = np.zeros((2, 24, len(AGES_H) + 1)), np.zeros((2, 24, len(AGES_H) + 1))
    np.add.at(cases, cell, 1.0)
    np.add.at(left, cell, (end_h[stay] - at_h < 1.0).astype(np.float64))
    return Seen(here / np.maximum(watched, 1.0), end_h - begin_h, cases, left)
