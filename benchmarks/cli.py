"""What the benchmarks add to the `carpool` command."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def commands(app: typer.Typer) -> None:
    """Add `audit` and `demo`."""
    app.command()(audit)
    app.command()(demo)


def audit(
    facts: Annotated[Path, typer.Argument(metavar="DIR", help="What `carpool up --facts DIR` wrote.")],
) -> None:
    """Judge by what the cars wrote down whether their owners' terms were kept."""
    from benchmarks.audit import audit as run

    try:
        found = run(facts)
    except ValueError as error:
        print(f"carpool audit: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    for violation in found.violations:
        hour = violation.t_s / 3600 % 168
        print(f"{violation.car}: {violation.term} broken at hour {hour:.2f} of the week: {violation.told}")
    print(
        f"{len(found.violations)} violations in {found.facts:,} facts of {found.cars} cars: "
        f"{found.leases:,} leases, {found.departures} departures with a wanted charge, {found.places} connections"
    )
    print(
        f"energy, modelled: {found.compute_j / 3600:.1f} Wh of computers, "
        f"{found.awake_j / 3600:.1f} Wh of the cars awake around them"
    )
    if any(found.fetched_bytes.values()):
        links = (("line", "the places' lines"), ("lan", "neighbours"), ("cellular", "the cellular network"))
        told = ", ".join(f"{found.fetched_bytes[link] / 1e6:,.1f} MB over {name}" for link, name in links)
        print(f"weights, modelled: {told.replace('over neighbours', 'from neighbours')}")
    raise typer.Exit(1 if found.violations else 0)


def demo(
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What torch runs on.")] = "auto",
) -> None:
    """Lose three of six cars in the middle of their work, and nothing else."""
    from benchmarks.demo import demo as run  # what it needs, no other command has to load
    from benchmarks.figures import BenchmarkFailed

    try:
        code = run(device, Console())
    except BenchmarkFailed as failed:
        print(f"carpool demo: {failed}", file=sys.stderr)
        code = 1
    raise typer.Exit(code)
