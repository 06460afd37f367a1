"""Batches: a file of requests that becomes a job, and the job's results that become files. Knows no protocol.

One task for each batch that has not ended; it begins again after a restart where the recorded status says. What it
does is safe to do twice: a job is submitted under a key made of the batch's name, and files that were written are
deleted at the next start unless the commit that ends the batch names them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from secrets import token_hex
from time import monotonic, time
from typing import BinaryIO

from coordinator import formats
from coordinator.batch import BATCH, Batch, Order, Status
from coordinator.batch_input import BatchInput, NotSound, Reader, Sound, Wrong
from coordinator.batch_output import BatchOutput
from coordinator.config import LimitSettings
from coordinator.core.effects import Outcome
from coordinator.core.events import JobId
from coordinator.errors import Failure
from coordinator.files import Files
from coordinator.items import Items
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.store import Corrupt
from coordinator.store.documents import Document

_LOG = logging.getLogger(__name__)

KEYS = "carpool/batch/"
"""How the idempotency keys of batches' jobs begin; tenants' own may not."""

INPUT = "batch"
"""The purpose of files that batches read."""

_API = "openai"
_MOST_OPEN = 1000
"""Batches that have not ended: each is looked at once a second, and a GET tells how far it is (assumed)."""
_AT_ONCE = 2
"""Batches whose files are read at once, and as many whose files are written: more would take the turns of what
people wait for (assumed)."""
_LOTS_COME_S = 60.0
"""After a start a batch waits so long for a lot to offer its model (assumed)."""
_NO_ROOM = (Refusal.OVERLOADED, Refusal.OVER_QUOTA)
_NO_ROOM_S = 5.0
"""Between two tries of what there was no room for (assumed)."""
_PART_BYTES, _PART_ITEMS = 1 << 20, 4096  # handled together

_UNDONE = {
    Status.EXPIRED: Failure("batch_expired", "the completion window was over before this request was done"),
    Status.CANCELLED: Failure("batch_cancelled", "the batch was cancelled before this request was done"),
    Status.COMPLETED: Failure("internal", "the coordinator has no result of this request"),
}


@dataclass(slots=True)
class _Open:
    """A batch that has not ended, as it is recorded."""

    batch: Batch
    resumed: bool
    over_s: float  # when its window is over; monotonic, since the wall clock may be set
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def over(self) -> bool:
        """Whether its window is."""
        return self.over_s <= monotonic()


class Batches:
    """All batches of all tenants; nobody sees another's."""

    def __init__(
        self, runtime: Runtime, files: Files, readers: Mapping[str, Reader], limits: LimitSettings, keep_s: float
    ) -> None:
        """`readers` by endpoint; a batch is kept `keep_s` after its end."""
        self._runtime = runtime
        self._documents = runtime.shelf.documents
        self._files = files
        self._output = BatchOutput(runtime, files)
        self._readers = readers
        self._limits = limits
        self._keep_s = keep_s
        self._open: dict[str, _Open] = {}
        self._tasks: asyncio.TaskGroup
        self._closed = False
        self._running: set[asyncio.Task[None]] = set()
        self._keyed = asyncio.Lock()
        self._again = asyncio.Lock()
        """Held by one of those for which there was no room: two at once may each take what the other lacks."""
        self._taking_in, self._writing = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_AT_ONCE)

    async def unended(self) -> list[Batch]:
        """Those that had not ended when the coordinator did. Raises Corrupt."""
        return [Batch.of(document) for document in await self._documents.live(BATCH)]

    def resume(self, unended: Sequence[Batch], tasks: asyncio.TaskGroup) -> None:
        """Go on with these. `tasks` owns what runs until `close`."""
        self._tasks = tasks
        for batch in unended:
            self._begin(batch, resumed=True)

    def close(self) -> None:
        """The coordinator shuts down: what has not ended goes on at its next start."""
        self._closed = True
        for task in self._running:
            task.cancel()

    async def create(self, tenant: str, order: Order, key: str = "") -> Batch:
        """Record a new batch; under a key that is known the batch of before, refused when that is another."""
        if order.endpoint not in self._readers:
            raise Refused(
                Refusal.BAD_INPUT, f"no batch is made for {order.endpoint!r}; there are {', '.join(self._readers)}"
            )
        async with self._keyed if key else nullcontext():
            known = await self._runtime.trouble.reading(self._documents.find(tenant, BATCH, key)) if key else None
            if known is not None:
                batch = Batch.of(known)
                if batch.order != order:
                    told = f"the key {key!r} belongs to {batch.id} with other content; use another key"
                    raise Refused(Refusal.ALREADY_EXISTS, told)
                return await self._counted(batch)
            if len(self._open) >= _MOST_OPEN:
                told = f"{len(self._open)} batches have not ended, the limit; try again later"
                raise Refused(Refusal.OVERLOADED, told, retry_after_s=60.0)
            file = await self._files.get(tenant, order.input_file_id)
            if file.purpose != INPUT:
                told = (
                    f"{file.id} is of purpose {file.purpose!r}, and a batch reads one of {INPUT!r}; send it again"
                )
                raise Refused(Refusal.BAD_INPUT, told)
            batch = Batch(f"batch_{token_hex(16)}", tenant, time(), order, key)
            try:
                await self._runtime.shelf.record([batch.document(inf)])
            except asyncio.CancelledError:  # its caller has gone, and it is recorded all the same
                self._begin(batch, resumed=False)
                raise
            self._begin(batch, resumed=False)
        return batch

    async def get(self, tenant: str, name: str) -> Batch:
        """A batch of this tenant; refused when there is none."""
        document = await self._runtime.trouble.reading(self._documents.get(name))
        if document is None or (document.tenant, document.kind) != (tenant, BATCH):
            raise Refused(Refusal.NOT_FOUND, f"no batch is called {name!r}; it is kept no longer, or never was")
        return await self._counted(Batch.of(document))

    async def page(
        self, tenant: str, limit: int, after: str = "", *, oldest_first: bool = False
    ) -> Sequence[Batch]:
        """Batches of this tenant that follow `after`, the newest first."""
        page = await self._runtime.trouble.reading(
            self._documents.page(tenant, BATCH, limit, after, oldest_first=oldest_first)
        )
        return [await self._counted(Batch.of(document)) for document in page]

    async def cancel(self, tenant: str, name: str) -> Batch:
        """Ask for its end; what is done by then is in its output file. Refused when it ended otherwise."""
        opened = self._open.get(name)  # looked up first, since it may end meanwhile
        batch = await self.get(tenant, name)
        if opened is not None and batch.status is not Status.CANCELLING:
            batch = await self._change(opened, Status.CANCELLING)
            if batch.job and not batch.status.ended:
                await self._runtime.jobs.cancel(tenant, JobId(batch.job))
                batch = await self.get(tenant, name)
        if batch.status in (Status.CANCELLING, Status.CANCELLED):
            return batch
        raise Refused(
            Refusal.ALREADY_EXISTS, f"{name} is {batch.status}; only a batch that has not ended is cancelled"
        )

    # One batch

    def _begin(self, batch: Batch, *, resumed: bool) -> None:
        if self._closed:
            return
        opened = self._open[batch.id] = _Open(batch, resumed, monotonic() + batch.expires - time())
        self._runtime.shelf.held.setdefault(batch.order.input_file_id, set()).add(batch.id)
        task = self._tasks.create_task(self._run(opened))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, opened: _Open) -> None:
        """To its end, whatever happens."""
        name = opened.batch.id
        try:
            await self._live(opened)
        except NotSound as error:
            await self._change(opened, Status.FAILED, wrong=error.wrong)
        except Refused as refused:
            await self._change(opened, Status.FAILED, wrong=(Wrong("failed", str(refused)),))
        except Corrupt as corrupt:
            self._runtime.trouble.damaged(str(corrupt))
            await self._change(opened, Status.FAILED, wrong=(Wrong("damaged", str(corrupt)),))
        except Exception:
            if self._runtime.trouble.failed.done():  # nothing more is recorded: it goes on at the next start
                return
            _LOG.exception("%s failed", name)
            told = "the batch failed inside the coordinator; its log says more"
            await self._change(opened, Status.FAILED, wrong=(Wrong("internal", told),))
        finally:
            del self._open[name]
            file = opened.batch.order.input_file_id
            self._runtime.shelf.held[file].discard(name)
            if not self._runtime.shelf.held[file]:
                del self._runtime.shelf.held[file]

    async def _live(self, opened: _Open) -> None:
        """From where it is recorded to be, to its end."""
        order = opened.batch.order
        file = await self._files.document(opened.batch.tenant, order.input_file_id)
        created_s = int(opened.batch.created)
        content, reader = partial(self._content, file), self._reader(opened.batch)
        reads = BatchInput(content, order.endpoint, reader, created_s, lambda: self._closed)
        if not opened.batch.total:
            if opened.resumed and (model := await asyncio.to_thread(reads.model)):
                await self._runtime.catalogue.appears(model, _LOTS_COME_S)
            async with self._taking_in:
                if opened.batch.status is not Status.CANCELLING:
                    sound = await self._sound(opened, reads)
                    counts = {"model": sound.model, "total": sound.requests, "items": sound.items}
                    await self._change(opened, Status.VALIDATING, **counts)
        batch = opened.batch
        requests = reads.batch(Sound(batch.model, batch.total, batch.items))
        if not batch.job and batch.total:
            await self._with_room(opened, partial(self._submit, opened, requests))
        with self._runtime.jobs.keeping(JobId(opened.batch.job)):
            outcome = await self._outcome(opened)
            if opened.batch.total:
                await self._change(opened, Status.FINALIZING)
                await self._with_room(opened, partial(self._finish, opened, reads, outcome))
            else:
                await self._change(opened, outcome)

    def _content(self, file: Document) -> BinaryIO:
        try:
            return self._documents.open(file)
        except FileNotFoundError:  # it is held, so nobody forgot it
            raise Corrupt(f"the content of {file.name} is missing; restore a backup") from None

    async def _sound(self, opened: _Open, reads: BatchInput) -> Sound:
        """What is in its file, which was gone through. Raises NotSound."""
        kind = self._reader(opened.batch).kind
        return await asyncio.to_thread(reads.check, partial(self._admit, kind), self._limits.job_items)

    def _admit(self, kind: str, model: str, payloads: Sequence[bytes]) -> None:
        catalogue = self._runtime.catalogue
        offered = catalogue.offered(model)
        if offered.kind != kind:
            told = f"model {model!r} is of kind {offered.kind!r}, and this endpoint is for {kind!r}"
            raise Refused(Refusal.BAD_INPUT, told)
        catalogue.check_sizes(offered, [*map(len, payloads)], 0)

    async def _submit(self, opened: _Open, requests: formats.Batch) -> None:
        """Make it a job, unless it is one, or is to be none."""
        batch, key = opened.batch, f"{KEYS}{opened.batch.id}"
        job = await self._runtime.submissions.known(batch.tenant, key)
        if job is None:
            if opened.resumed:
                await self._runtime.catalogue.appears(batch.model, _LOTS_COME_S)
            async with self._taking_in:
                if opened.batch.status is Status.CANCELLING or opened.over:
                    return
                intake = self._runtime.submissions.intake(batch.model)
                parts = _parts(requests)
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    await self._runtime.submissions.take_in(intake, part)
            left_s = max(1.0, opened.over_s - monotonic())
            job, _ = await self._runtime.submissions.submit(
                batch.tenant, _API, intake, key=key, deadline_s=left_s, value=0.0
            )
        quote = self._runtime.jobs.quotes.get(job)
        if quote is None:
            expected = on_time = None
        else:
            expected = None if quote.finish_s == inf else time() + quote.finish_s - monotonic()
            on_time = quote.on_time
        await self._change(opened, Status.IN_PROGRESS, job=job, expected=expected, on_time=on_time, wrong=())

    async def _outcome(self, opened: _Open) -> Status:
        """Wait until its job has ended, and end it when its window is over or its tenant asks: how it ends."""
        if opened.batch.job and await self._job_ends(opened) is Outcome.DONE:
            return Status.COMPLETED
        expired = opened.batch.status is not Status.CANCELLING and opened.over
        return Status.EXPIRED if expired else Status.CANCELLED

    async def _job_ends(self, opened: _Open) -> Outcome:
        tenant, job = opened.batch.tenant, JobId(opened.batch.job)
        try:
            async with aclosing(self._runtime.jobs.watch(tenant, job)) as views:
                async for view in views:
                    if view.ended is not None:
                        return view.ended
                    if opened.batch.status is Status.CANCELLING or opened.over:
                        await self._runtime.jobs.cancel(tenant, job)
        except Refused as refused:
            if refused.refusal is not Refusal.DAMAGED:
                raise
        return Outcome.DONE  # of a row that is damaged: the core knows no such job, and its results are there

    # What comes of it

    async def _finish(self, opened: _Open, reads: BatchInput, outcome: Status) -> None:
        """Write its files and record that it has ended, in one commit with them; one that is cancelled ends without
        them rather than wait for room."""
        async with self._again if opened.batch.wrong else nullcontext(), self._writing:
            batch = opened.batch
            if outcome is Status.COMPLETED and batch.status is Status.CANCELLING:
                outcome = Status.CANCELLED  # all was done by then
            try:
                async with self._output.made(batch, reads, _UNDONE[outcome]) as output:
                    await self._change(
                        opened,
                        outcome,
                        *output.documents,
                        completed=output.completed,
                        failed=output.failed,
                        output_file_id=output.output_file_id,
                        error_file_id=output.error_file_id,
                        wrong=(),
                    )
            except Refused as refused:
                if refused.refusal not in _NO_ROOM or opened.batch.status is not Status.CANCELLING:
                    raise
                await self._change(opened, Status.CANCELLED, wrong=(Wrong("no_room", str(refused)),))

    # What is recorded

    async def _change(self, opened: _Open, status: Status, *documents: Document, **fields: object) -> Batch:
        """Record this of it; a batch that is cancelled stays so until it has ended, and one that has ended does."""
        async with opened.changing:
            batch = opened.batch
            if batch.status.ended:
                return batch
            if batch.status is Status.CANCELLING:
                status = Status.CANCELLED if status is Status.COMPLETED else status
                status = status if status.ended else Status.CANCELLING
            at = {**batch.at} if status is batch.status else {**batch.at, status.value: int(time())}
            changed = replace(batch, status=status, at=at, **fields)  # type: ignore[arg-type]
            try:
                await self._runtime.shelf.record([*documents, changed.document(time() + self._keep_s)])
            except asyncio.CancelledError:  # it is recorded all the same
                opened.batch = changed
                raise
            opened.batch = changed
            return changed

    async def _with_room(self, opened: _Open, work: Callable[[], Awaitable[None]]) -> None:
        """Do this; again and again while there is no room for it, which its tenant is told."""
        while True:
            try:
                await work()
                return
            except Refused as refused:
                if refused.refusal not in _NO_ROOM:
                    raise
                told = str(refused)
            if not opened.batch.wrong:
                await self._change(opened, opened.batch.status, wrong=(Wrong("no_room", told),))
            await asyncio.sleep(_NO_ROOM_S)

    async def _counted(self, batch: Batch) -> Batch:
        """It with how many of its requests are done by now; those of several items count by their part of all."""
        if not batch.job or batch.status.ended:
            return batch
        with suppress(Refused):  # the job is kept no longer
            view = await self._runtime.jobs.get(batch.tenant, JobId(batch.job))
            completed, failed = (batch.total * items // batch.items for items in (view.done, view.failed))
            return replace(batch, completed=completed, failed=failed)
        return batch

    def _reader(self, batch: Batch) -> Reader:
        return self._readers[batch.order.endpoint]


def _parts(requests: formats.Batch) -> Iterator[Items]:
    """Their items, some at a time."""
    items = iter(requests.items)
    held: list[bytes] = []
    size = 0
    for item in items:
        held.append(item)
        size += len(item)
        if size >= _PART_BYTES or len(held) == _PART_ITEMS:
            yield Items.of(held)
            held, size = [], 0
    if held:
        yield Items.of(held)
