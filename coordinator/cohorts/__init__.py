"""Cohorts that ship, a TOML file each: what the forecast knows before the coordinator has seen anything.

Outside of the core, which reads no files: whoever makes a `Forecast` passes them in. A file either counts
departures and the hours watched, by class of age, kind of day and hour of day, and the share of its cars that are
plugged in, by kind and hour (`python -m benchmarks forecast --cohorts DIR` writes it); or, where there are no data,
it assumes one rate and one share for all hours.
"""

import tomllib
from collections.abc import Sequence
from importlib import resources

import numpy as np

from coordinator.core.forecast import AGES_H, HOURS, SHAPE, Cohort, Floats

_KINDS = ("weekday", "weekend")


def load() -> tuple[Cohort, ...]:
    """Every cohort there is a file for, by name."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".toml")]
    return tuple(parse(file.read_text("utf-8")) for file in sorted(files, key=lambda file: file.name))


def parse(text: str) -> Cohort:
    """The cohort that a file tells of. Raises ValueError when its ages are not those of the forecast."""
    table = tomllib.loads(text)
    if "departures_per_hour" in table:
        watched_h = np.full(SHAPE, table["watched_h"] / np.prod(SHAPE))
        presence = np.full(HOURS, table["presence"])
        return Cohort(table["name"], watched_h * table["departures_per_hour"], watched_h, presence)
    begins = tuple(age["from_h"] for age in table["age"])
    if begins != (0.0, *AGES_H):
        raise ValueError(f"cohort {table['name']!r} has ages from {begins} h; the forecast has {(0.0, *AGES_H)}")
    departures, watched_h = (
        np.array([[age[kind][what] for age in table["age"]] for kind in _KINDS], np.float64).transpose(0, 2, 1)
        for what in ("departures", "watched_h")
    )
    presence = np.array([table["presence"][kind] for kind in _KINDS], np.float64)
    return Cohort(table["name"], departures, watched_h, presence)


def text(cohort: Cohort, sources: Sequence[str]) -> str:
    """A file of it, with where the figures are from on top."""
    lines = [*(f"# {line}" for line in sources), f'name = "{cohort.name}"', "", "[presence]"]
    lines += [f"{kind} = {_figures(cohort.presence[row])}" for row, kind in enumerate(_KINDS)]
    for age, begin_h in enumerate((0.0, *AGES_H)):
        lines += ["", "[[age]]", f"from_h = {begin_h:g}"]
        for row, kind in enumerate(_KINDS):
            for what, cells in (("departures", cohort.departures), ("watched_h", cohort.watched_h)):
                lines.append(f"{kind}.{what} = {_figures(cells[row, :, age])}")
    return "\n".join(lines) + "\n"


def _figures(values: Floats) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
