"""Sentences embedded a second, file to file: a live fleet beside plain torch in the same layout, and Ray Data.

The fleet is what `carpool up` starts, one Ray actor for each lot, and the client is what `carpool run` runs. The
baseline is as many processes with as many threads, each with its share of the file. Models are loaded before
any clock starts; batch sizes of the baselines are the best of several, measured first. Every vector of the
fleet is compared with the baseline's.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.cluster import START_S, Cluster
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, ratio, terminal
from benchmarks.machine import Machine
from benchmarks.process import Process
from benchmarks.sentences import sentences
from coordinator.errors import CarpoolError
from coordinator.run import Order, run
from node.models import ModelCache, ModelError

BATCH_ITEMS = (4, 8, 16, 32, 64)  # of plain torch
RAY_ROWS = (32, 64, 128)  # of one call of map_batches
SAMPLE = 8  # every so manieth sentence is in the sample that batch sizes are chosen on
PATIENCE_S = 1800.0
MOST_DISTANCE = {"fp32": 1e-4, "bf16": 2e-2}  # cosine distance between fleet and baseline; bf16's is assumed


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("batch", str(__doc__).partition("\n")[0])
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--model", default="minilm", metavar="NAME", help="an embedding model of the cache")
    options.add_argument("--sentences", type=count, default=4_000, metavar="N", help="distinct ones (4,000)")
    options.add_argument("--pairs", type=count, default=5, metavar="N", help="interleaved repetitions (5)")
    options.add_argument("--lots", type=count, default=2, metavar="N", help="processes (2)")
    options.add_argument("--threads", type=count, default=1, metavar="N", help="of torch, in each process (1)")
    options.add_argument("--ray-repeats", type=int, default=2, metavar="N", help="0 leaves Ray Data out (2)")
    given = options.parse_args(arguments)
    try:
        directory = ModelCache.of_user().get(given.model).directory
    except ModelError as error:
        options.error(str(error))
    machine = Machine.here(given.device)
    if given.device == "cuda" and not machine.accelerators:
        options.error("there is no CUDA device here; use --device cpu")
    console = terminal()
    with TemporaryDirectory(prefix="carpool-") as name:
        bench = _Bench(
            Path(name),
            directory,
            given.model,
            given.device,
            "fp32" if given.device == "cpu" else "bf16",
            given.lots,
            given.threads,
            given.sentences,
            console,
        )
        figures = bench.measure(given.pairs, given.ray_repeats)
    names = ("device", "model", "sentences", "pairs", "lots", "threads")
    report = Report(
        "batch",
        f"{given.sentences:,} sentences, {given.lots} processes of {given.threads} thread(s) on {given.device}",
        {name: getattr(given, name) for name in names} | bench.chosen,
        machine,
        figures,
        [f"batches: plain torch {bench.chosen}; the fleet's cut themselves"],
    )
    report.publish(console, given.json)
    return 0


class _Bench:
    """The files, and the contestants: each embeds one text file into another."""

    def __init__(
        self,
        folder: Path,
        directory: Path,
        model: str,
        device: str,
        dtype: str,
        lots: int,
        threads: int,
        items: int,
        console: Console,
    ) -> None:
        self._folder, self._directory, self._model = folder, directory, model
        self._device, self._dtype, self._lots, self._threads = device, dtype, lots, threads
        self._console = console
        self._items = items
        self.chosen: dict[str, int] = {}
        texts = sentences(items)
        self._whole, self._sample = folder / "sentences.txt", folder / "sample.txt"
        self._whole.write_text("\n".join(texts) + "\n", encoding="utf-8")
        self._sample.write_text("\n".join(texts[::SAMPLE]) + "\n", encoding="utf-8")

    def measure(self, pairs: int, ray_repeats: int) -> list[Figure]:
        """Run all of them in turn, and compare what they wrote."""
        fleet_s: list[float] = []
        plain_s: list[float] = []
        ray_s: list[float] = []
        ahead_of_ray: list[float] = []
        with ExitStack() as exits, self._console.status("loading models") as status:
            processes = [exits.enter_context(self._plain(part)) for part in range(self._lots)]
            for process in processes:
                process.expect("ready", START_S)
            status.update("choosing a batch size")
            self._choose("batch_items", BATCH_ITEMS, lambda items: self._run_plain(processes, items, self._sample))
            for pair in range(pairs):
                status.update(f"pair {pair + 1} of {pairs}")
                for fleets_turn in (pair % 2 == 0, pair % 2 == 1):
                    if fleets_turn:
                        fleet_s.append(self._run_fleet())
                    else:
                        plain_s.append(self._run_plain(processes, self.chosen["batch_items"], self._whole))
                self._compare()
            if ray_repeats:
                status.update("choosing a batch size for Ray Data")
                with self._ray() as process:
                    process.expect("ready", START_S)
                    self._choose("ray_rows", RAY_ROWS, lambda rows: self._run_ray(process, rows, self._sample))
            for repeat in range(ray_repeats):
                status.update(f"Ray Data {repeat + 1} of {ray_repeats}")
                with self._ray() as process:
                    process.expect("ready", START_S)
                    ray_s.append(self._run_ray(process, self.chosen["ray_rows"], self._whole))
                ahead_of_ray.append(ray_s[-1] / self._run_fleet())
        figures = [ratio("fleet ÷ plain torch", plain_s, fleet_s, Goal(at_least=0.97))]
        if ray_s:
            figures.append(Figure("fleet ÷ Ray Data", "x", ahead_of_ray, Goal(at_least=1)))
        figures.append(Figure("fleet, carpool run", "items/s", [self._items / took_s for took_s in fleet_s]))
        figures.append(Figure("  plain torch", "items/s", [self._items / took_s for took_s in plain_s]))
        if ray_s:
            figures.append(Figure("  Ray Data", "items/s", [self._items / took_s for took_s in ray_s]))
        return figures

    def _choose(self, name: str, sizes: Sequence[int], took_s: Callable[[int], float]) -> None:
        """The size that is fastest on the sample, after one run to warm up."""
        took_s(sizes[0])
        self.chosen[name] = min(sizes, key=took_s)

    def _run_fleet(self) -> float:
        """Bring a fleet up, run `carpool run` through it, and take it down; seconds of the run."""
        actors = ("--ray", "--vehicles-per-actor", 1, "--threads", self._threads)
        flags = (*actors, "--models", self._model, "--device", self._device, "--dtype", self._dtype)
        with Cluster((self._lots,), flags, self._folder) as cluster:
            order = Order(cluster.target, "", self._model, self._whole, self._folder / "fleet.jsonl", "")
            begun_s = time.perf_counter()
            try:
                outcome = asyncio.run(run(order, Console(quiet=True)))
            except CarpoolError as error:
                raise BenchmarkFailed(str(error)) from None
            elapsed_s = time.perf_counter() - begun_s
        if outcome.failed:
            raise BenchmarkFailed(f"{outcome.failed} items failed, the first with {outcome.first_failure}")
        return elapsed_s

    def _plain(self, part: int) -> Process:
        arguments = (self._directory, self._device, self._dtype, self._threads, part, self._lots)
        return Process.python(f"plain-{part}", "benchmarks.plain_torch", *arguments, folder=self._folder)

    def _run_plain(self, processes: Sequence[Process], batch_items: int, source: Path) -> float:
        begun_s = time.perf_counter()
        for part, process in enumerate(processes):
            process.say(f"{batch_items}\t{source}\t{self._folder / f'plain-{part}.jsonl'}")
        for process in processes:
            process.expect(r"done \d+", PATIENCE_S)
        return time.perf_counter() - begun_s

    def _ray(self) -> Process:
        arguments = (self._directory, self._device, self._dtype, self._threads, self._lots)
        return Process.python("ray-data", "benchmarks.ray_data", *arguments, folder=self._folder)

    def _run_ray(self, process: Process, rows: int, source: Path) -> float:
        process.say(f"{rows}\t{self.chosen['batch_items']}\t{source}\t{self._folder / 'ray.jsonl'}")
        return float(process.expect(r"done (\S+)", PATIENCE_S)[1])

    def _compare(self) -> None:
        """Every vector of the fleet against plain torch's; BenchmarkFailed when one is missing or differs."""
        plain: dict[str, NDArray[np.float64]] = {}
        for part in range(self._lots):
            plain |= _vectors(self._folder / f"plain-{part}.jsonl")
        fleet = _vectors(self._folder / "fleet.jsonl")
        wanted = [f"line-{number}" for number in range(1, self._items + 1)]
        if list(fleet) != wanted or plain.keys() != fleet.keys():
            raise BenchmarkFailed(f"{len(fleet)} of {self._items} lines are in the fleet's output, or out of order")
        for custom_id, vector in fleet.items():
            other = plain[custom_id]
            distance = 1 - vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)
            if not distance <= MOST_DISTANCE[self._dtype]:
                raise BenchmarkFailed(f"{custom_id} is {distance:.2g} from plain torch's vector")


def _vectors(path: Path) -> dict[str, NDArray[np.float64]]:
    """The vectors of an output file, by custom_id."""
    found = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            answer = json.loads(line)
            found[answer["custom_id"]] = np.array(answer["response"]["body"]["data"][0]["embedding"])
    return found
