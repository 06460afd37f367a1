"""Files: contents that tenants send and fetch by name. Knows no protocol, and not what is in them.

A file is a document of the store; it is forgotten some time after it was made, unless something reads it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from secrets import token_hex
from threading import Lock
from time import time
from typing import BinaryIO, TypeVar

from coordinator.config import StoreSettings
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.store import Corrupt, Full
from coordinator.store.documents import Document, Draft

_Told = TypeVar("_Told")
_Made = TypeVar("_Made")

FILE = "file"
"""The kind of these documents."""


@dataclass(frozen=True, slots=True)
class File:
    """One file. Times are Unix seconds."""

    id: str
    tenant: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str

    @classmethod
    def of(cls, document: Document) -> "File":
        """The file that a document is."""
        assert document.content is not None, "a file has a content"
        body = document.body
        created_at, expires_at = int(document.created), int(document.until)
        size = document.content.bytes
        return cls(document.name, document.tenant, size, created_at, expires_at, body["filename"], body["purpose"])


class _Account:
    """What a tenant who writes has."""

    def __init__(self, most_bytes: int) -> None:
        self.writers = 0
        self.recorded = 0  # bytes of its files, as of the last look
        self.looks = asyncio.Lock()
        """Held during a look, lest an older one be believed after a newer."""
        self._most_bytes = most_bytes
        self._written = 0  # bytes of what is being made
        self._lock = Lock()

    def write(self, size: int) -> None:
        """So many bytes more are being made; from any thread. Refused when they are too many."""
        with self._lock:
            used = self.recorded + self._written
            if used + size > self._most_bytes:
                raise Refused(
                    Refusal.OVER_QUOTA,
                    f"your files take {used:,} bytes, and {size:,} more would be over {self._most_bytes:,}, the"
                    " limit of a tenant; delete some",
                )
            self._written += size

    def made(self, size: int) -> None:
        """So many bytes are not being made any more: they are recorded, or gone."""
        with self._lock:
            self._written -= size


class Files:
    """All files of all tenants; nobody sees another's."""

    def __init__(self, runtime: Runtime, keep: StoreSettings) -> None:
        """`keep` says how long a file is kept that does not say it, and how much a tenant may have."""
        self._runtime = runtime
        self._documents = runtime.shelf.documents
        self._keep = keep
        self._keyed = asyncio.Lock()
        self._accounts: dict[str, _Account] = {}  # of tenants who write just now

    @asynccontextmanager
    async def draft(self, tenant: str) -> AsyncIterator[Draft]:
        """Inside, a content is made, of a tenant; refused without room for it."""
        account = self._accounts.setdefault(tenant, _Account(self._keep.tenant_file_bytes))
        account.writers += 1
        try:
            await self._look(account, tenant)
            draft = await asyncio.to_thread(self._documents.draft, account.write)
            try:
                yield draft
            finally:
                try:
                    await asyncio.to_thread(draft.discard)
                    await self._look(account, tenant)
                finally:
                    account.made(draft.admitted)
        except Full as full:
            raise self._runtime.trouble.no_room(full) from None
        finally:
            account.writers -= 1
            if not account.writers:
                del self._accounts[tenant]

    async def _look(self, account: _Account, tenant: str) -> None:
        async with account.looks:
            account.recorded = await self._runtime.trouble.reading(self._documents.size(tenant))

    async def write(self, draft: Draft, data: bytes) -> None:
        """Add to a content. Refused when there is no room, or when its tenant has too much."""
        try:
            await _to_its_end(draft.write, data)
        except Full as full:
            raise self._runtime.trouble.no_room(full) from None
        except Refused:
            self._runtime.metrics.count_rejection("over_quota")
            raise

    async def kept(
        self, tenant: str, draft: Draft, filename: str, purpose: str, expires_s: float | None = None, key: str = ""
    ) -> Document:
        """A content as a document that only has to be recorded. `expires_s` is from now; None: as long as usual."""
        name = f"file-{token_hex(16)}"
        try:
            content = await _to_its_end(draft.keep, name)
        except asyncio.CancelledError:  # what was kept is nobody's
            await self._runtime.shelf.record([], dropped=[name])
            raise
        except Full as full:
            raise self._runtime.trouble.no_room(full) from None
        now = time()
        until = now + (self._keep.keep_finished_s if expires_s is None else expires_s)
        body = {"filename": filename, "purpose": purpose}
        return Document(name, FILE, tenant, now, body, key, until, content=content)

    async def add(
        self, tenant: str, draft: Draft, filename: str, purpose: str, expires_s: float | None, key: str
    ) -> File:
        """Record a new file; under a key that is known the file of before, refused when that is another."""
        document = await self.kept(tenant, draft, filename, purpose, expires_s, key)
        known: Document | None = document
        try:
            async with self._keyed if key else nullcontext():
                known = (
                    await self._runtime.trouble.reading(self._documents.find(tenant, FILE, key)) if key else None
                )
                if known is None:
                    await self._runtime.shelf.record([document])
                    return File.of(document)
        finally:
            if known is not None:  # it is not recorded
                await self._runtime.shelf.record([], dropped=[document.name])
        if (known.content, known.body) != (document.content, document.body):
            raise Refused(
                Refusal.ALREADY_EXISTS,
                f"the key {key!r} belongs to {known.name} with other content; use another key",
            )
        return File.of(known)

    async def get(self, tenant: str, name: str) -> File:
        """A file of this tenant; refused when there is none."""
        return File.of(await self.document(tenant, name))

    async def page(
        self, tenant: str, limit: int, after: str = "", *, oldest_first: bool = False, purpose: str = ""
    ) -> Sequence[File]:
        """Files of this tenant that follow `after`, the newest first."""
        page = self._documents.page(tenant, FILE, limit, after, oldest_first=oldest_first, purpose=purpose)
        return [File.of(document) for document in await self._runtime.trouble.reading(page)]

    async def delete(self, tenant: str, name: str) -> None:
        """Forget a file; refused while a batch reads it."""
        document = await self.document(tenant, name)
        if readers := self._runtime.shelf.held.get(name):
            raise Refused(
                Refusal.ALREADY_EXISTS, f"{min(readers)} reads {name}; cancel it, or wait until it has ended"
            )
        await self._runtime.shelf.record([], dropped=[document.name])

    async def opened(self, tenant: str, name: str) -> tuple[File, BinaryIO]:
        """A file and its content, which was checked."""
        document = await self.document(tenant, name)
        try:
            return File.of(document), await asyncio.to_thread(self._documents.open, document)
        except FileNotFoundError:
            if await self._documents.get(name) is None:
                raise _no_file(name) from None
            corrupt = Corrupt(f"the content of {name} is missing; restore a backup")
        except Corrupt as error:
            corrupt = error
        self._runtime.trouble.damaged(str(corrupt))
        raise Refused(Refusal.DAMAGED, str(corrupt))

    async def document(self, tenant: str, name: str) -> Document:
        """What the store has of a file of this tenant; refused when there is none."""
        document = await self._runtime.trouble.reading(self._documents.get(name))
        if document is None or (document.tenant, document.kind) != (tenant, FILE):
            raise _no_file(name)
        return document


async def _to_its_end(work: Callable[[_Told], _Made], told: _Told) -> _Made:
    """What a thread makes of this; whoever is cancelled waits for it: a draft is for one thread at a time."""
    working = asyncio.get_running_loop().run_in_executor(None, work, told)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait((working,))
        raise


def _no_file(name: str) -> Refused:
    return Refused(Refusal.NOT_FOUND, f"no file is called {name!r}; it was deleted, or has expired, or never was")
