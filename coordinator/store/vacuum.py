"""Room that forgotten jobs leave behind in a stopped store, given back to its disk.

A segment is deleted when nothing in it is alive; one of which much is dead is written anew here, and so is the
database. Each segment is a commit: whatever stops this leaves a sound store.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from coordinator.store.opening import DATABASE, SEGMENTS, opened_store
from coordinator.store.recording import Recorder, Rows
from coordinator.store.segments import Appender, Kind, Place, Reader

_DEAD = 0.1  # of a segment: less is not worth its writing (assumed)
_FLUSH_BYTES = 1 << 20


def vacuum(folder: Path) -> tuple[int, int]:
    """Make a store that no coordinator uses small; its bytes on the disk, before and after.

    It needs room for one segment and, here and where temporary files are, for the database again. Raises Corrupt,
    Occupied, and OSError when it cannot be written.
    """
    before = _size(folder)
    with opened_store(folder) as (connection, mark, last):
        recorder = Recorder(connection, mark, last.commit)
        with (
            closing(Appender(folder / SEGMENTS, last.record)) as appender,
            closing(Reader(folder / SEGMENTS)) as reader,
        ):
            for segment in _sparse(connection):
                _rewrite(segment, connection, recorder, appender, reader)
        connection.execute("VACUUM")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        os.fsync(mark)
    return before, _size(folder)


def _sparse(connection: apsw.Connection) -> list[int]:
    rows = connection.execute("SELECT segment FROM segments WHERE live <= bytes * ? ORDER BY segment", (1 - _DEAD,))
    return [segment for (segment,) in rows if isinstance(segment, int)]


def _rewrite(
    segment: int, connection: apsw.Connection, recorder: Recorder, appender: Appender, reader: Reader
) -> None:
    """Copy what is alive of a segment behind all others, and delete it."""
    if segment == appender.number:
        appender.turn()
    rows = Rows()
    for kind in Kind:
        moved = rows.moved[kind] = []
        for job, first, items, *place in _named(connection, kind, segment):
            old = Place(*place)
            moved.append((job, first, items, *appender.copy(reader.check(old))))
            rows.freed[segment] += old.length
            if appender.buffered_bytes > _FLUSH_BYTES:
                appender.flush()
    appender.sync()
    for dropped in recorder.record(rows, drop_below=appender.number):
        reader.delete(dropped)


def _named(connection: apsw.Connection, kind: Kind, segment: int) -> Iterator[tuple[Any, ...]]:
    return connection.execute(f"SELECT * FROM {kind.table} WHERE segment = ? ORDER BY offset", (segment,))


def _size(folder: Path) -> int:
    files = (folder / DATABASE, folder / f"{DATABASE}-wal", *(folder / SEGMENTS).iterdir())
    return sum(path.stat().st_size for path in files if path.exists())
