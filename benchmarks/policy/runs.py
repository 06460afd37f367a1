"""Runs: one policy in one cell with one seed, each kept in a file, so that nothing runs twice."""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from benchmarks.policy import baselines, core
from benchmarks.policy.cars import Fleet, Sources
from benchmarks.policy.jobs import Job, arrivals, draw, requests
from benchmarks.policy.mix import CELLS, Cell, Suite
from benchmarks.policy.orders import Policy
from benchmarks.policy.simulator import Outcome, Week
from coordinator.core.settings import SchedulingSettings

BOUND = "bound"
OURS, BLIND, ORACLE = "ours", "no-forecast", "oracle"
STRONG = "edf"

_Maker = Callable[[Fleet, Suite], Policy]


def _less(settings: SchedulingSettings) -> _Maker:
    """The core, set otherwise."""
    return lambda fleet, suite: core.Core(fleet, suite, fleet.forecast(), settings)


POLICIES: dict[str, _Maker] = {
    "random": baselines.Random,
    "fifo": baselines.First,
    "boinc": baselines.Boinc,
    STRONG: baselines.Deadlines,
    OURS: lambda fleet, suite: core.Core(fleet, suite, fleet.forecast()),
    BLIND: lambda fleet, suite: core.Core(fleet, suite, None),
    ORACLE: lambda fleet, suite: core.Core(fleet, suite, core.Oracle(fleet)),
    **{name: _less(settings) for name, (_, settings) in core.ABLATIONS.items()},
}


@dataclass(frozen=True, slots=True)
class Files:
    """What the benchmark was given."""

    sessions: Path | None
    workplace: Path | None
    requests: Path | None


@dataclass(frozen=True, slots=True)
class Run:
    """One to be done."""

    cell: str
    policy: str
    seed: int


def run_all(
    runs: Sequence[Run], files: Files, folder: Path, processes: int
) -> Iterable[tuple[Run, dict[str, Any]]]:
    """Every run with what came of it, as they end."""
    kept = [_kept(run, files, folder) for run in runs]  # before the first: the code may be edited meanwhile
    if processes == 1:
        for run, file in zip(runs, kept, strict=True):
            yield run, run_one(run, files, file)
        return
    with ProcessPoolExecutor(processes) as pool:
        pending = {pool.submit(run_one, run, files, file): run for run, file in zip(runs, kept, strict=True)}
        for done in as_completed(pending):
            yield pending[done], done.result()


def run_one(run: Run, files: Files, kept: Path) -> dict[str, Any]:
    """What came of a run: read, or lived through and kept in this file."""
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found
    cell = CELLS[run.cell]
    fleet, jobs = _scenario(run, files)
    begun_s = process_time()
    if run.policy == BOUND:
        from benchmarks.policy.bound import bound  # it alone needs scipy

        result: dict[str, Any] = {"value": bound(jobs, fleet.cars, cell.suite.cold_s)}
    else:
        policy = POLICIES[run.policy](fleet, cell.suite)
        asked = requests(_arrivals(files.requests), run.seed, len(jobs) + 1)
        result = _told(Week(fleet, [*jobs, *asked], cell.suite.cold_s, policy).run())
    result["processor_s"] = process_time() - begun_s
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".part")
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.replace(kept)
    return result


def _told(outcome: Outcome) -> dict[str, Any]:
    told = asdict(outcome)
    waits_s = sorted(told.pop("waits_s"))
    told["answered"] = len(waits_s)
    told["wait_p50_s"] = median(waits_s) if waits_s else 0.0
    told["wait_p99_s"] = waits_s[int(0.99 * len(waits_s))] if waits_s else 0.0
    return told


@lru_cache(maxsize=4)
def _sources(sessions: Path | None, workplace: Path | None) -> Sources:
    return Sources.read(sessions, workplace)


@lru_cache(maxsize=4)
def _arrivals(path: Path | None) -> tuple[float, ...]:
    return tuple(arrivals(path))


def _scenario(run: Run, files: Files) -> tuple[Fleet, list[Job]]:
    cell: Cell = CELLS[run.cell]
    fleet = _sources(files.sessions, files.workplace).fleet(cell.suite, run.seed)
    return fleet, draw(cell, fleet, run.seed)


def _kept(run: Run, files: Files, folder: Path) -> Path:
    return folder / f"{run.cell.replace(':', '-')}-{run.policy}-{run.seed}-{_digest(run.policy, files)}.json"


@lru_cache(maxsize=64)
def _digest(policy: str, files: Files) -> str:
    """Of all that a result follows from: the files, the world, and the policy's own code."""
    here = Path(__file__).parent
    world = ("mix", "cars", "jobs")
    code = [here / f"{name}.py" for name in world]
    if policy == BOUND:
        code.append(here / "bound.py")
    else:
        code += [here / "simulator.py", here / "orders.py"]
        if policy in (OURS, BLIND, ORACLE) or policy in core.ABLATIONS:
            code += [here / "core.py", *sorted((here.parent.parent / "coordinator" / "core").glob("*.py"))]
        else:
            code.append(here / "baselines.py")
    digest = sha256()
    for path in (*code, *(file for file in (files.sessions, files.workplace, files.requests) if file)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
