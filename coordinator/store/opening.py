"""Opening a store: one process at a time, and only what is as it was left.

A database forgets its newest commits when its write-ahead log is damaged, and does not say so. The file
`committed` knows better: it has the number of the last commit, and a chain over all of them.
"""

import fcntl
import os
from pathlib import Path
from struct import Struct
from zlib import crc32

import apsw

from coordinator.store import Corrupt
from coordinator.store.segments import Place, Reader, path_of

_MARK = Struct("<Q16sI")
_HEADER = b"SQLite format 3\0" + bytes([16, 0, 2, 2, 0, 64, 32, 32])  # pages of 4,096 bytes, nothing reserved


class Occupied(Exception):
    """Another process uses this folder. The message says so."""


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


def checked(connection: apsw.Connection, mark: int, segments: Path) -> tuple[tuple[int, bytes], Place]:
    """Number and chain of the last commit, and the place of the last record. Raises Corrupt."""
    ((number, chain, before),) = connection.execute("SELECT number, chain, before FROM commits")
    told = os.pread(mark, _MARK.size, 0)
    if not told and not number:
        pass  # it is new
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
    reader = Reader(segments)
    try:
        for segment, size, last, _ in connection.execute("SELECT * FROM segments ORDER BY segment"):
            path = path_of(segments, segment)
            have = path.stat().st_size if path.exists() else 0
            if have < size:
                raise Corrupt(f"{path} has {have} bytes, and {size} were recorded; restore a backup")
            end = Place(segment, last, size - last)
            reader.check(end)
    finally:
        reader.close()
    return (number, chain), end


def write_mark(mark: int, number: int, chain: bytes) -> None:
    """Note, outside of the database, which commit was the last."""
    told = _MARK.pack(number, chain, 0)[:-4]
    os.pwrite(mark, told + crc32(told).to_bytes(4, "little"), 0)
