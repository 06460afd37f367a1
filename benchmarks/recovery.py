"""Restarts of a coordinator that has live jobs: from before its exec until it says that it serves; their plot."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.accounts import scraped
from benchmarks.cluster import READY, START_S
from benchmarks.drawing import plotting
from benchmarks.figures import BenchmarkFailed
from benchmarks.process import Process

_MAKE_S = 1e-3  # assumed: what a live job may take to be made


@dataclass(slots=True)
class Recovery:
    """Restarts with so many live jobs, a sample each."""

    jobs: int
    ready_s: list[float] = field(default_factory=list)  # from exec
    restored_s: list[float] = field(default_factory=list)  # of it, reading the jobs, as the coordinator measured it


def recovery(jobs: int, restarts: int, folder: Path) -> Recovery:
    """Make a state with live jobs, and start coordinators on it, one after the other."""
    measured = Recovery(jobs)
    state = folder / f"state-{jobs}"
    make_live_jobs(state, jobs, folder)
    for _ in range(restarts):
        flags = ("--state", state, "--stop-at-eof")
        with Process.python(f"restart-{jobs}", "coordinator", *flags, folder=folder) as coordinator:
            ready = coordinator.expect(READY, START_S)
            measured.ready_s.append(time.monotonic() - coordinator.begun_s)
            samples = scraped(ready[3])
        (restored_s,) = [one.value for one in samples if one.name == "carpool_recovery_duration_seconds"]
        measured.restored_s.append(restored_s)
        live = sum(one.value for one in samples if one.name == "carpool_jobs_pending")
        if live != jobs:
            raise BenchmarkFailed(f"a coordinator with {jobs} live jobs came back with {live:g}")
    return measured


def make_live_jobs(state: Path, jobs: int, folder: Path) -> None:
    """A state with so many of them; the log of what makes them is in `folder`."""
    with Process.python(f"maker-{jobs}", "benchmarks.live_jobs", state, jobs, folder=folder) as maker:
        maker.expect("made", START_S + jobs * _MAKE_S)


def plot(measured: Sequence[Recovery], file: Path) -> None:
    """Draw the median of each, with all samples around it."""
    plt = plotting()
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    jobs = [one.jobs for one in measured]
    for label, marker, samples in (
        ("exec to ready", "o", [one.ready_s for one in measured]),
        ("of it: reading the jobs", "s", [one.restored_s for one in measured]),
    ):
        middle = [sorted(of_one)[len(of_one) // 2] for of_one in samples]
        below = [value - min(of_one) for value, of_one in zip(middle, samples, strict=True)]
        above = [max(of_one) - value for value, of_one in zip(middle, samples, strict=True)]
        axes.errorbar(jobs, middle, yerr=(below, above), marker=marker, capsize=3, label=label)
    axes.plot((100_000,), (2.0,), marker="v", linestyle="none", color="black", label="goal: under 2 s at 100,000")
    axes.set(xscale="log", yscale="log", xlabel="live jobs", ylabel="seconds", title="Restart of the coordinator")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file)
    plt.close(figure)
