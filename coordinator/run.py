"""`carpool run`: one input file through the fleet into one output file.

Owns the order of things (read, submit, stream, put OUT in place) and the progress bar. OUT appears whole, at the
end, or not at all; what the fleet has done by then is kept by the coordinator under the idempotency key.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from coordinator.answers import AnswerLines
from coordinator.client import Client, Job, Model, Quote
from coordinator.errors import CarpoolError, Failure
from coordinator.formats import read
from coordinator.units import duration, percent


@dataclass(frozen=True, slots=True)
class Order:
    """What the user asked for. `key` is the idempotency key, empty when none was given."""

    target: str  # HOST:PORT
    api_key: str
    model: str
    input: Path
    output: Path
    key: str
    deadline_s: float = 0.0  # from now; 0: none
    value: float = 0.0  # of the whole; 0: its number of items
    on_time: float = 0.0  # the least chance to be done by the deadline that will do


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `failed`: items without a result, each an error in OUT."""

    items: int
    failed: int
    first_failure: Failure | None
    elapsed_s: float


async def run(order: Order, console: Console) -> Outcome:
    """Do it, with a progress bar on `console` when that is a terminal.

    Interrupted (the task cancelled), a job under the user's own key goes on, any other is cancelled.
    """
    async with Client(order.target, order.api_key) as client:
        model = _choose(order.model, await client.models())
        batch = await asyncio.to_thread(read, order.input, model.name, model.kind, model.max_item_bytes)
        with _put_in_place(order.input, order.output) as out:
            begun_s = time.monotonic()
            key = order.key or f"run-{uuid.uuid4().hex}"
            submission = asyncio.ensure_future(
                client.submit(
                    model.name,
                    batch.items,
                    idempotency_key=key,
                    deadline_s=order.deadline_s,
                    value=order.value,
                    least_on_time=order.on_time,
                )
            )
            try:
                job, existed = await asyncio.shield(submission)
            except asyncio.CancelledError:
                if not order.key:
                    console.print("cancelling; Ctrl-C again leaves the job to the coordinator")
                    await _call_off(client, submission)
                raise
            if not model.nodes:
                console.print(f"no car that runs {model.name} is plugged in now; the job waits for one")
            elif job.quote is not None and order.deadline_s and not existed:
                console.print(expected(job.quote, order.deadline_s), highlight=False, soft_wrap=True)
            if existed:
                done = job.items_done + job.items_failed
                console.print(f"job {job.job_id} is known by this key: {done:,} of {job.items:,} items are done")
            lines = AnswerLines(batch, job.job_id, job.model, job.kind, int(time.time() - job.age_s))
            try:
                failed, first = await _fetch(client, job, lines, out, console)
            except CarpoolError as error:
                raise CarpoolError(
                    f"{error}; to go on, run the same command with --idempotency-key {key}", error.exit_code
                ) from None
            except asyncio.CancelledError:
                if not order.key:
                    with suppress(CarpoolError):
                        await client.cancel(job.job_id)
                raise
            if not lines.complete:
                raise CarpoolError(f"job {job.job_id} was cancelled; {order.output} is not written", exit_code=1)
            return Outcome(job.items, failed, first, time.monotonic() - begun_s)


async def _call_off(client: Client, submission: Awaitable[tuple[Job, bool]]) -> None:
    """End a submission on its way: only its answer tells whether there is a job to cancel."""
    with suppress(CarpoolError):
        job, _ = await submission
        await client.cancel(job.job_id)


def _choose(name: str, offered: list[Model]) -> Model:
    for model in offered:
        if model.name == name:
            return model
    if not offered:
        raise CarpoolError(f"no car offers {name}, or any model, now; `carpool nodes` shows who is here")
    names = ", ".join(sorted(model.name for model in offered))
    raise CarpoolError(f"no car offers a model named {name}; those offered are {names}")


@contextmanager
def _put_in_place(source: Path, output: Path) -> Iterator[BinaryIO]:
    """A new file beside OUT that takes its place when the block ends well, and vanishes when it does not."""
    target = Path(os.path.realpath(output))  # a link stays one
    if target == Path(os.path.realpath(source)):
        raise CarpoolError(f"{output} is INPUT too; give another file with -o")
    if target.exists() and not target.is_file():
        if target.is_dir():
            raise CarpoolError(f"{output} is a folder; give a file with -o")
        with _opened(output, target) as pipe:  # a device or a pipe has no place to be put in
            yield pipe
        return
    fresh = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _opened(output, fresh) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        raise CarpoolError(f"cannot write {output}: {error.strerror}", exit_code=1) from None
    finally:
        fresh.unlink(missing_ok=True)


def _opened(output: Path, path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise CarpoolError(f"cannot write {output}: {error.strerror}") from None


async def _fetch(
    client: Client, job: Job, lines: AnswerLines, out: BinaryIO, console: Console
) -> tuple[int, Failure | None]:
    """Writes the lines of OUT; returns how many items failed, and how the first did."""
    failed, first = 0, None
    with _progress(console) as progress:
        bar = progress.add_task(escape(job.model), total=job.items, cars="", rate="")
        begun_s, begun_items = time.monotonic(), job.items_done + job.items_failed
        async with aclosing(client.results(job.job_id)) as stream:
            async for results in stream:
                answers = lines.take(results.payloads, results.failures, results.first_item)
                out.write("".join(line.text for line in answers).encode())
                failed += len(results.failures)
                if first is None and results.failures:
                    first = results.failures[min(results.failures)]
                _show(progress, bar, results.job, begun_s, begun_items)
    return failed, first


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[cars]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _show(progress: Progress, bar: TaskID, job: Job, begun_s: float, begun_items: int) -> None:
    items = job.items_done + job.items_failed
    elapsed_s = time.monotonic() - begun_s
    rate = (items - begun_items) / elapsed_s if elapsed_s > 0.5 else 0.0
    cars = f"{job.nodes_at_work} car{'' if job.nodes_at_work == 1 else 's'} at work"
    progress.update(bar, completed=items, rate=rated(rate) if rate else "", cars=cars)


def expected(quote: Quote, deadline_s: float) -> str:
    """One line for people about what a job with a deadline may expect."""
    finish = f"expected done in {duration(max(0.0, quote.finish_s))}"
    when = finish if quote.finish_s else "nobody can say when it is done"
    return f"{when}; {percent(quote.on_time)} sure to make the deadline in {duration(deadline_s)}"


def rated(items_per_s: float) -> str:
    """A rate for people."""
    return f"{items_per_s:,.{0 if items_per_s >= 100 else 1}f} items/s"


def summary(outcome: Outcome, output: Path) -> str:
    """One line for people about what came of it."""
    rate = rated(outcome.items / outcome.elapsed_s)
    text = f"{outcome.items:,} items in {outcome.elapsed_s:.1f} s ({rate}) are in {output}"
    if outcome.first_failure is None:
        return text
    failure = outcome.first_failure
    return f"{text}; {outcome.failed:,} failed, the first with {failure.code}: {failure.message}"
