"""Documents of a store in a folder: rows of its database, written by its one writer; contents beside it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from math import inf
from typing import Any, BinaryIO

from coordinator.store import Corrupt
from coordinator.store.contents import Contents, content_pieces, opened_content
from coordinator.store.documents import Admit, Content, Document, Draft, anything
from coordinator.store.rows import Row, checksum_of
from coordinator.store.writing import Put

DOCUMENT = "name, kind, tenant, key, created, until, live, body, bytes, sha256, checksum"
_SOME = 100  # documents to be forgotten, or looked at, at a time
_LOOK_BYTES = 4 << 20  # of contents, in one look of the scrub: as many as it reads of records


class Filing:
    """The documents."""

    def __init__(
        self,
        contents: Contents,
        put: Callable[[Put], None],
        read: Callable[[str, tuple[Any, ...]], Awaitable[list[Row]]],
    ) -> None:
        """`put` hands something to the writer, `read` asks the reader."""
        self._contents, self._put, self._read = contents, put, read

    def draft(self, admit: Admit = anything) -> Draft:
        """Begin a content. Raises Full."""
        return self._contents.draft(admit)

    async def size(self, tenant: str) -> int:
        """Bytes of all contents of a tenant, each LEAST_BYTES at least."""
        ((size,),) = await self._read("SELECT coalesce(sum(bytes), 0) FROM sizes WHERE tenant = ?", (tenant,))
        return int(size)

    async def put(self, documents: Sequence[Document], dropped: Collection[str] = ()) -> None:
        """Record these, new or changed, and forget those that are named; returns when it is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(Put([document_row(document) for document in documents], [*dropped], done))
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait((done,))
            raise
        finally:
            if dropped and done.done() and done.exception() is None:
                await asyncio.to_thread(self._contents.delete, dropped)

    async def get(self, name: str) -> Document | None:
        """A document."""
        if not name.isascii():  # none is called so, and what is no UTF-8 cannot be asked for
            return None
        return next(iter(await self._documents("name = ?", name)), None)

    async def find(self, tenant: str, kind: str, key: str) -> Document | None:
        """The document of a tenant under this key."""
        found = await self._documents("tenant = ? AND kind = ? AND key = ?", tenant, kind, key)
        return next(iter(found), None)

    async def page(
        self, tenant: str, kind: str, limit: int, after: str = "", *, oldest_first: bool = False, purpose: str = ""
    ) -> list[Document]:
        """Documents of a tenant that follow the one named `after`, the newest first."""
        than, order = (">", "ASC") if oldest_first else ("<", "DESC")
        where = (
            f"tenant = ? AND kind = ? AND (? = '' OR number {than} (SELECT number FROM documents WHERE name = ?))"
        )
        only = " AND json_extract(body, '$.purpose') = ?" if purpose else ""
        values = (tenant, kind, after, after, *([purpose] if purpose else []), limit)
        return await self._documents(f"{where}{only} ORDER BY number {order} LIMIT ?", *values)

    async def live(self, kind: str) -> list[Document]:
        """Those about which there is more to do, the oldest first."""
        return await self._documents("live AND kind = ? ORDER BY number", kind)

    async def over(self, now: float, held: Collection[str] = ()) -> list[Document]:
        """Some that may be forgotten by now, the longest first, and none that is damaged."""
        where = "until <= ? AND name NOT IN (SELECT value FROM json_each(?)) ORDER BY until LIMIT ?"
        query = f"SELECT {DOCUMENT} FROM documents WHERE {where}"
        found = []
        for row in await self._read(query, (now, json.dumps([*held]), _SOME)):
            with suppress(Corrupt):  # the scrub tells it
                found.append(stored_document(row))
        return found

    def open(self, document: Document) -> BinaryIO:
        """The content of a document, which was checked. Blocks. Raises Corrupt, and FileNotFoundError."""
        assert document.content is not None, "it has one"
        return opened_content(self._contents.folder / document.name, document.content)

    async def scrub(self, pause: Callable[[], Awaitable[None]], trouble: Callable[[str], None]) -> None:
        """Go once through all documents and their contents, pause between two looks, and tell what is damaged.
        Raises Corrupt when the database is."""
        number = looked = 0
        while True:
            await pause()
            page = f"SELECT number, {DOCUMENT} FROM documents WHERE number > ? ORDER BY number LIMIT {_SOME}"
            rows = await self._read(page, (number,))
            if not rows:
                return
            number = rows[-1][0]
            for _, name, *row in rows:
                try:
                    pieces = self._pieces(stored_document((name, *row)))
                    while size := await asyncio.to_thread(next, pieces, 0):
                        looked += size
                        if looked >= _LOOK_BYTES:
                            looked = 0
                            await pause()
                except FileNotFoundError:
                    if await self.get(name) is not None:
                        trouble(f"the content of {name} is missing; restore a backup")
                except Corrupt as corrupt:
                    trouble(str(corrupt))

    def _pieces(self, document: Document) -> Iterator[int]:
        content = document.content
        return content_pieces(self._contents.folder / document.name, content) if content else iter(())

    async def _documents(self, where: str, *values: Any) -> list[Document]:
        rows = await self._read(f"SELECT {DOCUMENT} FROM documents WHERE {where}", values)
        return [stored_document(row) for row in rows]


def document_row(document: Document) -> Row:
    """A document as its row is written."""
    content = document.content
    row = (
        document.name,
        document.kind,
        document.tenant,
        document.key or None,
        document.created,
        None if document.until == inf else document.until,
        int(document.live),
        document.text,
        content.bytes if content else None,
        content.sha256 if content else None,
    )
    return (*row, checksum_of(*row))


def stored_document(row: Row) -> Document:
    """The document of a row of the columns DOCUMENT. Raises Corrupt."""
    *told, checksum = row
    name, kind, tenant, key, created, until, live, body, size, digest = told
    if checksum_of(*told) != checksum:
        raise Corrupt(f"the database's row of {name} is damaged; restore a backup")
    content = Content(digest, size) if digest is not None else None
    until = inf if until is None else until
    return Document(name, kind, tenant, created, json.loads(body), key or "", until, bool(live), content)
