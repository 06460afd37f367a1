"""`carpool run` as a user calls it: a text file through a live fleet into a file, as a child that is watched."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import BenchmarkFailed
from benchmarks.process import Process
from benchmarks.submitting import MODEL

_LEAST_S = 60.0  # it may take
_ITEM_S = 1e-3  # assumed: and this for an item, ten times what it takes


@dataclass(frozen=True, slots=True)
class FileRun:
    """What one took."""

    elapsed_s: float
    peak_bytes: int  # of the command's own memory


def file_run(target: str, items: int, folder: Path) -> FileRun:
    """Run a file of so many small items; every answer is checked."""
    given, out = folder / "items.txt", folder / "answers.jsonl"
    with given.open("w") as lines:
        lines.writelines(f"{_item(number)}\n" for number in range(items))
    arguments = ("run", MODEL, given, "-o", out, "--grpc", target)
    with Process.python("carpool-run", "coordinator.cli", *arguments, folder=folder) as command:
        peak_bytes = command.outlast(_LEAST_S + items * _ITEM_S)
        elapsed_s = time.monotonic() - command.begun_s
    _check(out, items)
    return FileRun(elapsed_s, peak_bytes)


def _item(number: int) -> str:
    return f"item {number:09}"


def _check(out: Path, items: int) -> None:
    """Every item has a line, in order, with the item as its answer."""
    found = 0
    with out.open() as lines:
        for number, line in enumerate(lines):
            answer = json.loads(line)
            wanted = (f"line-{number + 1}", [{"object": "echo", "index": 0, "output": _item(number)}])
            if answer["error"] or (answer["custom_id"], answer["response"]["body"]["data"]) != wanted:
                raise BenchmarkFailed(f"line {number + 1} of `carpool run`'s answers is {line.strip()}")
            found += 1
    if found != items:
        raise BenchmarkFailed(f"`carpool run` wrote {found} lines for {items} items")
