"""What comes of a batch: two files, with a line for each request that has an answer, or an error. Knows no task."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from coordinator.answers import Lines
from coordinator.batch import Batch
from coordinator.batch_input import BatchInput
from coordinator.core.events import JobId
from coordinator.errors import Failure
from coordinator.files import Files
from coordinator.refusal import Refused
from coordinator.runtime import Runtime
from coordinator.store.documents import Document, Draft

OUTPUT = "batch_output"
"""The purpose of these files."""

_PART_BYTES, _PART_ITEMS = 1 << 20, 4096  # handled together


@dataclass(frozen=True, slots=True)
class Output:
    """Files that were written, to be recorded with the batch's end."""

    documents: Sequence[Document]
    completed: int  # requests that have an answer
    failed: int  # and others
    output_file_id: str | None
    error_file_id: str | None


class BatchOutput:
    """Writes them."""

    def __init__(self, runtime: Runtime, files: Files) -> None:
        self._runtime = runtime
        self._files = files

    @asynccontextmanager
    async def made(self, batch: Batch, reads: BatchInput, undone: Failure) -> AsyncIterator[Output]:
        """Both files, to be recorded inside, but for one that would be empty; `undone` is told of requests without
        a result.

        What the files refuse is raised, and then nothing is kept.
        """
        async with self._files.draft(batch.tenant) as answers, self._files.draft(batch.tenant) as errors:
            made: dict[str, Document] = {}
            drafts = (answers, errors)
            try:
                completed, failed = await self._write(batch, reads, undone, drafts)
                for draft, name in zip(drafts, ("output", "error"), strict=True):
                    if draft.bytes:
                        filename = f"{batch.id}_{name}.jsonl"
                        expires_s = batch.order.output_expires_s
                        made[name] = await self._files.kept(batch.tenant, draft, filename, OUTPUT, expires_s)
            except Refused:
                await self._runtime.shelf.record([], dropped=[document.name for document in made.values()])
                raise
            output, error = (made[name].name if name in made else None for name in ("output", "error"))
            yield Output(tuple(made.values()), completed, failed, output, error)

    async def _write(
        self, batch: Batch, reads: BatchInput, undone: Failure, drafts: Sequence[Draft]
    ) -> tuple[int, int]:
        """A line for each request, in one of two files: how many have an answer, how many an error."""
        lines = await asyncio.to_thread(Lines, batch.id.replace("batch_", "batch_req_"), reads.answerable())
        counts = [0, 0]

        def take(payloads: Sequence[bytes], failures: Mapping[int, Failure], first: int) -> None:
            for line in lines.take(payloads, failures, first):
                counts[not line.answered] += 1
                drafts[not line.answered].write(line.text.encode())

        item, job = 0, JobId(batch.job)
        while item < batch.items:
            part = await self._runtime.jobs.recorded(job, item, _PART_BYTES)
            await asyncio.to_thread(take, part.payloads, part.failures, item)
            item += len(part.payloads)
            if part.payloads:
                continue
            gap = await self._runtime.jobs.next_settled(job, item + 1) or batch.items
            while item < gap:
                end = min(gap, item + _PART_ITEMS)
                failures = dict.fromkeys(range(item, end), undone)
                await asyncio.to_thread(take, [b""] * (end - item), failures, item)
                item = end
        return counts[0], counts[1]
