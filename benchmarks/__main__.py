"""`python -m benchmarks` lists every benchmark; `python -m benchmarks NAME ...` runs one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One that may be run: `module` has main(arguments) -> exit code."""

    name: str
    module: str
    summary: str


BENCHMARKS = (
    Benchmark(
        "batch", "benchmarks.batch", "sentences a second through a live fleet, beside plain torch and Ray Data"
    ),
    Benchmark("core", "benchmarks.core", "the scheduler alone: an event that places a job; a million nodes change"),
    Benchmark("dispatch", "benchmarks.dispatch", "what a request and an item cost, beside a raw gRPC echo and Ray"),
    Benchmark("fit", "benchmarks.fit", "the days that simulated cars live, against those of recorded users"),
    Benchmark("fleet-size", "benchmarks.fleet_size", "10,000 vehicles: memory, idle share, restart, a silent loss"),
    Benchmark(
        "forecast", "benchmarks.forecast", "how well the forecast of stays is calibrated, on recorded sessions"
    ),
    Benchmark(
        "fronts", "benchmarks.fronts", "what each front adds to a request, beside a raw gRPC echo and Ray Serve"
    ),
    Benchmark("handover", "benchmarks.handover", "a car is lost while it says an answer: how long nobody speaks"),
    Benchmark(
        "interactive", "benchmarks.interactive", "what people wait for while batch jobs fill the fleet, beside idle"
    ),
    Benchmark("living", "benchmarks.living", "a fleet's day in minutes at real work: every owner's terms audited"),
    Benchmark(
        "owner-stop", "benchmarks.owner_stop", "an unplugged car is its owner's: until no torch work is left"
    ),
    Benchmark(
        "policy",
        "benchmarks.policy.command",
        "value on time, by policy, of a clairvoyant bound: weeks of real stays",
    ),
    Benchmark(
        "roofline", "benchmarks.roofline", "what the roofline says of real models here, beside what they take"
    ),
    Benchmark("seams", "benchmarks.seams", "how often an answer that another car goes on with is another one"),
    Benchmark("serve", "benchmarks.serve", "tokens and items a second of one executor, beside plain transformers"),
    Benchmark("store", "benchmarks.store", "what durability costs, beside memory and raw SQLite; restarts; memory"),
    Benchmark(
        "traffic", "benchmarks.traffic", "first token and per token at 0.5 and 0.9 of capacity, in real bursts"
    ),
    Benchmark(
        "weights-fetch",
        "benchmarks.weights_fetch",
        "a fetch of weights that is killed at 60 % and goes on; a neighbour",
    ),
    Benchmark("world", "benchmarks.world.command", "faults of all kinds on virtual time, every promise checked"),
)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 when something was wrong, 2 for bad input, 130 after Ctrl-C."""
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(len(benchmark.name) for benchmark in BENCHMARKS)
        for benchmark in BENCHMARKS:
            print(f"{benchmark.name:{width}}  {benchmark.summary}")
        return 0
    for benchmark in BENCHMARKS:
        if benchmark.name == arguments[0]:
            return _run(benchmark, arguments[1:])
    names = ", ".join(benchmark.name for benchmark in BENCHMARKS)
    print(f"benchmarks: there is no {arguments[0]!r}; choose one of {names}", file=sys.stderr)
    return 2


def _run(benchmark: Benchmark, arguments: Sequence[str]) -> int:
    from benchmarks.figures import BenchmarkFailed

    try:
        code: int = import_module(benchmark.module).main(arguments)
    except BenchmarkFailed as failed:
        print(f"benchmarks {benchmark.name}: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
