"""Documents: what fronts keep of their tenants beside jobs, each a few words of theirs and perhaps a content of any
size. Here is the contract, and documents that go with their process; `filing` has those that do not.

A document belongs to whoever wrote it: the store knows neither files nor batches.
"""

import asyncio
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from math import inf
from typing import Any, BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """What a document's content must be."""

    sha256: bytes
    bytes: int


@dataclass(frozen=True, slots=True)
class Document:
    """One document. Times are seconds of the wall clock, since it outlives its process."""

    name: str  # one of a kind, whichever the kind
    kind: str
    tenant: str
    created: float
    body: Mapping[str, Any]  # JSON
    key: str = ""  # idempotency key, of its tenant and kind; empty: none
    until: float = inf  # it may be forgotten from then on
    live: bool = False  # there is more to do about it, also after a restart
    content: Content | None = None

    @property
    def text(self) -> str:
        """The body, as it is written: in ASCII, since a tenant may send half a surrogate pair, no UTF-8."""
        return json.dumps(self.body, separators=(",", ":"), sort_keys=True)


class Draft(ABC):
    """A content in the making. Blocks; one thread at a time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._sha256 = sha256()

    def write(self, data: bytes) -> None:
        """Add to it. Raises Full."""
        self._write(data)
        self._sha256.update(data)
        self.bytes += len(data)

    def keep(self, name: str) -> Content:
        """Make it durable, as that of a document which is recorded next. Raises Full."""
        self._keep(name)
        return Content(self._sha256.digest(), self.bytes)

    @abstractmethod
    def _write(self, data: bytes) -> None: ...

    @abstractmethod
    def _keep(self, name: str) -> None: ...

    @abstractmethod
    def discard(self) -> None:
        """It is not wanted, unless it was kept."""


class Documents(Protocol):
    """What every store promises of documents. Reads see what is recorded, and raise Corrupt."""

    def draft(self) -> Draft:
        """Begin a content. Raises Full."""

    async def put(self, documents: Sequence[Document], dropped: Collection[str] = ()) -> None:
        """Record these, new or changed, and forget those that are named, all or none; returns when it is durable.
        One that is cancelled returns then, too: who found a key free may hold it until then.

        A key that another document of its tenant and kind has is our own bug.
        """

    async def get(self, name: str) -> Document | None:
        """A document."""

    async def find(self, tenant: str, kind: str, key: str) -> Document | None:
        """The document of a tenant under this key."""

    async def page(
        self, tenant: str, kind: str, limit: int, after: str = "", *, oldest_first: bool = False, purpose: str = ""
    ) -> list[Document]:
        """Documents of a tenant that follow the one named `after`, the newest first, and none when there is none of
        that name; those whose body has this `purpose`, if one is given."""

    async def live(self, kind: str) -> list[Document]:
        """Those about which there is more to do, the oldest first."""

    async def over(self, now: float, held: Collection[str] = ()) -> list[Document]:
        """Some that may be forgotten by now, the longest first, and none of those whose names are `held`."""

    def open(self, document: Document) -> BinaryIO:
        """The content of a document, which was checked. Blocks. Raises Corrupt, and FileNotFoundError when it was
        forgotten meanwhile."""


class _MemoryDraft(Draft):
    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__()
        self._contents, self._buffer = contents, io.BytesIO()

    def _write(self, data: bytes) -> None:
        self._buffer.write(data)

    def _keep(self, name: str) -> None:
        self._contents[name] = self._buffer.getvalue()

    def discard(self) -> None:
        self._buffer.close()


class MemoryDocuments:
    """All of them in dictionaries."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[int, Document]] = {}  # with numbers in the order of their coming
        self._contents: dict[str, bytes] = {}
        self._numbers = count(1)

    def draft(self) -> Draft:
        """Begin a content."""
        return _MemoryDraft(self._contents)

    async def put(self, documents: Sequence[Document], dropped: Collection[str] = ()) -> None:
        """Record these and forget those that are named."""
        for document in documents:
            number, _ = self._documents.get(document.name) or (next(self._numbers), None)
            self._documents[document.name] = (number, document)
        for name in dropped:
            self._documents.pop(name, None)
            self._contents.pop(name, None)
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
        if document.name not in self._contents:
            raise FileNotFoundError(document.name)
        return io.BytesIO(self._contents[document.name])

    def _all(self) -> list[Document]:
        return [document for _, document in self._documents.values()]
