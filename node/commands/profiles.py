"""`carpool profiles`: what is known of the hardware, how much sources disagree, and who says so."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from node.profile import FIGURES, Profile, load, names

_COLUMNS = ("int8_tops", "half_tops", "memory_gb", "bandwidth_gb_per_s", "board_w", "usable_kwh")
_UNKNOWN = "unknown"


def profiles(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Tell all of one.", show_default=False)] = "",
) -> None:
    """List the hardware profiles, or tell every figure of one with its spread and its source."""
    try:
        chosen = [load(one) for one in ((name,) if name else names())]
    except ValueError as error:
        print(f"carpool: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    console = Console(width=None if Console().is_terminal else 140)
    console.print(_one(chosen[0]) if name else _all(chosen))


def _all(chosen: list[Profile]) -> Table:
    """A row for each profile; where sources disagree, from where to where."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("profile", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "profile")
    for key in _COLUMNS:
        unit = FIGURES[key][1]
        table.add_column(f"{key.rpartition('_per_s')[0] or key}\n{unit}".replace("_", " "), justify="right")
    for profile in chosen:
        cells = [
            "none" if key == "usable_kwh" and profile.battery is None else _cell(profile, key) for key in _COLUMNS
        ]
        table.add_row(profile.name, profile.title, *cells)
    return table


def _cell(profile: Profile, key: str) -> str:
    if key not in profile.figures:
        return _UNKNOWN
    return f"{profile.figures[key]:,g}" + (f"\n({_spread(profile, key)})" if key in profile.spread else "")


def _one(profile: Profile) -> Table:
    """A row for each figure."""
    kind = "a vehicle" if profile.battery else "no vehicle: it has no battery"
    table = Table(title=f"{profile.name}: {profile.title}, {kind}", title_justify="left", box=None, pad_edge=False)
    for heading in ("figure", "value", "unit", "spread", "source"):
        right = heading in ("value", "spread")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading != "source", overflow="fold"
        )
    for key, (part, unit) in FIGURES.items():
        if key in profile.figures:
            spread = _spread(profile, key) if key in profile.spread else ""
            table.add_row(key, f"{profile.figures[key]:,g}", unit, spread, profile.source[key])
        elif part in ("compute", "power"):
            table.add_row(key, _UNKNOWN, "", "", "")
    return table


def _spread(profile: Profile, key: str) -> str:
    return " - ".join(f"{end:,g}" for end in profile.spread[key])
