"""The days that simulated cars live against those of recorded users, also of users and weeks not fitted to.

A day is fitted to the sessions of four users in five before a date; cars that live by it are compared with the
fifth's sessions after it, for each fifth, and all of these together. Modelled cars come from `node.day`, by the
very text that would ship.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from benchmarks import habits
from benchmarks.drawing import plotting, require_plotting
from benchmarks.figures import BenchmarkFailed, Figure, Report, count, file, parser, terminal
from benchmarks.forecast import FIT_SHARE, SEED, WORKPLACE_ZONE, Sessions, day_of, hours_of, read
from benchmarks.machine import Machine
from benchmarks.presence import CARS, WEEKS, Seen, lived, modelled, recorded
from coordinator.core.forecast import AGES_H

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LONG_WEEKS = 40  # for what a car that seldom plugs in is like
_ROUNDS = 4
ORIGINS = {
    "home": (
        "Å. L. Sørensen et al., residential charging reports from 12 Norwegian locations, Data in Brief 2024,",
        "doi 10.1016/j.dib.2024.110883 (many small and plug-in-hybrid batteries: not a Tesla fleet).",
    ),
    "workplace": (
        "O. I. Asensio et al., a field experiment on workplace charging, Harvard Dataverse doi 10.7910/DVN/NFPQLW",
        "(one US firm, a fee after four hours; the zone of its clock is assumed to be UTC of New York).",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Fit, compare and tell; the exit code."""
    options = parser("fit", str(__doc__).partition("\n")[0])
    options.add_argument("--sessions", type=Path, required=True, metavar="FILE", help="of cars at home, CSV")
    options.add_argument("--workplace", type=Path, metavar="FILE", help="of cars at work, CSV, times in UTC")
    options.add_argument("--date", type=day_of, metavar="DATE", help="fit before, compare after (at 70 %%)")
    options.add_argument("--folds", type=count, default=5, metavar="N", help="of the users, each unseen once (5)")
    options.add_argument("--plot", type=file, metavar="FILE", help="draw what was not fitted to: .png, .svg, .pdf")
    options.add_argument(
        "--write", type=Path, metavar="DIR", help="write there the days that all sessions make, TOML"
    )
    given = options.parse_args(arguments)
    if given.plot is not None:
        require_plotting(options)
    if given.folds < 2:
        options.error("--folds 1 leaves nobody to fit to; give at least 2")
    if given.write is not None and not given.write.is_dir():
        options.error(f"--write {given.write} is no folder; name one that is there")
    console, machine = terminal(), Machine.here()
    figures: list[Figure] = []
    notes: list[str] = []
    drawn: dict[str, tuple[Seen, Seen]] = {}
    sources: list[tuple[str, Path, ZoneInfo | None]] = [("home", given.sessions, None)]
    if given.workplace is not None:
        sources.append(("workplace", given.workplace, WORKPLACE_ZONE))
    with console.status("reading") as status:
        for name, path, zone in sources:
            sessions, energy_kwh = read(path, zone), _energy_kwh(path)
            split_h = hours_of(given.date) if given.date else np.quantile(sessions.begin_h, FIT_SHARE) // 24 * 24
            status.update(f"{name}: all sessions")
            try:
                text = fitted(sessions, name, energy_kwh, path.name)
                compared = {"all sessions": (recorded(sessions), modelled(text))}
                status.update(f"{name}: unseen users")
                unseen, before = _unseen(sessions, split_h, given.folds, name, energy_kwh)
            except ValueError as wrong:
                raise BenchmarkFailed(f"{path}: {wrong}") from None
            compared["unseen"] = drawn[name] = unseen
            for whose, (seen, model) in compared.items():
                figures += _figures(f"{name}, {whose}", seen, model)
            figures += _spread_figures(name, sessions, split_h, text)
            notes += _notes(name, sessions, before, unseen[0])
            if given.write is not None:
                (given.write / f"{name}.toml").write_text(text, encoding="utf-8")
    if given.plot is not None:
        _plot(drawn, given.plot)
    report = Report(
        "fit",
        f"{CARS} modelled cars for {WEEKS} weeks, for all sessions and for each fold",
        {
            "sessions": given.sessions.name,
            "workplace": given.workplace and given.workplace.name,
            "date": given.date and str(given.date),
            "folds": given.folds,
        },
        machine,
        figures,
        notes,
    )
    report.publish(console, given.json)
    return 0


def fitted(sessions: Sessions, name: str, energy_kwh: NDArray[np.float64], source: str) -> str:
    """The text of the day that these sessions make: chances are scaled until cars are plugged in as much."""
    shape = habits.SHAPES[name]
    figures = habits.fit(sessions, shape)
    top = (
        f"Fitted to {source}, {len(sessions.user):,} sessions of {sessions.users} users, by",
        "`python -m benchmarks fit --write DIR`. Origin:",
        *ORIGINS[name],
    )
    wanted, scale = float(recorded(sessions).plugged.mean()), 1.0
    for _ in range(_ROUNDS):
        text = habits.text(figures, name, shape, energy_kwh, top, scale)
        scale *= (wanted / float(modelled(text).plugged.mean())) ** 1.3  # more often: the less often away
    return habits.text(figures, name, shape, energy_kwh, top, scale)


def _unseen(
    sessions: Sessions, split_h: float, folds: int, name: str, energy_kwh: NDArray[np.float64]
) -> tuple[tuple[Seen, Seen], Seen]:
    """Later weeks against cars fitted to other users' earlier weeks, all folds together; all earlier weeks."""
    fold = np.random.default_rng(SEED).permutation(sessions.users) % folds
    earlier = sessions.only(sessions.end_h < split_h)
    parts = [modelled(fitted(earlier.of(fold != one), name, energy_kwh, "")) for one in range(folds)]
    together = Seen(
        np.mean([one.plugged for one in parts], axis=0),
        np.concatenate([one.stays_h for one in parts]),
        np.sum([one.cases for one in parts], axis=0),
        np.sum([one.left for one in parts], axis=0),
    )
    return (recorded(sessions, split_h), together), recorded(earlier)


def _figures(whose: str, seen: Seen, model: Seen) -> list[Figure]:
    plugged = 100 * np.abs(seen.plugged - model.plugged)
    off = 100 * np.abs(seen.leaves - model.leaves)
    known = np.isfinite(off)
    if not known.any():
        off, known = np.zeros_like(off), seen.cases > 0
    figures = [
        Figure(f"{whose}: plugged share by hour of week, mean gap", "points", [float(plugged.mean())]),
        Figure(f"{whose}: plugged share, largest gap", "points", [float(plugged.max())]),
        Figure(f"{whose}: plugged share, recorded", "%", [100 * float(seen.plugged.mean())]),
        Figure(f"{whose}: plugged share, modelled", "%", [100 * float(model.plugged.mean())]),
    ]
    for part in QUANTILES:
        for how, of in (("recorded", seen), ("modelled", model)):
            length_h = float(np.quantile(of.stays_h, part))
            figures.append(Figure(f"{whose}: windows p{100 * part:g}, {how}", "h", [length_h]))
    mean = float(np.average(off[known], weights=seen.cases[known]))
    return [
        *figures,
        Figure(f"{whose}: leaving in 1 h by hour and age, mean gap", "points", [mean]),
        Figure(f"{whose}: leaving in 1 h, largest gap", "points", [float(off[known].max())]),
    ]


def _spread_figures(name: str, sessions: Sessions, split_h: float, text: str) -> list[Figure]:
    """What lies between cars: of all sessions, of the later weeks alone, and of cars that live by the fit."""
    shape, kinds = (
        habits.SHAPES[name],
        {"recorded": sessions, "recorded later": sessions.only(sessions.begin_h >= split_h)},
    )
    spreads = {
        how: habits.spreads(of, shape) for how, of in (kinds | {"modelled": lived(text, LONG_WEEKS)[0]}).items()
    }
    figures = []
    for at, (what, unit, factor) in enumerate(
        (("variance of the hour", "%", 100), ("variance of the stay", "%", 100), ("chance, p10 to p90", "", 1))
    ):
        for how, figure in spreads.items():
            figures.append(Figure(f"{name}, between cars: {what}, {how}", unit, [factor * figure[at]]))
    return figures


def _notes(name: str, sessions: Sessions, before: Seen, after: Seen) -> list[str]:
    drift = 100 * np.abs(before.plugged - after.plugged)
    return [
        f"{name}: {len(sessions.user):,} sessions of {sessions.users} users; the records of before the date"
        f" differ from those after it by {drift.mean():.1f} points of plugged share as a rule, {drift.max():.1f} at"
        " most",
    ]


def _energy_kwh(path: Path) -> NDArray[np.float64]:
    """What the sessions of a file have delivered."""
    with path.open(encoding="utf-8", newline="") as lines:
        texts = [row.get("energy_kwh") or "" for row in csv.DictReader(lines)]
    try:
        energy = np.array([float(text) for text in texts if text])
    except ValueError as wrong:
        raise BenchmarkFailed(f"{path}: no energy_kwh: {wrong}") from None
    if not energy.size:
        raise BenchmarkFailed(f"{path} has no column energy_kwh; add what each session delivered")
    return energy


def _plot(compared: dict[str, tuple[Seen, Seen]], path: Path) -> None:
    """What was not fitted to, a row a source: plugged share, windows, departures."""
    plt: Any = plotting()
    figure, rows = plt.subplots(
        len(compared), 3, figsize=(15, 3.6 * len(compared)), layout="constrained", squeeze=False
    )
    parts = np.linspace(0.01, 0.99, 99)
    for (share, windows, leaving), (name, (seen, model)) in zip(rows, compared.items(), strict=True):
        for label, of, style in (("recorded", seen, "-"), ("modelled", model, "--")):
            share.plot(np.arange(168) / 24, 100 * of.plugged, style, label=label)
            windows.plot(np.quantile(of.stays_h, parts), parts, style, label=label)
            for age, colour in ((0, "C2"), (1, "C3"), (2, "C4")):
                since = f"{AGES_H[age - 1]:g}" if age else "0"
                text = f"{label}, here for {since} to {AGES_H[age]:g} h"
                leaving.plot(100 * of.leaves[0, :, age], style, color=colour, label=text)
        share.set(
            title=f"{name}: plugged in", ylabel="% of cars", xlabel="day of the week from Monday", ylim=(0, None)
        )
        windows.set(title=f"{name}: windows", xlabel="hours", ylabel="share that is shorter", xlim=(0, 36))
        leaving.set(title=f"{name}: leaving within 1 h, weekdays", xlabel="hour of the day", ylabel="%")
        share.legend(fontsize="small")
        leaving.legend(fontsize="x-small")
        for panel in (share, windows, leaving):
            panel.grid(alpha=0.3)
    figure.suptitle("Unseen users, later weeks, and cars fitted to other users' earlier weeks")
    figure.savefig(path)
    plt.close(figure)
