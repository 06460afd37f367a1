"""What every store promises of documents and of their contents, and what stores on a disk promise beside."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from coordinator.core.effects import EndRecord, FailureRecord, Outcome
from coordinator.core.events import JobId
from coordinator.store import Corrupt, Full, Operation, Store
from coordinator.store.backup import backup
from coordinator.store.checks import check
from coordinator.store.documents import Document
from coordinator.store.memory import MemoryStore
from coordinator.store.sqlite import SqliteStore
from tests.coordinator.test_store import commit, play, results, store, submission

__all__ = ["store"]


def paper(number: int, **more: object) -> Document:
    """A document without content."""
    values: dict[str, object] = {"tenant": "local", "created": 1000.0 + number, "body": {"number": number}, **more}
    return Document(f"paper-{number}", "paper", **values)  # type: ignore[arg-type]


async def filed(store: Store, number: int, data: bytes, **more: object) -> Document:
    """A recorded document with this content."""
    draft = store.documents.draft()
    draft.write(data[:3])
    draft.write(data[3:])
    document = paper(number, content=draft.keep(f"paper-{number}"), **more)
    await store.documents.put([document])
    return document


def names(documents: Sequence[Document]) -> list[str]:
    return [document.name.removeprefix("paper-") for document in documents]


def test_a_document_comes_back_as_it_was_put_and_changed(store: Store) -> None:
    async def scene() -> None:
        documents = store.documents
        first = paper(1, key="k", until=5.5, live=True, body={"purpose": "a", "text": "zwölf", "list": [1, None]})
        await documents.put([first, paper(2, tenant="other", key="k")])
        assert await documents.get("paper-1") == first
        assert await documents.get("paper-9") is None
        assert names(await documents.live("paper")) == ["1"]
        changed = paper(1, key="k", until=7.5, body={"purpose": "b"})
        await documents.put([changed, paper(3)], dropped=["paper-2"])
        assert await documents.get("paper-1") == changed
        assert await documents.get("paper-2") is None
        assert await documents.live("paper") == []
        assert await documents.find("local", "paper", "k") == changed
        assert await documents.find("local", "other kind", "k") is None
        assert await documents.find("other", "paper", "k") is None
        assert await documents.find("local", "paper", "") is None

    play(scene())


def test_documents_are_listed_page_by_page_to_their_tenant(store: Store) -> None:
    async def scene() -> None:
        documents = store.documents
        await documents.put(
            [paper(n, tenant="a" if n % 2 else "b", body={"purpose": f"{n % 3}"}) for n in range(9)]
        )
        await documents.put([paper(5, tenant="a", body={"purpose": "0"})])  # a change leaves it in its place
        assert names(await documents.page("a", "paper", 10)) == ["7", "5", "3", "1"]
        assert names(await documents.page("a", "paper", 2, "paper-5")) == ["3", "1"]
        assert names(await documents.page("a", "paper", 2, oldest_first=True)) == ["1", "3"]
        assert names(await documents.page("a", "paper", 9, "paper-3", oldest_first=True)) == ["5", "7"]
        assert names(await documents.page("a", "paper", 10, purpose="0")) == ["5", "3"]
        assert await documents.page("c", "paper", 10) == []
        assert await documents.page("a", "paper", 10, "paper-99") == []

    play(scene())


def test_what_may_be_forgotten_is_told_the_longest_first(store: Store) -> None:
    async def scene() -> None:
        await store.documents.put([paper(1), paper(2, until=20.0), paper(3, until=10.0), paper(4, until=30.0)])
        assert names(await store.documents.over(20.0)) == ["3", "2"]
        assert names(await store.documents.over(20.0, {"paper-3": "read"})) == ["2"]

    play(scene())


def test_a_content_comes_back_and_goes_with_its_document(store: Store) -> None:
    async def scene() -> None:
        document = await filed(store, 1, b"some bytes")
        assert document.content is not None
        assert document.content.bytes == 10
        with store.documents.open(document) as content:
            assert content.read() == b"some bytes"
        await store.documents.put([], dropped=["paper-1"])
        with pytest.raises(FileNotFoundError):
            store.documents.open(document)

    play(scene())


def test_the_next_settled_item_behind_a_gap_is_found(store: Store) -> None:
    async def scene() -> None:
        job = JobId(1)
        await commit(store, await submission(store, 1, [b"x"] * 10))
        assert await store.next_settled(job, 0) is None
        await commit(store, results(1, ((2, 2),), 0b11, 0b11, b"a"))
        await commit(store, Operation(FailureRecord(job, 7, "model", "it raised")))
        assert [await store.next_settled(job, first) for first in (0, 4, 8)] == [2, 7, None]

    play(scene())


def test_a_store_on_a_disk_keeps_documents_and_deletes_what_none_of_them_names(tmp_path: Path) -> None:
    before = SqliteStore(tmp_path)

    async def write() -> Document:
        document = await filed(before, 1, b"kept", key="k", live=True)
        before.documents.draft().write(b"never kept")
        before.documents.draft().keep("paper-2")  # killed before its document is recorded
        return document

    document = asyncio.run(write())
    before.close()
    after = SqliteStore(tmp_path)

    async def look() -> None:
        assert await after.documents.live("paper") == [document]
        with after.documents.open(document) as content:
            assert content.read() == b"kept"

    play(look())
    after.close()
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["paper-1"]
    found = check(tmp_path)
    assert (found.documents, found.bytes, found.troubles) == (1, 4, [])


def test_a_damaged_content_is_named_and_never_served(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        document = await filed(store, 1, b"some bytes")
        await filed(store, 2, b"others")
        (tmp_path / "files" / "paper-1").write_bytes(b"some byteS")
        (tmp_path / "files" / "paper-2").unlink()
        with pytest.raises(Corrupt, match="paper-1 is not the 10 bytes that were written; restore a backup"):
            store.documents.open(document)

    play(scene())
    store.close()
    connection = apsw.Connection(str(tmp_path / "carpool.db"))
    connection.execute(
        "INSERT INTO documents SELECT 9, 'paper-3', kind, tenant, key, created, until, live, body, NULL,"
        " NULL, checksum FROM documents WHERE number = 1"
    )
    connection.close()
    first, second, third = check(tmp_path).troubles
    assert "paper-1 is not the 10 bytes that were written" in first
    assert second.endswith("paper-2 is missing; restore a backup")
    assert third == "the database's row of paper-3 is damaged; restore a backup"


def test_a_damaged_document_keeps_no_other_from_being_forgotten(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def scene() -> None:
        await store.documents.put([paper(number, until=5.0 + number) for number in range(3)])
        connection = apsw.Connection(str(tmp_path / "carpool.db"))
        connection.execute("UPDATE documents SET tenant = 'other' WHERE name = 'paper-0'")
        connection.close()
        assert names(await store.documents.over(20.0)) == ["1", "2"]

    play(scene())
    store.close()


def test_a_scrub_reads_contents_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    contents = {1: b"sound", 2: b"x" * 5_000_000, 3: b"longer", 4: b"missing", 5: b"", 6: b"", 7: b"row", 8: b""}

    async def scene() -> None:
        for number, data in contents.items():
            await filed(store, number, data)
        paths = {number: tmp_path / "files" / f"paper-{number}" for number in contents}
        with paths[2].open("r+b") as file:
            file.seek(4_999_999)
            file.write(b"y")
        paths[3].write_bytes(b"longer than it was")
        paths[4].unlink()
        paths[6].write_bytes(b"no more empty")
        paths[8].unlink()
        paths[8].mkdir()
        connection = apsw.Connection(str(tmp_path / "carpool.db"))
        connection.execute("UPDATE documents SET tenant = 'other' WHERE name = 'paper-7'")
        found: asyncio.Queue[str] = asyncio.Queue()
        scrubbing = asyncio.create_task(store.scrub(found.put_nowait))
        assert [await found.get() for _ in range(6)] == [
            f"{paths[2]} is not the 5000000 bytes that were written; restore a backup",
            f"{paths[3]} is not the 6 bytes that were written; restore a backup",
            "the content of paper-4 is missing; restore a backup",
            f"{paths[6]} is not the 0 bytes that were written; restore a backup",
            "the database's row of paper-7 is damaged; restore a backup",
            f"{paths[8]} cannot be read (Is a directory); restore a backup",
        ]
        assert "paper-2" in await found.get(), "it goes round"
        scrubbing.cancel()
        connection.close()

    play(scene())
    store.close()


def test_contents_in_memory_have_a_bound() -> None:
    async def scene() -> None:
        documents = MemoryStore(file_bytes=10).documents
        kept, other = documents.draft(), documents.draft()
        kept.write(b"1234567")
        with pytest.raises(Full, match="take 7 bytes, and a coordinator without a disk takes 10; delete some"):
            other.write(b"1234")
        document = paper(1, content=kept.keep("paper-1"))
        await documents.put([document])
        kept.discard()
        other.write(b"123")
        with pytest.raises(Full, match="take 10 bytes"):
            other.write(b"4")
        other.discard()
        await documents.put([], dropped=["paper-1", "paper-1"])
        documents.draft().write(b"1234567890")

    play(scene())


def test_what_contents_take_is_known_and_checked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)

    async def write() -> None:
        await filed(store, 1, b"small")
        await store.documents.put([await filed(store, 2, b"x" * 5000)])
        await filed(store, 3, b"forgotten")
        await store.documents.put([], dropped=["paper-3"])
        assert await store.documents.size("local") == 4096 + 5000

    play(write())
    store.close()
    assert check(tmp_path).troubles == []
    connection = apsw.Connection(str(tmp_path / "carpool.db"))
    connection.execute("UPDATE sizes SET bytes = 9000")
    connection.close()
    told = "contents of local take 9096 bytes, and 9000 were recorded; restore a backup"
    assert check(tmp_path).troubles == [told]


def test_what_contents_of_a_tenant_take_is_known(store: Store) -> None:
    async def scene() -> None:
        await filed(store, 1, b"small")
        await filed(store, 2, b"x" * 5000)
        await filed(store, 3, b"other", tenant="other")
        await store.documents.put([paper(4)])
        assert await store.documents.size("local") == 4096 + 5000
        await store.documents.put([], dropped=["paper-2"])
        assert [await store.documents.size(tenant) for tenant in ("local", "other", "none")] == [4096, 4096, 0]

    play(scene())


def test_a_copy_that_is_taken_while_documents_come_and_go_is_a_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state")

    async def scene() -> None:
        await filed(store, 0, b"it stays")
        copying = asyncio.create_task(asyncio.to_thread(backup, tmp_path / "state", tmp_path / "copy"))
        number = 1
        while not copying.done():
            await filed(store, number, b"more" * 1000)
            await store.documents.put([], dropped=[f"paper-{number - 1}"] if number > 1 else [])
            number += 1
        assert await copying > 0

    play(scene())
    store.close()
    assert check(tmp_path / "copy").troubles == []
    copy = SqliteStore(tmp_path / "copy")

    async def look() -> None:
        document = await copy.documents.get("paper-0")
        assert document is not None
        with copy.documents.open(document) as content:
            assert content.read() == b"it stays"

    play(look())
    copy.close()


def test_a_store_of_an_older_version_is_copied_before_it_is_brought_up_to_date(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "state").close()
    connection = apsw.Connection(str(tmp_path / "state" / "carpool.db"))
    connection.execute("DROP TABLE documents; DROP TABLE sizes; PRAGMA user_version = 3")
    connection.close()
    assert backup(tmp_path / "state", tmp_path / "copy") > 0
    SqliteStore(tmp_path / "copy").close()
    assert check(tmp_path / "copy").troubles == []


def test_without_free_room_no_content_is_taken_in(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, free_bytes=1 << 60)
    with pytest.raises(Full, match="MiB free and takes nothing in below"):
        store.documents.draft()
    store.close()


def test_documents_are_recorded_together_with_the_ends_of_jobs(store: Store) -> None:
    async def scene() -> None:
        await commit(store, await submission(store, 1, [b"x"]))
        putting = asyncio.ensure_future(store.documents.put([paper(1)]))
        await commit(store, Operation(EndRecord(JobId(1), Outcome.CANCELLED)))
        await putting
        assert await store.documents.get("paper-1") == paper(1)

    play(scene())
