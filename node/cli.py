"""Commands of `carpool` that concern vehicles and models on this machine."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from node import client
from node.commands import day, models
from node.commands.profiles import profiles
from node.terms import assigned

Names = Annotated[list[str], typer.Argument(metavar="NODE…", help="Vehicles, as `carpool nodes` lists them.")]
Cluster = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of a running cluster.", show_default="the last `carpool up`"),
]


def commands(app: typer.Typer) -> None:
    """Add `day`, `models`, `plug`, `profiles`, `terms` and `unplug`."""
    app.add_typer(models.models, name="models")
    app.command()(day.day)
    app.command()(plug)
    app.command()(profiles)
    app.command()(terms)
    app.command()(unplug)


def of_node(name: str) -> list[str]:
    """What the lot of a vehicle on this machine says of it, for `carpool nodes`; nothing where there is none."""
    try:
        found = [car for car in client.parked(client.last_cluster()) if car.name == name]
    except client.DriverError:
        return []
    return [line for car in found for line in _told(car)]


def plug(
    nodes: Names,
    window: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long they stay; 0: until unplugged.", min=0.0)
    ] = 0.0,
    cluster: Cluster = None,
) -> None:
    """Put vehicles on the charger: the driver's hand, on this machine."""
    try:
        client.plug(cluster or client.last_cluster(), nodes, window)
    except client.DriverError as error:
        _refuse(error)
    print(f"plugged in {', '.join(nodes)}")


def unplug(nodes: Names, cluster: Cluster = None) -> None:
    """Take vehicles away: their work stops at once and goes to others."""
    try:
        done = client.unplug(cluster or client.last_cluster(), nodes)
    except client.DriverError as error:
        _refuse(error)
    for stop in done:
        print(
            f"unplugged {', '.join(stop.vehicles)}: work ended after {stop.stop_s * 1000:.0f} ms, "
            f"{stop.leases} lease{'' if stop.leases == 1 else 's'} taken away"
        )


def terms(
    nodes: Names,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A term as in a terms file: least_charge=0.3."),
    ] = None,
    cluster: Cluster = None,
) -> None:
    """Say what the owners' terms are or, with --set, change them: within a second they hold."""
    try:
        said = {name: value for text in change or () for name, value in assigned(text).items()}
        cars, stop_s = client.terms(cluster or client.last_cluster(), nodes, said)
    except (client.DriverError, ValueError) as error:
        _refuse(error)
    for car in cars:
        print(car.name, *_told(car), sep="\n  ")
    if said:
        print(f"what they forbid ended after {stop_s * 1000:.0f} ms")


def _told(car: client.Parked) -> list[str]:
    """A vehicle as its lot sees it, in lines."""
    stands = "plugged in" if car.plugged_in else "parked off its charger" if car.parked else "away"
    where = f"site {car.site or 'not told'}, day {car.day}, {stands}"
    said = ", ".join(f"{name} = {_toml(value)}" for name, value in car.terms.items())
    lines = [f"where: {where}", f"charge: {car.state_of_charge:.0%} (modelled)", f"terms: {said or 'not opted in'}"]
    return [*lines, f"withheld: {car.withheld}"] if car.withheld and (car.plugged_in or car.parked) else lines


def _toml(value: object) -> str:
    """As a terms file would have it."""
    return "inf" if value == math.inf else json.dumps(value)


def _refuse(error: Exception) -> NoReturn:
    print(f"carpool: {error}", file=sys.stderr)
    raise typer.Exit(2) from None
