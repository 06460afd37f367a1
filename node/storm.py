"""What befalls many cars at once, on top of their days: an update wave, a power cut, a holiday.

Pure. A storm is a line of facts in node/storms/*.toml; which car it meets when is a function of the seed and the
vehicle.
"""

import tomllib
from dataclasses import dataclass
from importlib import resources

from node.plan import HOUR_S


@dataclass(frozen=True, slots=True)
class Storm:
    """One storm, on simulated time."""

    name: str
    at_s: float  # since the start: when it begins
    spread_s: float  # within which the cars leave one by one; 0: all at once
    away_s: float  # how long each is away; 0: none is taken away
    sundays: int  # days, from that of its begin, that everybody lives as a Sunday


def names() -> tuple[str, ...]:
    """Every storm there is a file for."""
    files = resources.files("node").joinpath("storms").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def parse(text: str) -> tuple[Storm, ...]:
    """From "update@2,holiday", an hour after the start each; raises ValueError."""
    return tuple(_parse_one(one.strip()) for one in text.split(",") if one.strip())


def _parse_one(text: str) -> Storm:
    name, at, hour = text.partition("@")
    if name not in names():
        raise ValueError(f"there is no storm {name!r}; choose one of {', '.join(names())}")
    tables = tomllib.loads(resources.files("node").joinpath("storms", f"{name}.toml").read_text("utf-8"))
    try:
        at_h = float(hour) if at else float(tables["at_h"])
    except ValueError:
        at_h = -1.0
    if not 0 <= at_h < 24 * 365:
        raise ValueError(f"storm {text!r} has no hour; write it like {name}@2.5, hours after the start, under 8760")
    return Storm(name, at_h * HOUR_S, tables["spread_h"] * HOUR_S, tables["away_h"] * HOUR_S, tables["sundays"])
