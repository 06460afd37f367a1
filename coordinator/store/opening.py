"""Opening a store: one process at a time, and only what is as it was left.

A database forgets its newest commits when its write-ahead log is damaged, and does not say so. The file
`committed` knows better: it has the number of the last commit, and a chain over all of them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import ENOSPC
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import apsw

from coordinator.store import Corrupt
from coordinator.store.schema import migrate
from coordinator.store.segments import Place, Reader, numbers, path_of, sync_folder

DATABASE, SEGMENTS, COMMITTED = "carpool.db", "segments", "committed"
"""What a store's folder holds."""

_MARK = Struct("<Q16sI")
_HEADER = b"SQLite format 3\0" + bytes([16, 0, 2, 2, 0, 64, 32, 32])  # pages of 4,096 bytes, nothing reserved


class Occupied(Exception):
    """Another process uses this folder. The message says so."""


class Last(NamedTuple):
    """Where a store was left."""

    commit: tuple[int, bytes]  # number and chain of the last one
    record: Place  # the last one that is named
    segments: frozenset[int]  # that hold records that are named


class OpenedStore(NamedTuple):
    """What a store is written through."""

    connection: apsw.Connection
    mark: int  # descriptor of the file `committed`
    last: Last


@contextmanager
def opened_store(folder: Path, name: str = "") -> Iterator[OpenedStore]:
    """A store for this process alone, made if there is none, and of today's version.

    `name` is the URI of its database when that is not in the folder. Raises Corrupt, Occupied, and OSError when the
    folder cannot be used.
    """
    database, segments = folder / DATABASE, folder / SEGMENTS
    segments.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        files.callback(os.close, locked(folder))
        try:
            check_header(database)
            connection = opened(name or f"file:{database}", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            files.callback(connection.close)
            migrate(connection)
            mark = os.open(folder / COMMITTED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            files.callback(os.close, mark)
            last = checked(connection, mark, segments)
            for segment in numbers(segments) - last.segments:  # of submissions that were never recorded
                with suppress(OSError):
                    path_of(segments, segment).unlink()
            write_mark(mark, *last.commit)
            os.fsync(mark)
            sync_folder(folder)
            yield OpenedStore(connection, mark, last)
        except apsw.BusyError:
            raise Occupied(f"{folder} is being read by another process, such as a backup; try again") from None
        except apsw.FullError:
            raise OSError(ENOSPC, os.strerror(ENOSPC)) from None
        except (apsw.Error, ValueError) as error:
            raise Corrupt(f"{database} cannot be used: {error}; restore a backup") from None


def opened(name: str, flags: int) -> apsw.Connection:
    """A connection with our settings: a log ahead of the database, synced at every commit."""
    connection = apsw.Connection(name, flags | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOMUTEX)
    connection.set_busy_timeout(10_000)
    if flags & apsw.SQLITE_OPEN_READWRITE:
        connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")
        connection.wal_autocheckpoint(0)
    return connection


def check_header(database: Path) -> None:
    """Raises Corrupt unless a database file begins as every one of ours: SQLite believes what it finds there."""
    header = b""
    if database.exists():
        with database.open("rb") as file:
            header = file.read(len(_HEADER))
    # Bytes 18 and 19 are 1 until the first change to a write-ahead log.
    if header and (header[:18] != _HEADER[:18] or max(header[18:20]) > 2 or header[20:] != _HEADER[20:]):
        raise Corrupt(f"{database} has a damaged header; restore a backup")


def locked(folder: Path) -> int:
    """A descriptor that keeps every other process out until it is closed. Raises Occupied."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Occupied(
            f"{folder} is in use by another coordinator; stop that one or choose another folder"
        ) from None
    return descriptor


def checked(connection: apsw.Connection, mark: int, segments: Path) -> Last:
    """Where this store was left. Raises Corrupt unless it is as it was left then."""
    ((number, chain, before),) = connection.execute("SELECT number, chain, before FROM commits")
    told = os.pread(mark, _MARK.size, 0)
    if not told and not number:
        if numbers(segments):
            raise Corrupt(f"the database is new, and {segments} holds payloads of another; restore all of a backup")
    elif len(told) != _MARK.size or crc32(told[:-4]) != _MARK.unpack(told)[2]:
        raise Corrupt("the file `committed` beside the database is damaged; restore a backup")
    else:
        marked, marked_chain, _ = _MARK.unpack(told)
        if marked > number:
            raise Corrupt(
                f"the database ends at commit {number}, and commit {marked} was acknowledged: its write-ahead log"
                " was damaged or removed; restore a backup"
            )
        if marked_chain != {number: chain, number - 1: before}.get(marked, marked_chain):
            raise Corrupt("the database and the file `committed` beside it are not of one store; restore a backup")
    end = Place(0, 0, 0)
    reader, named = Reader(segments), []
    try:
        for segment, size, last in connection.execute("SELECT segment, bytes, last FROM segments ORDER BY segment"):
            named.append(segment)
            path = path_of(segments, segment)
            have = path.stat().st_size if path.exists() else 0
            if have < size:
                raise Corrupt(f"{path} has {have} bytes, and {size} were recorded; restore a backup")
            end = Place(segment, last, size - last)
            reader.check(end)
    finally:
        reader.close()
    return Last((number, chain), end, frozenset(named))


def write_mark(mark: int, number: int, chain: bytes) -> None:
    """Note, outside of the database, which commit was the last."""
    told = _MARK.pack(number, chain, 0)[:-4]
    os.pwrite(mark, told + crc32(told).to_bytes(4, "little"), 0)
