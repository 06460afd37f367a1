"""A copy of a store, taken while a coordinator serves from it.

The database is copied first, by SQLite's own online backup: it names payloads that are synced. Segments only grow,
and are opened before any of them is copied, so what the database names is in them afterwards, too. Contents of
documents never change: one that is gone was forgotten meanwhile, and is forgotten in the copy, too.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import apsw

from coordinator.store.contents import CONTENTS
from coordinator.store.opening import COMMITTED, DATABASE, SEGMENTS, opened, write_mark
from coordinator.store.schema import DOCUMENTS_SINCE, version_of
from coordinator.store.segments import path_of, sync_folder

_EPOCHS = 1000
"""The copy's epochs begin so far ahead, lest a lease of a later start of the original be taken for one of its own
(assumed: the original does not start so often again)."""


class NotCopied(Exception):
    """The backup could not be made. The message says why, and what to do."""


def backup(folder: Path, target: Path) -> int:
    """Copy the store in `folder` to `target`, which is new or empty; the bytes of the copy. Raises NotCopied."""
    if not (folder / DATABASE).is_file():
        raise NotCopied(f"{folder} holds no store; give the folder of --state")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise NotCopied(f"{target} is there already; give a new folder")
    made = not target.exists()
    try:
        (target / SEGMENTS).mkdir(parents=True, exist_ok=True)
        (target / CONTENTS).mkdir(exist_ok=True)
        return _copied(folder, target)
    except (NotCopied, OSError, apsw.Error) as error:
        for folder_made in (target,) if made else (target / SEGMENTS, target / CONTENTS):
            shutil.rmtree(folder_made, ignore_errors=True)
        for path in () if made else target.iterdir():
            path.unlink()
        if isinstance(error, NotCopied):
            raise
        if isinstance(error, OSError):
            why = f"cannot write {target}: {error.strerror}; free space or give another folder"
        else:
            why = f"cannot copy {folder / 'carpool.db'}: {error}; try `carpool store check`"
        raise NotCopied(why) from None


def _copied(folder: Path, target: Path) -> int:
    source = opened(f"file:{folder / 'carpool.db'}", apsw.SQLITE_OPEN_READONLY)
    copy = opened(f"file:{target / 'carpool.db'}", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    try:
        with copy.backup("main", source, "main") as copying:
            while not copying.done:
                copying.step(-1)
        size = _copy_contents(source, copy, folder / CONTENTS, target / CONTENTS)
        copy.execute("UPDATE commits SET epoch = epoch + ?", (_EPOCHS,))
        ((number, chain),) = copy.execute("SELECT number, chain FROM commits")
        copy.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        segments = list(copy.execute("SELECT segment, bytes FROM segments ORDER BY segment"))
    finally:
        copy.close()
        source.close()
    size += (target / DATABASE).stat().st_size
    with ExitStack() as files:  # one that is deleted from now on is read all the same
        named = [(segment, length, files.enter_context(_opened(folder, segment))) for segment, length in segments]
        for segment, length, read in named:
            _copy(read, path_of(target / SEGMENTS, segment), length)
            size += length
    mark = os.open(target / COMMITTED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_mark(mark, number, chain)
        os.fsync(mark)
    finally:
        os.close(mark)
    sync_folder(target / SEGMENTS)
    sync_folder(target / CONTENTS)
    sync_folder(target)
    sync_folder(target.parent)
    return size


def _copy_contents(source: apsw.Connection, copy: apsw.Connection, contents: Path, target: Path) -> int:
    """Contents of the documents of a copied database; bytes of all."""
    size = 0
    if version_of(copy) < DOCUMENTS_SINCE:
        return size
    for name, length in list(copy.execute("SELECT name, bytes FROM documents WHERE sha256 NOT NULL")):
        try:
            with (contents / str(name)).open("rb") as read:
                _copy(read, target / str(name), length)
            size += length
        except FileNotFoundError:
            if list(source.execute("SELECT 1 FROM documents WHERE name = ?", (name,))):
                raise NotCopied(f"{contents / str(name)} is missing; try `carpool store check`") from None
            copy.execute("DELETE FROM documents WHERE name = ?", (name,))
    return size


def _opened(folder: Path, segment: int) -> BinaryIO:
    path = path_of(folder / SEGMENTS, segment)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotCopied(f"{path} is gone; try again, and then `carpool store check`") from None


def _copy(read: BinaryIO, target: Path, length: int) -> None:
    """The first bytes of a file, durably."""
    with target.open("xb") as written:
        left = length
        while left:
            part = read.read(min(left, 1 << 20))
            if not part:
                raise NotCopied(f"{read.name} has not the {length} bytes that are named; try `carpool store check`")
            written.write(part)
            left -= len(part)
        written.flush()
        os.fsync(written.fileno())
