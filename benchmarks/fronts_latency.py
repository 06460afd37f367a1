"""What each front adds to a request of 1 ms, and how many a second it answers, beside an echo and Ray Serve.

Ray Serve is compared with as it comes ("plain") and as its documentation has it for high throughput ("fast"), one
after the other, since its processes take a tenth of a core while nobody asks. Our fronts and the echo are measured
again beside each. A ratio is within a round.
"""

import socket
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.callers import Callers
from benchmarks.cluster import ECHO, START_S, Cluster
from benchmarks.figures import Figure, Goal, percentile, ratio
from benchmarks.fronts_load import Load
from benchmarks.process import Process

MOST_ADDED, LEAST_MORE = Goal(at_most=0.5), Goal(at_least=3.0)
"""Of Ray Serve's added p50, and of its throughput with many at a time."""

_OURS = {"JobService.Run": "grpc", "Open Inference": "open_inference", "OpenAI": "openai"}
_NAMES = {"plain": "Ray", "fast": "Ray fast"}


@dataclass(slots=True)
class _Samples:
    """Of one side with so many callers, a sample for each round; milliseconds."""

    per_s: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)  # added
    p99: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)  # median of what the model took

    def add(self, other: "_Samples") -> None:
        """Rounds of another time."""
        for name in ("per_s", "p50", "p99", "model"):
            getattr(self, name).extend(getattr(other, name))


Measured = dict[str, dict[int, _Samples]]
"""By side and number of callers."""


def measure(given: Namespace, folder: Path, tell: Callable[[str], None]) -> tuple[list[Figure], list[str]]:
    """Figures and notes of this part."""
    widths = (1, given.width)
    found: Measured = {}
    ratios: list[Figure] = []
    with ExitStack() as exits:
        cluster = exits.enter_context(Cluster(given.cars, ECHO, folder, node="benchmarks.timer_lot"))
        echo = exits.enter_context(Process.python("echo", "benchmarks.echo", "--timer", folder=folder))
        callers = exits.enter_context(Callers(folder))
        sides = {name: (front, _target(cluster, front)) for name, front in _OURS.items()}
        sides["echo"] = ("grpc", echo.expect(r"echo ready grpc=(\S+)", START_S)[1])
        for way in given.ray or ("",):
            beside: dict[str, tuple[str, str]] = {}
            with ExitStack() as ray:
                if way:
                    tell(f"starting {_NAMES[way]}")
                    beside = _ray(way, sum(given.cars), folder, ray)
                here = _rounds({**sides, **beside}, widths, given, callers, tell)
            ratios += _ratios(_NAMES[way], here, widths) if way else []
            for name, by_width in here.items():
                for width, samples in by_width.items():
                    found.setdefault(name, {}).setdefault(width, _Samples()).add(samples)
    return [*ratios, *_figures(found, widths)], _notes(found, widths)


def _target(cluster: Cluster, front: str) -> str:
    return cluster.http if front == "openai" else cluster.target


def _ray(way: str, replicas: int, folder: Path, exits: ExitStack) -> dict[str, tuple[str, str]]:
    """Its sides, when it serves."""
    http_port, grpc_port = _free_port(), _free_port()
    given = (way, replicas, http_port, grpc_port)
    process = exits.enter_context(Process.python(f"ray-{way}", "benchmarks.ray_serve", *given, folder=folder))
    process.expect("ray ready", START_S)
    return {
        f"{_NAMES[way]} gRPC": ("grpc", f"127.0.0.1:{grpc_port}"),
        f"{_NAMES[way]} HTTP": ("openai", f"127.0.0.1:{http_port}"),
    }


def _rounds(
    sides: dict[str, tuple[str, str]],
    widths: tuple[int, ...],
    given: Namespace,
    callers: Callers,
    tell: Callable[[str], None],
) -> Measured:
    """All sides in turns; every other round the other way round."""
    found: Measured = {name: {width: _Samples() for width in widths} for name in sides}
    for turn in range(given.rounds):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            for width in widths:
                tell(f"round {turn + 1} of {given.rounds}: {name}, {width} at a time")
                heard = callers.call(Load(*sides[name], width, given.seconds))
                samples = found[name][width]
                samples.per_s.append(heard.per_s)
                samples.p50.append(percentile(heard.added, 50))
                samples.p99.append(percentile(heard.added, 99))
                samples.model.append(percentile(heard.model, 50))
    return found


def _ratios(way: str, found: Measured, widths: tuple[int, ...]) -> list[Figure]:
    """Ours by Ray's, of the front that is like it."""
    figures = []
    for name, front in _OURS.items():
        peer = f"{way} {'HTTP' if front == 'openai' else 'gRPC'}"
        for width in widths:
            ours, theirs = found[name][width], found[peer][width]
            many = LEAST_MORE if width > 1 else None
            named = f"{name}, {width} at a time"
            figures.append(ratio(f"{named}: added p50 ÷ {peer}", ours.p50, theirs.p50, MOST_ADDED))
            figures.append(ratio(f"{named}: rate ÷ {peer}", ours.per_s, theirs.per_s, many))
    return figures


def _figures(found: Measured, widths: tuple[int, ...]) -> list[Figure]:
    figures = []
    for width in widths:
        for name, by_width in found.items():
            samples = by_width[width]
            figures.append(Figure(f"{name}, {width} at a time: added p50", "ms", samples.p50))
            figures.append(Figure(f"{name}, {width} at a time: added p99", "ms", samples.p99))
            figures.append(Figure(f"{name}, {width} at a time", "/s", samples.per_s))
    return figures


def _notes(found: Measured, widths: tuple[int, ...]) -> list[str]:
    told = [
        ", ".join(f"{name} {percentile(by_width[width].model, 50):.2f}" for name, by_width in found.items())
        for width in widths
    ]
    return [
        f"the model itself, by its own clock, ms, {width} at a time: {text}"
        for width, text in zip(widths, told, strict=True)
    ]


def _free_port() -> int:
    """One that nobody had just now: Ray Serve takes no 0."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port
