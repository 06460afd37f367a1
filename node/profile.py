"""Hardware profiles: what is known of a vehicle's computer, one TOML file each in node/profiles.

A fact about hardware is a line in a file with its source, never a class per chip.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of vehicle."""

    name: str
    title: str
    int8_tops: float  # dense, 10^12 operations a second
    memory_gb: float
    bandwidth_gb_per_s: float
    board_w: float  # the computer's draw under load, watts
    awake_w: float  # the car around it, awake and idle, watts
    usable_kwh: float  # of its pack
    wall_kw: float  # what the wall gives while it charges
    charge_to: float  # state of charge at which charging ends, 0 to 1
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
    text = resources.files("node").joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return Profile(
        name=tables["name"],
        title=tables["title"],
        **{key: float(value) for key, value in tables["compute"].items()},
        **{key: float(value) for key, value in tables["power"].items()},
        **{key: float(value) for key, value in tables["battery"].items()},
        **{key: float(value) for key, value in tables.get("heat", {}).items()},
    )


def assign(mix: str, vehicles: int | None) -> Sequence[str]:
    """The profile of each vehicle from "hw4:6,ai5:2", or "hw4" for all; raises ValueError.

    The counts must add up to `vehicles` where both are given; without either it is one vehicle.
    """
    if ":" not in mix:
        load(mix)
        return (mix,) * (1 if vehicles is None else vehicles)
    assigned: list[str] = []
    for part in mix.split(","):
        name, _, count = part.strip().partition(":")
        load(name)
        if not (count.isascii() and count.isdigit()):
            raise ValueError(f"profile {part.strip()!r} has no count; write it like hw4:6,ai5:2")
        assigned += [name] * int(count)
    if vehicles is not None and vehicles != len(assigned):
        raise ValueError(
            f"--profile {mix} names {len(assigned)} vehicles and --vehicles says {vehicles}; make them equal"
        )
    return tuple(assigned)
