"""The OpenAI front in the coordinator's process, or in one of its own that speaks gRPC to it (`http_relay`).

Of each what it answers by itself, and what it does to many callers of JobService.Run who ask at the same time. The
relay is as small as such a process can be, and the front in the coordinator is the real one.
"""

from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.callers import Callers
from benchmarks.cluster import ECHO, START_S, Cluster
from benchmarks.figures import Figure, percentile, ratio
from benchmarks.fronts_load import Load
from benchmarks.process import Process

HTTP_WIDTH = 8
"""Callers over HTTP beside the many over gRPC."""


def measure(given: Namespace, folder: Path, tell: Callable[[str], None]) -> tuple[list[Figure], list[str]]:
    """Figures and notes of this part."""
    samples: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as exits:
        cluster = exits.enter_context(Cluster(given.cars, ECHO, folder, node="benchmarks.timer_lot"))
        relay = exits.enter_context(Process.python("relay", "benchmarks.http_relay", cluster.target, folder=folder))
        targets = {
            "inside": cluster.http,
            "apart": relay.expect(r"relay ready http=(\S+)", START_S)[1],
        }
        http_callers = exits.enter_context(Callers(folder, "http"))
        grpc_callers = exits.enter_context(Callers(folder, "grpc"))
        many = Load("grpc", cluster.target, given.width, given.seconds)
        for turn in range(given.rounds):
            for name in list(targets)[:: 1 if turn % 2 == 0 else -1]:
                tell(f"round {turn + 1} of {given.rounds}: {name}")
                found = samples.setdefault(name, {})
                for width in (1, given.width):
                    heard = http_callers.call(Load("openai", targets[name], width, given.seconds))
                    found.setdefault(f"{width} at a time: added p50 ms", []).append(percentile(heard.added, 50))
                    found.setdefault(f"{width} at a time /s", []).append(heard.per_s)
                few = Load("openai", targets[name], HTTP_WIDTH, given.seconds)
                http_callers.begin(few)
                heard = grpc_callers.call(many)
                others = f"{many.width} of Run beside {HTTP_WIDTH} of it"
                found.setdefault(f"{others}: added p50 ms", []).append(percentile(heard.added, 50))
                found.setdefault(f"{others} /s", []).append(heard.per_s)
                found.setdefault(f"{HTTP_WIDTH} of it beside them /s", []).append(http_callers.heard(few).per_s)
    figures = []
    inside, outside = samples.values()
    for what in inside:
        title, _, unit = what.rpartition(" ")
        for name, found in samples.items():
            figures.append(Figure(f"OpenAI {name}: {title}", unit, found[what]))
        figures.append(ratio(f"OpenAI apart ÷ inside: {title}", outside[what], inside[what]))
    return figures, []
