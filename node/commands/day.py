"""`carpool day`: how some cars live, modelled and shown: when they are plugged in, for how long, how full."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from node import plan, profile, storm
from node.battery import Battery
from node.day import Day
from node.plan import DAY_S, HOUR_S, WEEKDAYS

STEP_S = 0.25 * HOUR_S
_SHADES = " ▁▂▃▄▅▆▇█"
_LISTED = 12  # windows of the first car that are shown


@dataclass(frozen=True, slots=True, eq=False)
class Life:
    """What N cars do in T steps, modelled."""

    at_s: NDArray[np.float64]  # [T] since Monday 00:00
    plugged: NDArray[np.bool_]  # [T, N]
    state_of_charge: NDArray[np.float64]  # [T, N] 0 to 1
    windows: list[tuple[int, float, float, float, float]]  # car, begin_s, end_s, charge then and then


def day(
    profile_name: Annotated[str, typer.Argument(metavar="PROFILE", help="What they are, or a mix: hw4:3,ai5:1.")],
    day_name: Annotated[str, typer.Argument(metavar="DAY", help="How they live, or a mix: home:3,van:1.")],
    cars: Annotated[int | None, typer.Option(min=1, help="How many. Default: what a mix says, else 1.")] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="For so long.")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0,
    storms: Annotated[
        str, typer.Option("--storm", metavar="NAME[@HOUR],...", help="What befalls them: update@2, holiday.")
    ] = "",
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw it there, too.")] = None,
) -> None:
    """Show how modelled vehicles live for a week: plugged in by hour, windows, state of charge."""
    try:
        if plot is not None:
            _check(plot)
        count = cars or plan.vehicles_of(profile_name) or plan.vehicles_of(day_name)
        kinds = profile.assign(profile_name, count)
        names = plan.assign(day_name, len(kinds))
        plan.require_vehicles(names, kinds)
        befall = storm.parse(storms)
    except ValueError as error:
        print(f"carpool: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    seen = live(kinds, names, befall, days, seed)
    show(seen, Console(width=None if Console().is_terminal else 120))
    if plot is not None:
        draw(seen, plot, f"{profile_name}, {day_name}")
        print(f"drawn in {plot}")


def live(kinds: Sequence[str], names: Sequence[str], storms: Sequence[storm.Storm], days: int, seed: int) -> Life:
    """Let these cars live for so many days, idle on the charger."""
    plans = plan.lived_together(names, names[0])
    hardware = {name: profile.load(name) for name in set(kinds)}
    lived = Day(plans, len(names), 0, seed, storms)
    battery = Battery([hardware[name] for name in kinds], np.array([one.state_of_charge for one in plans]))
    idle = np.zeros(len(names), np.bool_)
    begun: dict[int, tuple[float, float]] = {}
    windows: list[tuple[int, float, float, float, float]] = []
    plugged, charged, now_s = [], [], lived.start_s
    steps_s = np.arange(round(days * DAY_S / STEP_S) + 1, dtype=np.float64) * STEP_S + now_s
    for step_s in steps_s.tolist():
        while True:
            changes = lived.advance(now_s)
            for car in changes.left.tolist():
                begin_s, then = begun.pop(car)
                windows.append((car, begin_s, now_s, then, float(battery.state_of_charge[car])))
            battery.arrive(changes.travelled, changes.used_kwh)
            begun |= {car: (now_s, float(battery.state_of_charge[car])) for car in changes.came.tolist()}
            if now_s == step_s:
                break
            until_s = min(step_s, lived.next_change_s())
            battery.advance(until_s - now_s, lived.plugged, idle)
            now_s = until_s
        plugged.append(lived.plugged.copy())
        charged.append(battery.state_of_charge.copy())
    for car, (begin_s, then) in begun.items():
        windows.append((car, begin_s, np.inf, then, float(battery.state_of_charge[car])))
    return Life(steps_s, np.array(plugged), np.array(charged), sorted(windows))


def show(seen: Life, console: Console) -> None:
    """Tell it on a terminal."""
    cars = seen.plugged.shape[1]
    table = Table(
        title="plugged in, modelled, by hour from 0 to 23", box=None, pad_edge=False, title_justify="left"
    )
    for heading in ("day", "hour 0     6     12    18"):
        table.add_column(heading, no_wrap=True)
    table.add_column("of the day", justify="right", no_wrap=True)
    for number in np.unique(seen.at_s[:-1] // DAY_S).astype(int).tolist():
        shares = _by_hour(seen, number)
        bar = "".join(" " if np.isnan(one) else _shade(one) for one in shares)
        table.add_row(WEEKDAYS[number % 7], f"     {bar}", f"{100 * np.nanmean(shares):.0f} %")
    console.print(table)
    lengths_h = np.array(
        [(end_s - begin_s) / HOUR_S for _, begin_s, end_s, _, _ in seen.windows if np.isfinite(end_s)]
    )
    quartiles = ""
    if lengths_h.size:
        quartiles = " of {:.1f}, {:.1f} and {:.1f} h (quartiles)".format(*np.quantile(lengths_h, (0.25, 0.5, 0.75)))
    console.print(
        f"{cars} car{'' if cars == 1 else 's'}: {len(lengths_h)} window{'' if len(lengths_h) == 1 else 's'} ended"
        f"{quartiles}; state of charge, modelled: {seen.state_of_charge.min():.0%} at the least,"
        f" {seen.state_of_charge.mean():.0%} on average",
        highlight=False,
    )
    table = Table(title="\nwindows of the first car, modelled", box=None, pad_edge=False, title_justify="left")
    for heading in ("from", "until", "hours", "charge then", "at its end"):
        table.add_column(heading, justify="left" if heading in ("from", "until") else "right", no_wrap=True)
    first = [one for one in seen.windows if one[0] == 0]
    for _, begin_s, end_s, then, later in first[:_LISTED]:
        stays = np.isfinite(end_s)
        hours = f"{(end_s - begin_s) / HOUR_S:.1f}" if stays else ""
        table.add_row(_clock(begin_s), _clock(end_s) if stays else "stays", hours, f"{then:.0%}", f"{later:.0%}")
    console.print(table)
    if len(first) > _LISTED:
        console.print(f"and {len(first) - _LISTED} more", highlight=False)


def draw(seen: Life, path: Path, title: str) -> None:
    """Draw it to a file."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    days = seen.at_s / DAY_S
    figure, (above, middle, below) = plt.subplots(3, 1, figsize=(10, 7), sharex=True, layout="constrained")
    above.plot(days, 100 * seen.plugged.mean(1))
    above.set(ylabel="% plugged in", ylim=(0, 100), title=f"{title}, modelled")
    for car, begin_s, end_s, _, _ in seen.windows:
        if car < 20:
            middle.plot((begin_s / DAY_S, min(end_s / DAY_S, days[-1])), (car, car), color="C0", linewidth=3)
    middle.set(ylabel="windows of each car", yticks=())
    below.plot(days, 100 * seen.state_of_charge[:, :20], linewidth=0.8)
    below.set(ylabel="state of charge, %", ylim=(0, 100), xlabel="days since Monday 00:00")
    for panel in (above, middle, below):
        panel.grid(alpha=0.3)
    figure.savefig(path)
    plt.close(figure)


def _check(path: Path) -> None:
    """Whether it can be drawn there: before the work, not after."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf") or not path.absolute().parent.is_dir():
        raise ValueError(f"--plot {path} cannot be drawn; name a .png, .svg or .pdf in a folder that is there")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib, which is not installed; pip install 'carpool[benchmarks]'")


def _by_hour(seen: Life, number: int) -> NDArray[np.float64]:
    """Share plugged in by hour of a day [24]; NaN of hours that were not lived."""
    of_day = seen.at_s // DAY_S == number
    hour = (seen.at_s[of_day] % DAY_S // HOUR_S).astype(np.intp)
    count = np.bincount(hour, minlength=24)
    share = np.bincount(hour, seen.plugged[of_day].mean(1), 24)
    return np.where(count > 0, share / np.maximum(count, 1), np.nan)


def _shade(share: float) -> str:
    return _SHADES[round(share * (len(_SHADES) - 1))]


def _clock(at_s: float) -> str:
    minutes = int(at_s // 60)
    return f"{WEEKDAYS[minutes // 1440 % 7][:3]} {minutes // 60 % 24:02}:{minutes % 60:02}"
