"""Documents that go with their process, in dictionaries; of their contents there is a bound."""

import asyncio
import io
from collections.abc import Collection, Sequence
from itertools import count
from math import inf
from threading import Lock
from typing import BinaryIO

from coordinator.store import Full
from coordinator.store.documents import LEAST_BYTES, Admit, Document, Draft, anything


class _Memory:
    """Contents in memory, kept or in the making; from any thread."""

    def __init__(self, most_bytes: float) -> None:
        self.kept: dict[str, bytes] = {}
        self._most_bytes, self._bytes, self._lock = most_bytes, 0, Lock()

    def take(self, size: int) -> None:
        """There are so many bytes more. Raises Full."""
        with self._lock:
            if self._bytes + size > self._most_bytes:
                raise Full(
                    f"all files together take {self._bytes:,} bytes, and a coordinator without a disk takes"
                    f" {self._most_bytes:,}; delete some, or send it again later"
                )
            self._bytes += size

    def drop(self, name: str) -> None:
        """Forget one, if there is one of this name."""
        self.give(len(self.kept.pop(name, b"")))

    def give(self, size: int) -> None:
        """There are so many bytes fewer."""
        with self._lock:
            self._bytes -= size


class _MemoryDraft(Draft):
    def __init__(self, memory: _Memory, admit: Admit) -> None:
        super().__init__(admit)
        self._memory, self._buffer = memory, io.BytesIO()
        self._taken = 0

    def _write(self, data: bytes) -> None:
        self._memory.take(len(data))
        self._taken += len(data)
        self._buffer.write(data)

    def _keep(self, name: str) -> None:
        self._memory.kept[name], self._taken = self._buffer.getvalue(), 0

    def discard(self) -> None:
        self._buffer.close()
        self._memory.give(self._taken)
        self._taken = 0


class MemoryDocuments:
    """All of them in dictionaries."""

    def __init__(self, most_bytes: float = inf) -> None:
        """`most_bytes` of all contents."""
        self._documents: dict[str, tuple[int, Document]] = {}  # with numbers in the order of their coming
        self._contents = _Memory(most_bytes)
        self._numbers = count(1)

    def draft(self, admit: Admit = anything) -> Draft:
        """Begin a content."""
        return _MemoryDraft(self._contents, admit)

    async def size(self, tenant: str) -> int:
        """Bytes of all contents of a tenant, each LEAST_BYTES at least."""
        mine = (it.content for it in self._all() if it.tenant == tenant)
        return sum(max(content.bytes, LEAST_BYTES) for content in mine if content is not None)

    async def put(self, documents: Sequence[Document], dropped: Collection[str] = ()) -> None:
        """Record these and forget those that are named."""
        for document in documents:
            number, _ = self._documents.get(document.name) or (next(self._numbers), None)
            self._documents[document.name] = (number, document)
        for name in dropped:
            self._documents.pop(name, None)
            self._contents.drop(name)
        await asyncio.sleep(0)

    async def get(self, name: str) -> Document | None:
        """A document."""
        _, document = self._documents.get(name, (0, None))
        return document

    async def find(self, tenant: str, kind: str, key: str) -> Document | None:
        """The document of a tenant under this key."""
        wanted = (tenant, kind, key)
        return next((it for it in self._all() if key and (it.tenant, it.kind, it.key) == wanted), None)

    async def page(
        self, tenant: str, kind: str, limit: int, after: str = "", *, oldest_first: bool = False, purpose: str = ""
    ) -> list[Document]:
        """Documents of a tenant that follow the one named `after`, the newest first."""
        if after and after not in self._documents:
            return []
        behind, _ = self._documents.get(after, (0 if oldest_first else inf, None))
        found = [
            document
            for number, document in sorted(self._documents.values(), key=lambda entry: entry[0])
            if (document.tenant, document.kind) == (tenant, kind)
            and (number > behind if oldest_first else number < behind)
            and (not purpose or document.body.get("purpose") == purpose)
        ]
        return (found if oldest_first else found[::-1])[:limit]

    async def live(self, kind: str) -> list[Document]:
        """Those about which there is more to do."""
        return [document for document in self._all() if document.live and document.kind == kind]

    async def over(self, now: float, held: Collection[str] = ()) -> list[Document]:
        """Those that may be forgotten by now."""
        over = (it for it in self._all() if it.until <= now and it.name not in held)
        return sorted(over, key=lambda it: it.until)

    def open(self, document: Document) -> BinaryIO:
        """The content of a document."""
        if document.name not in self._contents.kept:
            raise FileNotFoundError(document.name)
        return io.BytesIO(self._contents.kept[document.name])

    def _all(self) -> list[Document]:
        return [document for _, document in self._documents.values()]
