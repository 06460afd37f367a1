"""The roofline against real models: what it says of this machine, and how long they take on it.

The machine is calibrated on matrix product and memory copy alone, one thread, fp32, again before and after each
workload; no model is fitted. Seconds are the processor's: others on the machine count less. What a model costs it
says itself, in operations; see node/roofline. Whatever is missed is profiled. The same costs on the profiles' data
sheets are lower bounds that nothing here can check.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from statistics import mean, median

import numpy as np
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.calibration import host
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, terminal
from benchmarks.machine import Machine as Surroundings
from benchmarks.sentences import sentences
from node import profile as profiles
from node.models import ModelCache, ModelError
from node.roofline import Cost, Machine, Phase, model
from node.workloads import BadInput, Control, Workload, load
from node.workloads.classify import Classify
from node.workloads.device import use_threads

GOAL = Goal(at_most=30.0)
RUNS = 5  # of a workload in each repetition: others on the machine can only slow it, so the fastest counts
STEPS = 8  # of a decode that is measured


@dataclass(frozen=True, slots=True)
class Case:
    """One workload: `run` gives its seconds and its cost; `phase` is what of the cost is measured."""

    model: str
    name: str
    phase: Phase
    run: Callable[[], tuple[float, Cost]]
    measured_s: list[float] = field(default_factory=list)
    modelled_s: list[float] = field(default_factory=list)
    compute_bound: list[float] = field(default_factory=list)  # part of the modelled time

    def repeat(self, before: Machine) -> Machine:
        """Measure once more, between two calibrations, the second of which is returned."""
        runs = [self.run() for _ in range(RUNS)]
        after = host()
        said = [model(machine, runs[0][1]) for machine in (before, after)]
        self.measured_s.append(min(seconds for seconds, _ in runs))
        self.modelled_s.append(mean(one.seconds[self.phase] for one in said))
        self.compute_bound.append(mean(one.compute_bound_s / one.total_s for one in said))
        return after

    @property
    def error(self) -> Figure:
        """How far off, of the measured time, repetition by repetition."""
        pairs = zip(self.modelled_s, self.measured_s, strict=True)
        return Figure(f"{self.name}: error", "%", [100.0 * abs(said / seen - 1.0) for said, seen in pairs], GOAL)

    def note(self) -> str:
        """What was said and what was seen."""
        said, seen = median(self.modelled_s), median(self.measured_s)
        part = 100.0 * median(self.compute_bound)
        return (
            f"{self.name}: measured {1000 * seen:,.3g} ms, modelled {1000 * said:,.3g} ms, "
            f"{part:.0f} % of it in operations bound by arithmetic"
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("roofline", str(__doc__).partition("\n")[0])
    options.add_argument("--repeats", type=count, default=3, metavar="N", help="of calibration and measurement (3)")
    given = options.parse_args(arguments)
    surroundings, console = Surroundings.here(), terminal()
    use_threads(1)
    workloads, notes = _loaded()
    if not workloads:
        raise BenchmarkFailed("; ".join(notes))
    cases = [case for name, workload in workloads.items() for case in _CASES[name](workload)]
    with console.status("measuring") as status:
        machine = host()
        for turn in range(given.repeats):
            for case in cases:
                status.update(f"{turn + 1} of {given.repeats}: {case.name}")
                machine = case.repeat(machine)
    figures = [figure for case in cases for figure in (case.error, _measured(case))]
    for case in cases:
        notes.append(case.note())
        if not case.error.met:
            notes.append(f"  missed; where its time goes: {_where(case)}")
    notes += _on_profiles(workloads)
    report = Report(
        "roofline",
        "one thread, fp32, seconds of the processor, calibrated around each workload",
        {"repeats": given.repeats, "runs": RUNS, "models": list(workloads)},
        surroundings,
        figures,
        notes,
    )
    report.publish(console, given.json)
    return 0


def _loaded() -> tuple[dict[str, Workload], list[str]]:
    """The models that are cached, and a line for each that is not."""
    cache, workloads, missing = ModelCache.of_user(), {}, []
    for name in _CASES:
        try:
            workloads[name] = load(cache, name, "cpu", "fp32")
        except ModelError as error:
            missing.append(f"skipped {name}: {error}")
    return workloads, missing


def _measured(case: Case) -> Figure:
    return Figure(f"{case.name}: measured", "ms", [1000.0 * seconds for seconds in case.measured_s])


def _embedding(workload: Workload) -> list[Case]:
    texts = [text.encode() for text in sentences(400)]
    return [_batch("minilm", workload, texts[:some], f"minilm, {some} sentences") for some in (4, 16)]


def _classifying(workload: Workload) -> list[Case]:
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    encoded = BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(encoded, "JPEG")
    name, picture = "efficientnet-lite0", encoded.getvalue()
    cases = []
    for some in (1, 8):
        title = f"{name}, {some} picture{'s' if some > 1 else ''}"
        cases += [_batch(name, workload, [picture] * some, title), _pass(name, workload, [picture] * some, title)]
    return cases


def _batch(name: str, workload: Workload, inputs: Sequence[bytes], title: str) -> Case:
    prepared = _prepared(workload, inputs)
    batch = [prepared[index] for index in workload.plan(prepared)[0]]

    def run() -> tuple[float, Cost]:
        began_s = time.process_time()
        outcomes = workload.run(batch, Control())
        return time.process_time() - began_s, workload.cost(batch, outcomes)

    return Case(name, title, Phase.ENCODE, run)


def _pass(name: str, workload: Workload, inputs: Sequence[bytes], title: str) -> Case:
    """Without what no accelerator does: pictures that are decoded already."""
    assert isinstance(workload, Classify), "only pictures are decoded"
    decoded = workload.decode(inputs, Control())
    pictures = [item for item in decoded if not isinstance(item, BadInput)]

    def run() -> tuple[float, Cost]:
        began_s = time.process_time()
        outcomes = workload.classes(pictures, Control())
        return time.process_time() - began_s, workload.cost(inputs, outcomes)

    return Case(name, f"{title}, decoded before", Phase.ENCODE, run)


def _generating(workload: Workload) -> list[Case]:
    cases = []
    for rows, words in ((1, 150), (4, 40), (8, 10)):
        text = " ".join(" ".join(sentences(40)).split()[:words])
        cases += [_generation(workload, text, rows, phase) for phase in (Phase.PREFILL, Phase.DECODE)]
    return cases


def _generation(workload: Workload, text: str, rows: int, phase: Phase) -> Case:
    """A prefill, or what more steps take than one prefill does."""

    def answered(tokens: int) -> tuple[float, Cost]:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
        prompts = _prepared(workload, [json.dumps(body).encode()] * rows)
        began_s = time.process_time()
        outcomes = workload.run(prompts, Control())
        return time.process_time() - began_s, workload.cost(prompts, outcomes)

    def run() -> tuple[float, Cost]:
        seconds, cost = answered(1)
        if phase is Phase.DECODE:
            all_s, cost = answered(1 + STEPS)
            seconds = all_s - seconds
        return seconds, cost

    tokens = answered(1)[1].tokens[Phase.PREFILL] / rows
    title = f"smollm2, {rows} x {tokens:.0f} tokens prefill"
    if phase is Phase.DECODE:
        title = f"smollm2, {STEPS} decode steps of {rows} after {tokens:.0f}"
    return Case("smollm2", title, phase, run)


def _prepared(workload: Workload, inputs: Sequence[bytes]) -> list[object]:
    prepared = workload.prepare(inputs, Control())
    assert not any(isinstance(item, BadInput) for item in prepared), "made here"
    return list(prepared)


def _where(case: Case) -> str:
    """The operators that take the most of one run, and what no operator takes."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        began_s = time.perf_counter()
        case.run()
        wall_us = 1e6 * (time.perf_counter() - began_s)
    rows = sorted(watched.key_averages(), key=lambda row: -row.self_cpu_time_total)
    inside_us = sum(row.self_cpu_time_total for row in rows)
    parts = [f"{row.key} {100 * row.self_cpu_time_total / wall_us:.0f} %" for row in rows[:4]]
    return ", ".join([*parts, f"outside torch {max(0.0, 100 * (1 - inside_us / wall_us)):.0f} %"])


def _on_profiles(workloads: dict[str, Workload]) -> list[str]:
    """Ordinary micro-batches on every profile, by its data sheet."""
    return [f"on {name}, modelled: {_on_profile(name, workloads)}" for name in profiles.names()]


def _on_profile(name: str, workloads: dict[str, Workload]) -> str:
    parts = []
    for title, workload in workloads.items():
        cost = workload.ordinary_cost()
        try:
            said = model(Machine.of(profiles.load(name)), cost)
        except ValueError as error:
            return str(error)
        parts.append(f"{title} {cost.items / said.total_s:,.3g} items/s")
        if said.energy_j is not None:
            parts[-1] += f" at {said.energy_j / cost.items:.2g} J"
    return ", ".join(parts)


_CASES: dict[str, Callable[[Workload], list[Case]]] = {
    "minilm": _embedding,
    "efficientnet-lite0": _classifying,
    "smollm2": _generating,
}
