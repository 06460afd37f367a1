"""What small requests wait for while a tensor of 64 MB goes in and comes out again, through Open Inference.

Small ones and large ones are asked for by two processes, lest the one's client hold up the other's: a large answer
alone takes a client tens of milliseconds to copy. Large ones follow each other without a pause. All go to the model
that echoes, of cars in lots of their own; and, in turns, to a raw gRPC server that echoes by itself.
"""

from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.callers import Callers
from benchmarks.cluster import ECHO, START_S, Cluster
from benchmarks.figures import Figure, Goal, percentile, ratio
from benchmarks.fronts_load import LARGE, TENSOR_VALUES, WARM_UP_S, Load
from benchmarks.process import Process

GOAL = Goal(at_most=2.0)
"""Of the p99 with large tensors, by that without."""

_MEGABYTES = 4e-6 * TENSOR_VALUES


@dataclass(slots=True)
class _Side:
    """What was measured of one server, a sample for every round."""

    target: str
    alone: list[float] = field(default_factory=list)  # p99, ms
    beside: list[float] = field(default_factory=list)
    alone_per_s: list[float] = field(default_factory=list)
    beside_per_s: list[float] = field(default_factory=list)
    large_s: list[float] = field(default_factory=list)


def measure(given: Namespace, folder: Path, tell: Callable[[str], None]) -> tuple[list[Figure], list[str]]:
    """Figures and notes of this part."""
    with ExitStack() as exits:
        cluster = exits.enter_context(Cluster(given.cars, ECHO, folder))
        raw = exits.enter_context(Process.python("echo", "benchmarks.echo", folder=folder))
        small_callers = exits.enter_context(Callers(folder, "small"))
        large_callers = exits.enter_context(Callers(folder, "large"))
        sides = {"ours": _Side(cluster.target), "echo": _Side(raw.expect(r"echo ready grpc=(\S+)", START_S)[1])}
        for turn in range(given.rounds):
            for name, side in list(sides.items())[:: 1 if turn % 2 == 0 else -1]:
                small = Load("small", side.target, given.width, given.seconds)
                large = Load(LARGE, side.target, 1, given.seconds + WARM_UP_S)
                for with_large in (False, True) if turn % 2 == 0 else (True, False):
                    tell(f"round {turn + 1} of {given.rounds}: {name}, {'beside large' if with_large else 'alone'}")
                    if with_large:
                        large_callers.begin(large)
                    heard = small_callers.call(small)
                    (side.beside if with_large else side.alone).append(percentile(heard.total, 99))
                    (side.beside_per_s if with_large else side.alone_per_s).append(heard.per_s)
                    if with_large:
                        side.large_s += [1e-3 * took_ms for took_ms in large_callers.heard(large).total]
    figures = []
    for name, side in sides.items():
        small_ones, megabytes = f"{name}: {given.width} small ones", f"{_MEGABYTES:.0f} MB"
        goal = GOAL if name == "ours" else None
        figures += [
            ratio(f"{small_ones} beside {megabytes}: p99 ÷ alone", side.beside, side.alone, goal),
            Figure(f"{small_ones} alone: p99", "ms", side.alone),
            Figure(f"{small_ones} beside {megabytes}: p99", "ms", side.beside),
            Figure(f"{small_ones} alone", "/s", side.alone_per_s),
            Figure(f"{small_ones} beside {megabytes}", "/s", side.beside_per_s),
            Figure(f"{name}: {megabytes} in and out, beside small ones", "s", side.large_s),
        ]
    return figures, []
