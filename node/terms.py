"""Owners' terms: when, and for whom, a vehicle may be lent. Read from TOML, kept in columns.

Pure. An owner takes part only by saying so. A car's terms come before any wish of the coordinator; `guard` holds
them against what the car is doing.
"""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAY_MIN = 24 * 60
GIGABYTE = 10**9
NAME = r"car-[0-9]{4,}"
"""What vehicles are called. A file may name some that are of other lots."""


@dataclass(frozen=True, slots=True)
class Terms:
    """One owner's; the names are those of the TOML file."""

    opted_in: bool = False
    parked: bool = False  # also while parked off the charger; else only while plugged in
    least_charge: float = 0.2  # no work below it, 0 to 1
    wanted_charge: float = 0.0  # at the departure, 0 to 1; 0: the daily limit does
    departs_at: str = ""  # "07:30", on every day; empty: at any time
    hours: tuple[str, ...] = ()  # such as "22:00-06:30"; none: all
    cellular_gb_a_month: float = 0.0  # 0: over Wi-Fi only; infinite: no cap
    hottest_cabin_c: float = math.inf
    least_pay_per_h: float = 0.0  # in the unit of the jobs' values
    refused_models: tuple[str, ...] = ()
    refused_tenants: tuple[str, ...] = ()

    def said(self) -> dict[str, Any]:
        """What differs from the default, as a TOML file or a fact would have it."""
        default = Terms()
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in told.items()
            if value != getattr(default, name)
        }


WILLING = Terms(opted_in=True, least_charge=0.0, cellular_gb_a_month=math.inf)
"""An owner who takes part and asks for nothing."""


def read(text: str) -> tuple[Terms, Mapping[str, Terms]]:
    """The terms of a lot's owners and, by vehicle, of those that differ; raises ValueError.

    `[terms]` holds for all; `[vehicles.car-0003]` says what differs for one.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not TOML: {error}") from None
    for name in tables:
        if name not in ("terms", "vehicles"):
            raise ValueError(f"it has a table {name!r}; there are [terms] and [vehicles.NAME]")
    common = changed(Terms(), _table("[terms]", tables.get("terms", {})))
    vehicles = _table("[vehicles]", tables.get("vehicles", {}))
    for name in vehicles:
        if not re.fullmatch(NAME, name):
            raise ValueError(f"it has terms of {name!r}; vehicles are named like car-0003")
    return common, {name: changed(common, _table(f"[vehicles.{name}]", table)) for name, table in vehicles.items()}


def changed(terms: Terms, said: Mapping[str, Any]) -> Terms:
    """These terms with what is said otherwise; raises ValueError."""
    values: dict[str, Any] = {}
    for name, value in said.items():
        if name not in _CHECKS:
            raise ValueError(f"there is no term {name!r}; there are {', '.join(_CHECKS)}")
        values[name] = _CHECKS[name](name, value)
    return replace(terms, **values)


def assigned(text: str) -> dict[str, Any]:
    """Terms from one NAME=VALUE, the value as in TOML, a bare word for a text; raises ValueError."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"{text!r} names no value; write it like least_charge=0.3")
    try:
        return {name.strip(): tomllib.loads(f"value = {value}")["value"]}
    except tomllib.TOMLDecodeError:
        return {name.strip(): value.strip()}


class Columns:
    """The terms of N owners in columns."""

    def __init__(self, terms: Iterable[Terms]) -> None:
        rows = tuple(terms)
        most = max([len(row.hours) for row in rows], default=0) or 1
        self.rows = rows
        self.opted_in = np.array([row.opted_in for row in rows], np.bool_)  # [N], as all that follow
        self.parked = np.array([row.parked for row in rows], np.bool_)
        self.least_charge = np.array([row.least_charge for row in rows], np.float64)
        self.wanted_charge = np.array([row.wanted_charge for row in rows], np.float64)
        self.departs_min = np.array([_minute(row.departs_at) if row.departs_at else np.nan for row in rows])
        self.cellular_bytes = np.array([row.cellular_gb_a_month for row in rows], np.float64) * GIGABYTE
        self.hottest_cabin_c = np.array([row.hottest_cabin_c for row in rows], np.float64)
        self.least_pay_per_h = np.array([row.least_pay_per_h for row in rows], np.float64)
        self._from_min = np.zeros((len(rows), most))  # [N, H]
        self._lasts_min = np.zeros((len(rows), most))  # [N, H]
        for at, row in enumerate(rows):
            for number, hours in enumerate(row.hours or ("00:00-24:00",)):
                since, until = _hours(hours)
                self._from_min[at, number] = since
                self._lasts_min[at, number] = (until - since) % DAY_MIN or DAY_MIN

    def in_hours(self, minute: float) -> NDArray[np.bool_]:
        """Whose hours [N] this minute of the day is in."""
        return np.asarray(((minute - self._from_min) % DAY_MIN < self._lasts_min).any(axis=1), np.bool_)

    def departs_in_s(self, now_s: float) -> NDArray[np.float64]:
        """Simulated seconds until each owner wants to leave [N]; infinite when that is not said."""
        left_min = (self.departs_min - now_s / 60.0) % DAY_MIN
        return np.where(np.isnan(left_min), np.inf, left_min * 60.0)

    def with_rows(self, nodes: Sequence[int], terms: Sequence[Terms]) -> "Columns":
        """The same with these rows replaced."""
        rows = list(self.rows)
        for node, row in zip(nodes, terms, strict=True):
            rows[node] = row
        return Columns(rows)


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}; it must be a table")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {value!r} cannot be; give true or false")
    return value


def _part(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} = {value!r} cannot be; give a part of the pack from 0 to 1")
    return float(value)


def _amount(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} = {value!r} cannot be; give a number of at least 0")
    return float(value)


def _cap(name: str, value: Any) -> float:
    return math.inf if value == math.inf else _amount(name, value)


def _degrees(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{name} = {value!r} cannot be; give degrees Celsius")
    return float(value)


def _time(name: str, value: Any) -> str:
    if not isinstance(value, str) or (value and _clock(value) is None):
        raise ValueError(f'{name} = {value!r} cannot be; give a time of day like "07:30", or "" for none')
    return value


def _spans(name: str, value: Any) -> tuple[str, ...]:
    spans = _words(name, value)
    for span in spans:
        _hours(span)
    return spans


def _words(name: str, value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f'{name} = {value!r} cannot be; give a list like ["a", "b"]')
    return tuple(words)


_CHECKS = {
    "opted_in": _flag,
    "parked": _flag,
    "least_charge": _part,
    "wanted_charge": _part,
    "departs_at": _time,
    "hours": _spans,
    "cellular_gb_a_month": _cap,
    "hottest_cabin_c": _degrees,
    "least_pay_per_h": _amount,
    "refused_models": _words,
    "refused_tenants": _words,
}


def _hours(span: str) -> tuple[int, int]:
    since, until = (_clock(part.strip()) for part in (*span.split("-", 1), "")[:2])
    if since is None or until is None:
        raise ValueError(f'hours {span!r} cannot be; write them like "22:00-06:30"')
    return since, until


def _minute(time: str) -> float:
    minute = _clock(time)
    assert minute is not None, "it was checked when it was read"
    return float(minute % DAY_MIN)


def _clock(time: str) -> int | None:
    """Minutes since midnight of "07:30"; None when it is no time of day. 24:00 is the end of it."""
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", time)
    if match is None or int(match[2]) > 59 or int(match[1]) * 60 + int(match[2]) > DAY_MIN:
        return None
    return int(match[1]) * 60 + int(match[2])
