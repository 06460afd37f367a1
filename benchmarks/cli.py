"""What the benchmarks add to the `carpool` command."""

import sys
from typing import Annotated

import typer
from rich.console import Console


def commands(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command()(demo)


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
