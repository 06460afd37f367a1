"""The forecast of stays against what happened: later weeks, and users that it was not fitted on.

The sessions are replayed, plug by plug, through `coordinator.core.forecast`, which learns from each stay when it
ends, as a coordinator's would. What it knew of the cohort at first it has learnt itself, from the sessions before
a date. After that date it is asked, at every full and half hour, of every car plugged in. Of users absent from the
fit (each is absent in one of the folds) it sees the earlier weeks at the test, and only then.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawing import plotting, require_plotting
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, file, parser, terminal
from benchmarks.machine import Machine
from coordinator import cohorts
from coordinator.core.forecast import HOUR_S, SHAPE, WEEK_H, Cohort, Forecast

HORIZONS_H = np.array([0.25, 1.0, 4.0])
NAMES = ("15 min", "1 h", "4 h")
SKILLS = (0.04, 0.15, 0.33)
EVERY_H = 0.5
GAP_POINTS = 3.0
COUNT_HORIZONS_H = np.array([1.0, 4.0, 12.0, 24.0])
COUNT_EVERY_H = 3.0
COUNT_NAMES = ("1 h", "4 h", "12 h", "24 h")
BINS = 10
LEAST_SHARE = 0.01  # of the forecasts: smaller bins say nothing
FIT_SHARE = 0.7  # of the sessions, when no date is given
SEED = 0  # deals users to folds
_MONDAY = datetime(2001, 1, 1)
_NOTHING_KNOWN = 10.0  # node-hours with one departure: what the fit begins with, assumed
WORKPLACE_ZONE = ZoneInfo("America/New_York")  # assumed of times in UTC: the file does not state its zone

Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """Stays in order of their beginning, none of one user within another. Columns of S."""

    user: Rows
    begin_h: NDArray[np.float64]  # since a Monday 00:00
    end_h: NDArray[np.float64]
    overlapping: int  # left out

    @property
    def users(self) -> int:
        """How many there are."""
        return int(self.user.max()) + 1

    def of(self, users: NDArray[np.bool_]) -> "Sessions":
        """Those of some users, by number."""
        return self.only(users[self.user])

    def only(self, chosen: NDArray[np.bool_]) -> "Sessions":
        """Those chosen [S]."""
        return Sessions(self.user[chosen], self.begin_h[chosen], self.end_h[chosen], 0)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Forecasts and outcomes, [P, H] each."""

    chance: NDArray[np.float64]
    stayed: NDArray[np.bool_]

    def skill(self, horizon: int) -> float:
        """Brier skill over always saying the mean stay rate of these outcomes."""
        stayed = self.stayed[:, horizon].astype(np.float64)
        brier = np.mean((self.chance[:, horizon] - stayed) ** 2)
        return float(1.0 - brier / np.mean((stayed.mean() - stayed) ** 2))

    def curve(self, horizon: int) -> NDArray[np.float64]:
        """Reliability, a row for each bin that is not empty: said, seen, part of all forecasts."""
        chance, stayed = self.chance[:, horizon], self.stayed[:, horizon]
        at = np.minimum((chance * BINS).astype(np.intp), BINS - 1)
        among = np.bincount(at, minlength=BINS)
        filled = among > 0
        sums = np.stack([np.bincount(at, column, BINS)[filled] for column in (chance, stayed)], axis=1)
        return np.column_stack([sums / among[filled, None], among[filled] / len(at)])

    def gap_points(self, horizon: int) -> float:
        """The largest distance between said and seen, in points, over bins that hold 1 % of the forecasts."""
        curve = self.curve(horizon)
        curve = curve[curve[:, 2] >= LEAST_SHARE]
        return float(100.0 * np.abs(curve[:, 0] - curve[:, 1]).max())


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """How many cars would be plugged in, and were, [P, H] each; and how many were when that was said, [P]."""

    said: NDArray[np.float64]
    seen: NDArray[np.float64]
    then: NDArray[np.float64]

    def error(self, horizon: int) -> float:
        """Mean distance between said and seen, cars."""
        return float(np.abs(self.said - self.seen)[:, horizon].mean())

    def errors_of_others(self, horizon: int) -> tuple[float, float]:
        """The same of saying their mean always, and of saying that it stays as it is."""
        seen = self.seen[:, horizon]
        return float(np.abs(seen - seen.mean()).mean()), float(np.abs(seen - self.then).mean())


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("forecast", str(__doc__).partition("\n")[0])
    options.add_argument("--sessions", type=Path, required=True, metavar="FILE", help="of cars at home, CSV")
    options.add_argument("--workplace", type=Path, metavar="FILE", help="of cars at work, CSV, times in UTC")
    options.add_argument(
        "--date", type=day_of, metavar="DATE", help="fit before, test after (at 70 %% of the sessions)"
    )
    options.add_argument("--until", type=day_of, metavar="DATE", help="leave out what ends later")
    options.add_argument("--folds", type=count, default=5, metavar="N", help="of the users, each unseen once (5)")
    options.add_argument("--plot", type=file, metavar="FILE", help="draw reliability: .png, .svg or .pdf")
    options.add_argument("--cohorts", type=Path, metavar="DIR", help="write there what all sessions teach, as TOML")
    given = options.parse_args(arguments)
    if given.plot is not None:
        require_plotting(options)
    if given.folds < 2:
        options.error("--folds 1 leaves nobody to fit to; give at least 2")
    if given.cohorts is not None and not given.cohorts.is_dir():
        options.error(f"--cohorts {given.cohorts} is no folder; name one that is there")
    machine = Machine.here()
    console = terminal()
    figures: list[Figure] = []
    notes: list[str] = []
    measured: dict[str, Asked] = {}
    with console.status("reading") as status:
        sources: list[tuple[str, Path, ZoneInfo | None]] = [("home", given.sessions, None)]
        if given.workplace is not None:
            sources.append(("workplace", given.workplace, WORKPLACE_ZONE))
        for name, path, zone in sources:
            sessions = read(path, zone, hours_of(given.until) if given.until else np.inf)
            split_h = hours_of(given.date) if given.date else np.quantile(sessions.begin_h, FIT_SHARE) // 24 * 24
            status.update(f"{name}: later weeks")
            asked = {"later weeks": _asked(sessions, split_h, flat(name))}
            status.update(f"{name}: unseen users")
            asked["unseen users"] = unseen(sessions, split_h, given.folds, name)
            for whom, answers in asked.items():
                measured[f"{name}, {whom}"] = answers
                figures += _figures(f"{name}, {whom}", answers)
            notes += _notes(name, sessions, split_h, asked)
            status.update(f"{name}: how many are here")
            counts = counted(sessions, split_h, flat(name))
            figures += _count_figures(name, counts)
            notes += _count_notes(name, counts)
            if given.cohorts is not None:
                _write(given.cohorts, sessions, name, path.name)
    if given.plot is not None:
        _plot(measured, given.plot)
    notes.append("* fewer than 1 % of the forecasts: not counted in the gap")
    report = Report(
        "forecast",
        f"the forecaster alone, asked every {60 * EVERY_H:g} minutes of every car plugged in",
        {
            "sessions": given.sessions.name,
            "workplace": given.workplace and given.workplace.name,
            "date": given.date and str(given.date),
            "until": given.until and str(given.until),
            "folds": given.folds,
        },
        machine,
        figures,
        notes,
    )
    report.publish(console, given.json)
    return 0


def read(path: Path, zone: ZoneInfo | None, until_h: float = np.inf) -> Sessions:
    """Sessions with user_id, plugin_time and plugout_time, local time; UTC when a zone is given."""
    stays: list[tuple[float, float, str]] = []
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            for line, row in enumerate(csv.DictReader(lines), 2):
                try:
                    begin_h, end_h = (hours_of(_local(row[name], zone)) for name in ("plugin_time", "plugout_time"))
                    if end_h < until_h:
                        stays.append((begin_h, end_h, row["user_id"]))
                except (KeyError, TypeError, ValueError) as wrong:
                    raise BenchmarkFailed(f"{path}, line {line}: no session of a user: {wrong}") from None
    except OSError as wrong:
        raise BenchmarkFailed(f"{path} cannot be read: {wrong.strerror}") from None
    if not stays:
        raise BenchmarkFailed(f"{path} holds no sessions")
    kept: list[tuple[float, float, str]] = []
    ended: dict[str, float] = {}
    for begin_h, end_h, user in sorted(stays):
        if ended.get(user, -np.inf) <= begin_h < end_h:
            ended[user] = end_h
            kept.append((begin_h, end_h, user))
    number = {user: at for at, user in enumerate(sorted(ended))}
    return Sessions(
        np.array([number[user] for _, _, user in kept], np.int32),
        np.array([begin_h for begin_h, _, _ in kept]),
        np.array([end_h for _, end_h, _ in kept]),
        len(stays) - len(kept),
    )


def flat(name: str) -> Cohort:
    """A cohort of which nothing is known."""
    watched_h = np.full(SHAPE, _NOTHING_KNOWN / np.prod(SHAPE))
    return Cohort(name, watched_h / _NOTHING_KNOWN, watched_h)


def unseen(sessions: Sessions, split_h: float, folds: int, name: str) -> Asked:
    """Of each user, by a forecast that was fitted to the users of the other folds before the date."""
    fold = np.random.default_rng(SEED).permutation(sessions.users) % folds
    parts = []
    for held_out in range(folds):
        fitted = Forecast([flat(name)])
        replay(fitted, sessions.of(fold != held_out), None, split_h)
        parts.append(_asked(sessions.of(fold == held_out), split_h, *fitted.learnt()))
    return Asked(np.concatenate([one.chance for one in parts]), np.concatenate([one.stayed for one in parts]))


def counted(sessions: Sessions, split_h: float, known: Cohort) -> Counted:
    """How many cars are plugged in later, by a forecast that is asked from the date on and has seen all before. It
    knows of no user before the first plug."""
    forecast = Forecast([known])
    said, asked_h = [], []
    for ask_h, _ in told(forecast, sessions, split_h, COUNT_EVERY_H, sessions.begin_h[-1] - COUNT_HORIZONS_H[-1]):
        rows = np.unique(sessions.user[sessions.begin_h < ask_h])
        said.append(forecast.present(rows, COUNT_HORIZONS_H * HOUR_S, ask_h * HOUR_S).sum(0))
        asked_h.append([ask_h])
    ends_h = np.sort(sessions.end_h)
    then, seen = (
        (np.searchsorted(sessions.begin_h, at_h) - np.searchsorted(ends_h, at_h)).astype(np.float64)
        for at_h in (np.array(asked_h), asked_h + COUNT_HORIZONS_H)
    )
    return Counted(np.array(said), seen, then[:, 0])


def replay(forecast: Forecast, sessions: Sessions, ask_from_h: float | None, until_h: float) -> list[Asked]:
    """Tell the forecast what happens before until_h; from an hour on, ask every half hour of all that are here."""
    ask_h = np.inf if ask_from_h is None else ask_from_h
    asked = told(forecast, sessions, ask_h, EVERY_H, until_h)
    return [_answers(forecast, here, now_h) for now_h, here in asked if here]


def told(
    forecast: Forecast, sessions: Sessions, ask_h: float, every_h: float, until_h: float
) -> Iterator[tuple[float, dict[int, float]]]:
    """Tell the forecast what happens before until_h; from ask_h on, every so often, the hour and who is here until
    when."""
    here: dict[int, float] = {}
    only = np.zeros(1, np.intp)
    begins = [(hour, 1, at) for at, hour in enumerate(sessions.begin_h.tolist())]
    ends = [(hour, 0, at) for at, hour in enumerate(sessions.end_h.tolist())]
    for hour, begins_here, at in sorted(begins + ends):
        if hour >= until_h:
            break
        while ask_h < hour:
            yield ask_h, here
            ask_h += every_h
        row = sessions.user[at : at + 1]
        if begins_here:
            forecast.plugged_in(row, only, np.array([hour % WEEK_H]), hour * HOUR_S)
            here[int(row[0])] = float(sessions.end_h[at])
        else:
            forecast.left(row, hour * HOUR_S)
            del here[int(row[0])]


def _asked(sessions: Sessions, split_h: float, known: Cohort) -> Asked:
    """What it says and what happens from the date on, when it has seen all before."""
    parts = replay(Forecast([known]), sessions, split_h, np.inf)
    if not parts:
        raise BenchmarkFailed("no car is plugged in after the date; give an earlier --date or more sessions")
    return Asked(np.concatenate([one.chance for one in parts]), np.concatenate([one.stayed for one in parts]))


def _answers(forecast: Forecast, here: dict[int, float], now_h: float) -> Asked:
    rows = np.fromiter(here, np.int32)
    remaining_h = np.fromiter(here.values(), np.float64) - now_h
    chance = forecast.stays(rows, HORIZONS_H * HOUR_S, now_h * HOUR_S)
    return Asked(chance, remaining_h[:, None] >= HORIZONS_H)


def _figures(whose: str, asked: Asked) -> list[Figure]:
    figures = []
    for at, (name, skill) in enumerate(zip(NAMES, SKILLS, strict=True)):
        figures.append(Figure(f"{whose}: Brier skill at {name}", "", [asked.skill(at)], Goal(at_least=skill)))
    for at, name in enumerate(NAMES):
        figures.append(
            Figure(
                f"{whose}: reliability gap at {name}", "points", [asked.gap_points(at)], Goal(at_most=GAP_POINTS)
            )
        )
    return figures


def _notes(name: str, sessions: Sessions, split_h: float, asked: dict[str, Asked]) -> list[str]:
    """What was asked of whom, and the reliability curves as said > seen."""
    some = next(iter(asked.values()))
    rates = ", ".join(f"{rate:.3f} at {text}" for text, rate in zip(NAMES, some.stayed.mean(0), strict=True))
    date = (_MONDAY + timedelta(hours=split_h)).date()
    notes = [
        f"{name}: {len(sessions.user):,} sessions of {sessions.users} users, {sessions.overlapping} left out that"
        f" overlap; fitted before {date}, {len(some.stayed):,} forecasts after; they stayed {rates}"
    ]
    for whom, answers in asked.items():
        for at, text in enumerate(NAMES):
            curve = answers.curve(at)
            bins = ", ".join(
                f"{said:.3f}>{seen:.3f}" + ("" if part >= LEAST_SHARE else "*") for said, seen, part in curve
            )
            notes.append(f"{name}, {whom}, {text}, said>seen by tenths: {bins}")
    return notes


def _count_figures(name: str, counts: Counted) -> list[Figure]:
    """The error of the expected number against that of saying the mean: a goal of half of it (assumed)."""
    figures = []
    for at, text in enumerate(COUNT_NAMES):
        mean, _ = counts.errors_of_others(at)
        goal = Goal(at_most=round(mean / 2, 2))
        figures.append(Figure(f"{name}: error of the number here in {text}", "cars", [counts.error(at)], goal))
    return figures


def _count_notes(name: str, counts: Counted) -> list[str]:
    errors = ", ".join(
        "{} {:.2f} and {:.2f}".format(text, *counts.errors_of_others(at)) for at, text in enumerate(COUNT_NAMES)
    )
    return [
        f"{name}: asked {len(counts.said):,} times how many are plugged in later, {counts.seen.mean():.1f} are as a"
        f" rule; the errors of saying that mean, and of saying that nothing changes: {errors}"
    ]


def _write(folder: Path, sessions: Sessions, name: str, source: str) -> None:
    """What a forecast has learnt when it has seen all of them."""
    forecast = Forecast([flat(name)])
    replay(forecast, sessions, None, np.inf)
    (learnt,) = forecast.learnt()
    top = (
        f"Learnt from {source}: {len(sessions.user):,} sessions of {sessions.users} users. Written by",
        "`python -m benchmarks forecast --cohorts DIR`; origin and licence of the data: coordinator/README.md.",
    )
    (folder / f"{name}.toml").write_text(cohorts.text(learnt, top), encoding="utf-8")


def _plot(measured: dict[str, Asked], path: Path) -> None:
    """Reliability: said against seen, a panel for each horizon."""
    plt: Any = plotting()
    figure, panels = plt.subplots(1, len(NAMES), figsize=(11, 4), layout="constrained", sharey=True)
    for at, (panel, name) in enumerate(zip(panels, NAMES, strict=True)):
        panel.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
        for whose, asked in measured.items():
            curve = asked.curve(at)
            curve = curve[curve[:, 2] >= LEAST_SHARE]
            panel.plot(curve[:, 0], curve[:, 1], marker="o", markersize=4, label=whose)
        panel.set(xlabel="said", title=f"still here after {name}", xlim=(0, 1), ylim=(0, 1))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seen")
    panels[-1].legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def _local(text: str, zone: ZoneInfo | None) -> datetime:
    at = datetime.fromisoformat(text)
    return at if zone is None else at.replace(tzinfo=ZoneInfo("UTC")).astimezone(zone).replace(tzinfo=None)


def hours_of(at: datetime) -> float:
    """Since a Monday 00:00."""
    return (at - _MONDAY) / timedelta(hours=1)


def day_of(text: str) -> datetime:
    """A day, for argparse."""
    try:
        return datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{text!r} is no date; give YYYY-MM-DD") from None
