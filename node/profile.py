"""Hardware profiles: what is known of a vehicle's computer, one TOML file each in node/profiles.

A fact about hardware is a line in a file with its source, never a class per chip. A figure that nobody knows is
absent there and None here. What has no battery is no vehicle: a rack in a data centre, a chip to compare with.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from node import mixture

FIGURES: Mapping[str, tuple[str, str]] = {
    "int8_tops": ("compute", "TOPS"),
    "half_tops": ("compute", "TOPS"),
    "memory_gb": ("compute", "GB"),
    "bandwidth_gb_per_s": ("compute", "GB/s"),
    "board_w": ("power", "W"),
    "awake_w": ("power", "W"),
    "wake_j": ("power", "J"),
    "usable_kwh": ("battery", "kWh"),
    "wall_kw": ("battery", "kW"),
    "charge_to": ("battery", ""),
    "cabin_k_per_kw": ("heat", "K/kW"),
    "cabin_h": ("heat", "h"),
    "pack_h": ("heat", "h"),
    "throttle_from_c": ("heat", "°C"),
    "throttle_to_c": ("heat", "°C"),
}
"""Every figure that a profile may have: its table in the file, and its unit."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A vehicle's battery."""

    usable_kwh: float
    wall_kw: float  # what the wall gives while it charges
    charge_to: float  # state of charge at which charging ends, 0 to 1


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of vehicle, or of computer that is none. None: unknown."""

    name: str
    title: str
    int8_tops: float | None  # dense, 10^12 operations a second
    half_tops: float | None  # the same of 16 bits, bf16 or fp16
    memory_gb: float | None
    bandwidth_gb_per_s: float | None
    board_w: float | None  # the computer's draw under load, watts
    awake_w: float | None  # the car around it, awake and idle, watts
    battery: Pack | None  # None: it has none
    figures: Mapping[str, float]  # all that are known, by name, those of the battery too
    spread: Mapping[str, tuple[float, float]]  # between which sources disagree, of figures that are disputed
    source: Mapping[str, str]  # of each figure
    wake_j: float = 0.0  # what it takes to wake the car around the computer, joules
    cabin_k_per_kw: float = 0.0  # how much warmer than the air a cabin settles for each kW drawn in it
    cabin_h: float = 1.0  # until it has gone 63 % of the way
    pack_h: float = 10.0  # the same of the pack
    throttle_from_c: float = 50.0  # where the computer begins to slow down, at the hotter of cabin and pack
    throttle_to_c: float = 70.0  # where it stands still


def names() -> tuple[str, ...]:
    """Every profile there is a file for."""
    files = resources.files("node").joinpath("profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(name: str) -> Profile:
    """The profile of that name; raises ValueError when there is none."""
    if name not in names():
        raise ValueError(f"there is no profile {name!r}; choose one of {', '.join(names())}")
    return parse(resources.files("node").joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8"))


def parse(text: str) -> Profile:
    """A profile from TOML; raises ValueError naming a figure that is not known here, or lacks its source."""
    tables = tomllib.loads(text)
    figures: dict[str, float] = {}
    for table in ("compute", "power", "battery", "heat"):
        for key, value in tables.get(table, {}).items():
            if FIGURES.get(key, ("",))[0] != table:
                raise ValueError(f"profile {tables['name']}: [{table}] has no figure {key!r}")
            figures[key] = float(value)
    source: dict[str, str] = tables.get("source", {})
    if figures.keys() != source.keys():
        raise ValueError(
            f"profile {tables['name']}: give each figure its line in [source], and nothing else; "
            f"these do not fit: {', '.join(sorted(figures.keys() ^ source.keys()))}"
        )
    spread = {key: (float(low), float(high)) for key, (low, high) in tables.get("spread", {}).items()}
    for key, (low, high) in spread.items():
        if key not in figures or not low <= figures[key] <= high:
            raise ValueError(
                f"profile {tables['name']}: the spread of {key}, {low:g} to {high:g}, lacks its figure"
            )
    known = figures.get
    return Profile(
        name=tables["name"],
        title=tables["title"],
        int8_tops=known("int8_tops"),
        half_tops=known("half_tops"),
        memory_gb=known("memory_gb"),
        bandwidth_gb_per_s=known("bandwidth_gb_per_s"),
        board_w=known("board_w"),
        awake_w=known("awake_w"),
        battery=Pack(**{key: figures[key] for key in tables["battery"]}) if "battery" in tables else None,
        figures=figures,
        spread=spread,
        source=source,
        **{key: figures[key] for key in ("wake_j", *tables.get("heat", ())) if key in figures},
    )


def require_vehicles(mix: Iterable[str], why: str) -> None:
    """Raises ValueError, which says why a vehicle is needed, when one of these is none."""
    for name in dict.fromkeys(mix):
        if load(name).battery is None:
            vehicles = ", ".join(other for other in names() if load(other).battery is not None)
            raise ValueError(
                f"profile {name!r} is no vehicle, it has no battery, and {why}; choose one of {vehicles}"
            )


def assign(mix: str, vehicles: int | None) -> tuple[str, ...]:
    """The profile of each vehicle from "hw4:6,ai5:2", or "hw4" for all; raises ValueError.

    The counts must add up to `vehicles` where both are given; without either it is one vehicle.
    """
    return mixture.assign("--profile", mix, vehicles, load)
