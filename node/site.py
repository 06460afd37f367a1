"""Where vehicles stand: what its connections give, what electricity costs by the hour, how warm it is.

Pure. Figures are lines in node/places/*.toml, each with its source or the word "assumed"; a lot stands in one
place. Seconds are simulated, since Monday 00:00.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from node import mixture
from node.profile import Profile

Floats = NDArray[np.float64]
HOUR_S = 3600.0
HOURS = 24
BYTES_PER_MBIT = 1e6 / 8


@dataclass(frozen=True, slots=True)
class Rates:
    """A link, as its user sees it."""

    down_mbit: float = math.inf  # a second, as the next
    up_mbit: float = math.inf
    latency_s: float = 0.0  # there and back

    def down_s(self, payload: float) -> float:
        """How long so many bytes take to come, the way not counted."""
        return payload / (self.down_mbit * BYTES_PER_MBIT)

    def part(self, part: float) -> "Rates":
        """So much of it, 0 to 1."""
        return replace(self, down_mbit=self.down_mbit * part, up_mbit=self.up_mbit * part)

    def up_s(self, payload: float) -> float:
        """How long so many bytes take to be sent, the way not counted."""
        return payload / (self.up_mbit * BYTES_PER_MBIT)


UNLIMITED = Rates()


@dataclass(frozen=True, slots=True)
class Place:
    """One kind of place; tuples are by the hour of the day."""

    name: str = ""
    wifi: bool = True
    line: Rates = UNLIMITED  # over its Wi-Fi, shared by all cars there
    lan_mbit: float = math.inf  # a second, from car to car over the same Wi-Fi
    cellular: Rates = UNLIMITED  # each car's own, where it has no Wi-Fi
    limit_kw: float = math.inf  # of all cars there together
    pay_per_h: float = math.inf  # what the owner gets for an hour, in the unit of the jobs' values; inf: not given
    price_per_kwh: tuple[float, ...] = (0.0,) * HOURS  # in the unit of the jobs' values
    carbon_g_per_kwh: tuple[float, ...] = (0.0,) * HOURS
    ambient_c: tuple[float, ...] = (20.0,) * HOURS

    @property
    def link(self) -> Rates:
        """What a car that is there has."""
        return self.line if self.wifi else self.cellular

    def at(self, column: Sequence[float], now_s: float) -> float:
        """The figure of that hour."""
        return column[int(now_s // HOUR_S) % HOURS]

    def part(self, cars: int, of: int) -> "Place":
        """The same place for a lot with so many of the cars there: it has their part of the connections."""
        part = cars / of
        return replace(
            self, limit_kw=self.limit_kw * part, line=self.line.part(part), lan_mbit=self.lan_mbit * part
        )

    def costing(self, price_per_kwh: float, carbon_g_per_kwh: float) -> "Place":
        """The same place with these figures at every hour, where they are over 0."""
        price = (price_per_kwh,) * HOURS if price_per_kwh else self.price_per_kwh
        carbon = (carbon_g_per_kwh,) * HOURS if carbon_g_per_kwh else self.carbon_g_per_kwh
        return replace(self, price_per_kwh=price, carbon_g_per_kwh=carbon)


def names() -> tuple[str, ...]:
    """Every place there is a file for."""
    files = resources.files("node").joinpath("places").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name: str) -> Place:
    """The place of that name, a plain one for the empty name; raises ValueError when there is none."""
    if not name:
        return Place()
    if name not in names():
        raise ValueError(f"there is no place {name!r}; choose one of {', '.join(names())}")
    tables = tomllib.loads(resources.files("node").joinpath("places", f"{name}.toml").read_text("utf-8"))
    hours = {key: tuple(map(float, figures)) for key, figures in tables["by_hour"].items()}
    assert all(len(figures) == HOURS for figures in hours.values()), f"place {name} lacks hours"
    limit_kw = float(tables["limit_kw"]) or math.inf
    line, lan_mbit = UNLIMITED, math.inf
    if tables["wifi"]:
        line, lan_mbit = _rates(tables["line"]), float(tables["lan"]["mbit"])
    return Place(
        name=tables["name"],
        wifi=tables["wifi"],
        line=line,
        lan_mbit=lan_mbit,
        cellular=_rates(tables["cellular"]),
        limit_kw=limit_kw,
        pay_per_h=float(tables["pay_per_h"]),
        **hours,
    )


def _rates(table: Mapping[str, float]) -> Rates:
    return Rates(float(table["down_mbit"]), float(table["up_mbit"]), float(table["latency_ms"]) / 1000.0)


def assign(mix: str, vehicles: int) -> tuple[str, ...]:
    """The place of each vehicle from "home:4,garage:2", or "home" for all; raises ValueError."""
    return mixture.assign("--place", mix, vehicles, load)


def shared(limit_kw: float, wanted_kw: Floats) -> tuple[Floats, float]:
    """What a connection gives each [N] of what it wants [N], and the most that it gives any, kW.

    All get what they want while that is within the limit; else nobody gets more than a level that uses it up.
    """
    if not math.isfinite(limit_kw) or not wanted_kw.size or float(wanted_kw.sum()) <= limit_kw:
        return wanted_kw, math.inf
    ordered = np.sort(wanted_kw)
    before = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    levels = (limit_kw - before) / np.arange(len(ordered), 0, -1)  # if all before this one get what they want
    level = float(levels[np.argmax(levels <= ordered)])
    return np.minimum(wanted_kw, level), level


class Heat:
    """Temperatures of N cars: each follows the air around it, the cabin warmed by what runs in it."""

    def __init__(self, profiles: Sequence[Profile], ambient_c: float) -> None:
        self.cabin_c = np.full(len(profiles), ambient_c)  # [N]
        self.pack_c = np.full(len(profiles), ambient_c)  # [N]
        self._rise = np.array([profile.cabin_k_per_kw for profile in profiles])  # [N]
        self._cabin_s = np.array([profile.cabin_h for profile in profiles]) * HOUR_S  # [N]
        self._pack_s = np.array([profile.pack_h for profile in profiles]) * HOUR_S  # [N]
        self._from_c = np.array([profile.throttle_from_c for profile in profiles])  # [N]
        self._to_c = np.array([profile.throttle_to_c for profile in profiles])  # [N]

    def advance(self, seconds: float, ambient_c: float, load_kw: Floats) -> None:
        """So many simulated seconds pass while cars and computers draw so much [N]."""
        settled_c = ambient_c + self._rise * load_kw
        self.cabin_c += (settled_c - self.cabin_c) * -np.expm1(-seconds / self._cabin_s)
        self.pack_c += (ambient_c - self.pack_c) * -np.expm1(-seconds / self._pack_s)

    def speed(self) -> Floats:
        """The part of its speed that heat leaves each computer [N], 0 to 1: cabin air and pack cool it."""
        hottest_c = np.maximum(self.cabin_c, self.pack_c)
        part: Floats = ((self._to_c - hottest_c) / (self._to_c - self._from_c)).clip(0.0, 1.0)
        return part
