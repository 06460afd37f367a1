"""Commands of `carpool` that concern vehicles and models on this machine."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from node import client
from node.commands import day, models

Names = Annotated[list[str], typer.Argument(metavar="NODE…", help="Vehicles, as `carpool nodes` lists them.")]
Cluster = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of a running cluster.", show_default="the last `carpool up`"),
]


def commands(app: typer.Typer) -> None:
    """Add `day`, `models`, `plug` and `unplug`."""
    app.add_typer(models.models, name="models")
    app.command()(day.day)
    app.command()(plug)
    app.command()(unplug)


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


def _refuse(error: client.DriverError) -> NoReturn:
    print(f"carpool: {error}", file=sys.stderr)
    raise typer.Exit(2) from None
