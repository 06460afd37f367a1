"""What each front adds to a request, beside a raw gRPC echo and Ray Serve; and what large tensors and chats get.

All sides have a model of 1 ms that waits on a timer (`timer`), four cars or four replicas of it, each a process.
What is added is what a caller waited, less what the model says that it took. One client, a process of its own, asks
all sides in turns, round after round, while the others idle; its cost is in every figure.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import fronts_beside, fronts_chat, fronts_large, fronts_latency
from benchmarks.figures import Figure, Report, count, parser, seconds, terminal
from benchmarks.machine import Machine

PARTS = {
    "latency": fronts_latency.measure,
    "tensor": fronts_large.measure,
    "chat": fronts_chat.measure,
    "beside": fronts_beside.measure,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("fronts", str(__doc__).partition("\n")[0])
    options.add_argument("--rounds", type=count, default=7, metavar="N", help="through all sides of a part (7)")
    options.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="of each measurement (2)")
    options.add_argument("--width", type=count, default=64, metavar="N", help="callers at a time (64)")
    options.add_argument(
        "--cars", type=_cars, default=(1, 1, 1, 1), metavar="N,N", help="of the timer model, by lot (1,1,1,1)"
    )
    options.add_argument(
        "--ray", type=_ways, default=("plain", "fast"), metavar="WAYS", help="of plain, fast; empty: none (both)"
    )
    options.add_argument(
        "--requests", type=count, default=8, metavar="N", help="chat requests of a measurement (8)"
    )
    options.add_argument("--tokens", type=count, default=64, metavar="N", help="of each chat answer (64)")
    options.add_argument(
        "--chat", default="smollm2", metavar="NAME", help="a model that answers in words (smollm2)"
    )
    options.add_argument(
        "--parts", type=_parts, default=tuple(PARTS), metavar="PARTS", help=f"of {', '.join(PARTS)} (all)"
    )
    given = options.parse_args(arguments)
    machine, console = Machine.here(), terminal()
    figures: list[Figure] = []
    notes: list[str] = []
    with TemporaryDirectory(prefix="carpool-") as name:
        for part in given.parts:
            folder = Path(name) / part
            folder.mkdir()
            with console.status(f"{part}: starting") as status:
                found, told = PARTS[part](given, folder, status.update)
            figures += found
            notes += told
    settings = {name: getattr(given, name) for name in ("rounds", "seconds", "width", "cars", "ray", "parts")}
    layout = f"one client process; timer model of 1 ms in {len(given.cars)} lot(s), {sum(given.cars)} cars"
    Report("fronts", layout, settings, machine, figures, notes).publish(console, given.json)
    return 0


def _cars(text: str) -> tuple[int, ...]:
    return tuple(map(count, text.split(",")))


def _ways(text: str) -> tuple[str, ...]:
    return _among(text, ("plain", "fast"))


def _parts(text: str) -> tuple[str, ...]:
    return _among(text, tuple(PARTS))


def _among(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    named = tuple(filter(None, text.split(",")))
    for name in named:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return named
