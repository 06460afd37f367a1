"""Tables for people on a terminal, tab-separated lines for programs everywhere else."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

COLOURS = {
    "idle": "green",
    "busy": "bold green",
    "done": "green",
    "running": "bold",
    "cordoned": "yellow",
    "withdrawn": "yellow",
    "away": "dim",
    "cancelled": "dim",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Headings, and rows of as many cells; numbers stand to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str | int]]


def show(table: Table) -> None:
    """Print it: for a person when standard output is a terminal, else one line a row, cells between tabs."""
    if not sys.stdout.isatty():
        print("\t".join(table.headings))
        for row in table.rows:
            print("\t".join(" ".join(str(cell).split()) for cell in row))
        return
    drawn = RichTable(box=box.SIMPLE_HEAD, header_style="bold")
    for index, heading in enumerate(table.headings):
        number = any(isinstance(row[index], int) for row in table.rows)
        drawn.add_column(heading, justify="right" if number else "left")
    for row in table.rows:
        drawn.add_row(*map(_cell, row))
    Console().print(drawn)


def _cell(value: str | int) -> Text:
    return Text(f"{value:,}") if isinstance(value, int) else Text(value, style=COLOURS.get(value, ""))
