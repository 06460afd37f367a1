"""Documents: what fronts keep of their tenants beside jobs, each a few words of theirs and perhaps a content of any
size. Here is the contract; `memory_documents` go with their process, those of `filing` do not.

A document belongs to whoever wrote it: the store knows neither files nor batches.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
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


LEAST_BYTES = 4096
"""What a content is counted as at least: a block of a disk. `schema` counts so, too."""

Admit = Callable[[int], None]
"""Asked before a content grows by so many bytes; raises what keeps it from that."""


def anything(size: int) -> None:
    """No bound."""


class Draft(ABC):
    """A content in the making. Blocks; one thread at a time."""

    def __init__(self, admit: Admit) -> None:
        self.bytes = 0
        self.admitted = 0  # bytes; more than `bytes` when a write failed
        self._admit = admit
        self._sha256 = sha256()

    def write(self, data: bytes) -> None:
        """Add to it. Raises Full, and what `admit` does."""
        self._admit(len(data))
        self.admitted += len(data)
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

    def draft(self, admit: Admit = anything) -> Draft:
        """Begin a content. Raises Full."""

    async def size(self, tenant: str) -> int:
        """Bytes of all contents of a tenant, each LEAST_BYTES at least."""

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
        """Some that may be forgotten by now, the longest first; none of those whose names are `held`, and none that
        is damaged."""

    def open(self, document: Document) -> BinaryIO:
        """The content of a document, which was checked. Blocks. Raises Corrupt, and FileNotFoundError when it was
        forgotten meanwhile."""
