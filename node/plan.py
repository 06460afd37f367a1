"""How a kind of car lives, read from node/days/*.toml: when it plugs in, how long it stays, how cars differ. What
it does off its charger is in a file of its own, node/away/*.toml: days may be written by a fit.

Pure. A day of habits begins at a quiet hour, so that an arrival after midnight belongs to the evening before.
Facts about behaviour are lines in a file with their source, never code.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node import mixture, profile

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SATURDAY, SUNDAY = 5, 6


@dataclass(frozen=True, slots=True, eq=False)
class Habits:
    """Of cars that come and go. K kinds of day, B bands of arrivals, Q quantiles, C cars, E energies."""

    begins_s: float  # after midnight: when a day of habits begins
    again: bool  # one that left is drawn among the hours left of the day, not among those of a whole one
    kind_of_day: NDArray[np.intp]  # [7] row of a weekday, Monday first
    chance: NDArray[np.float64]  # [K] times the car's own chance to plug in on such a day
    arrivals: NDArray[np.float64]  # [K, 25] share of arrivals before each hour of the day of habits
    band_of_hour: NDArray[np.intp]  # [K, 24] row of `stays_s`, by the clock's hour of plugging in
    part: NDArray[np.float64]  # [Q] rising from 0 to 1
    stays_s: NDArray[np.float64]  # [B, Q] quantiles of a stay, or of the clock at its end
    by_clock: NDArray[np.bool_]  # [B] whether these are seconds after the midnight before, not a length
    cars_part: NDArray[np.float64]  # [C] rising from 0 to 1
    cars_chance: NDArray[np.float64]  # [C] over the cars: own chance to plug in on a day
    hour_spread: float  # share of the variance of an arrival's normal score that lies between cars, 0 to 1
    stay_spread: float  # the same of a stay's
    energy_part: NDArray[np.float64]  # [E]
    energy_kwh: NDArray[np.float64]  # [E] quantiles of what the trip before a stay took


@dataclass(frozen=True, slots=True, eq=False)
class Away:
    """What cars do off their chargers. D quantiles of a drive, S of standing between two."""

    drive_part: NDArray[np.float64]  # [D] rising from 0 to 1
    drive_s: NDArray[np.float64]  # [D]
    stands_part: NDArray[np.float64]  # [S] rising from 0 to 1
    stands_s: NDArray[np.float64]  # [S]
    at_home: float  # chance that a car that stands does so by its charger


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a kind of car lives."""

    name: str
    cohort: str  # whose habits its owners have, as the coordinator's forecast names them
    start_s: float  # simulated time at which a lot begins
    state_of_charge: float  # at the start
    stay_s: float  # expected of a car that stays until unplugged
    habits: Habits | None  # None: plugged in from the start until unplugged by hand
    away: Away | None = None  # None: off the charger it drives


def names() -> tuple[str, ...]:
    """Every day there is a file for."""
    files = resources.files("node").joinpath("days").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name: str) -> Plan:
    """The day of that name; raises ValueError when there is none."""
    if name not in names():
        raise ValueError(f"there is no day {name!r}; choose one of {', '.join(names())}")
    plan = parse(resources.files("node").joinpath("days", f"{name}.toml").read_text("utf-8"))
    away = resources.files("node").joinpath("away", f"{name}.toml")
    return replace(plan, away=_away(away.read_text("utf-8"))) if away.is_file() else plan


def parse(text: str) -> Plan:
    """The day that this TOML describes; raises ValueError when it cannot be lived."""
    tables = tomllib.loads(text)
    comes_and_goes = "kind" in tables
    habits = _habits(tables) if comes_and_goes else None
    return Plan(
        name=tables["name"],
        cohort=tables["cohort"],
        start_s=tables.get("start_h", 0) * HOUR_S,
        state_of_charge=tables["state_of_charge"],
        stay_s=float(np.median(habits.stays_s)) if habits is not None else tables["stay_h"] * HOUR_S,
        habits=habits,
    )


def assign(mix: str, vehicles: int) -> tuple[str, ...]:
    """The day of each vehicle from "home:4,workplace:2", or "home" for all; raises ValueError."""
    return mixture.assign("--day", mix, vehicles, load)


def require_vehicles(days: Sequence[str], profiles: Sequence[str]) -> None:
    """Raises ValueError when one that has no battery is to live a day on which cars come and go."""
    for name in dict.fromkeys(days):
        if load(name).habits is not None:
            live = (kind for kind, day in zip(profiles, days, strict=True) if day == name)
            profile.require_vehicles(live, f"on --day {name} they drive")


def vehicles_of(mix: str) -> int | None:
    """How many a mix of days names; None when it is one day for all."""
    counts = [part.partition(":")[2].strip() for part in mix.split(",")]
    return sum(int(count) for count in counts if count.isascii() and count.isdigit()) or None


def mix(days: Sequence[str]) -> str:
    """The mix that names these, in order."""
    return ",".join(f"{name}:{len(list(of))}" for name, of in groupby(days))


def lived_together(days: Sequence[str], start_of: str) -> tuple[Plan, ...]:
    """The plans of vehicles that share one clock: it starts as that day says."""
    start_s = load(start_of).start_s
    plans = {name: replace(load(name), start_s=start_s) for name in set(days)}
    return tuple(plans[name] for name in days)


def _away(text: str) -> Away:
    tables = tomllib.loads(text)
    drive_s, stands_s = (np.array(tables[name], np.float64) * HOUR_S for name in ("drive_h", "stands_h"))
    return Away(
        *(np.array(tables["drive_part"], np.float64), drive_s),
        *(np.array(tables["stands_part"], np.float64), stands_s),
        tables["at_home"],
    )


def _habits(tables: Mapping[str, Any]) -> Habits:
    name, kinds = tables["name"], tables["kind"]
    begins_h = tables["begins_h"]
    kind_of_day = np.full(7, -1, np.intp)
    band_of_hour = np.full((len(kinds), 24), -1, np.intp)
    bands: list[list[float]] = []
    by_clock: list[bool] = []
    shares = np.array([np.roll(kind["arrivals"], -begins_h) for kind in kinds], np.float64)
    for row, kind in enumerate(kinds):
        kind_of_day[[WEEKDAYS.index(day) for day in kind["days"]]] = row
        for band in kind["stay"]:
            band_of_hour[row, band["from_hour"] : band["until_hour"]] = len(bands)
            by_clock.append("clock" in band)
            bands.append(band["clock"] if "clock" in band else band["hours"])
    chance = np.array([kind["chance"] for kind in kinds], np.float64)
    cars_chance = np.array(tables["cars"]["chance"], np.float64)
    if (kind_of_day < 0).any() or (band_of_hour < 0).any():
        raise ValueError(f"day {name} leaves out a day of the week or an hour; give a kind and a stay for each")
    if not (cars_chance.min() > 0 and chance[kind_of_day].max() > 0):
        raise ValueError(f"day {name} has cars that never plug in; give each a chance over 0")
    before = np.concatenate([np.zeros((len(kinds), 1)), np.cumsum(shares, axis=1)], axis=1)
    return Habits(
        begins_s=begins_h * HOUR_S,
        again=tables["again"],
        kind_of_day=kind_of_day,
        chance=chance,
        arrivals=before / before[:, -1:],
        band_of_hour=band_of_hour,
        part=np.array(tables["stays"]["part"], np.float64),
        stays_s=np.array(bands, np.float64) * HOUR_S,
        by_clock=np.array(by_clock, np.bool_),
        cars_part=np.array(tables["cars"]["part"], np.float64),
        cars_chance=cars_chance,
        hour_spread=tables["cars"]["hour_spread"],
        stay_spread=tables["cars"]["stay_spread"],
        energy_part=np.array(tables["energy"]["part"], np.float64),
        energy_kwh=np.array(tables["energy"]["kwh"], np.float64),
    )
