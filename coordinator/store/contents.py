"""Contents of documents: files in one folder, each whole and named after its document, or not there.

A content is durable before its document is recorded, and deleted after that is forgotten: what no document names is
left over from a kill and deleted at the next start. Blocks.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from hashlib import file_digest, sha256
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import BinaryIO

from coordinator.store import Corrupt, Full
from coordinator.store.documents import Admit, Content, Draft
from coordinator.store.failpoints import reach
from coordinator.store.segments import sync_folder

CONTENTS = "files"
"""The folder, in that of the store."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_PART = ".part"
_PIECE_BYTES = 1 << 20


class Contents:
    """The folder of a store in use."""

    def __init__(self, folder: Path, check_room: Callable[[], None]) -> None:
        """`check_room` raises Full when nothing more is taken in."""
        self.folder = folder
        self._check_room = check_room
        self._numbers = count(1)
        folder.mkdir(exist_ok=True)

    def draft(self, admit: Admit) -> Draft:
        """Begin a content. Raises Full."""
        self._check_room()
        return _Draft(self.folder, self.folder / f"{next(self._numbers)}{_PART}", self._check_room, admit)

    def clear(self, named: Collection[str]) -> None:
        """Delete what is neither a content of these documents nor anything else."""
        for path in self.folder.iterdir():
            if path.name not in named:
                with suppress(OSError):
                    path.unlink()

    def delete(self, names: Collection[str]) -> None:
        """Delete contents that no document has any more; what cannot be is left to the next start."""
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink()


class _Draft(Draft):
    def __init__(self, folder: Path, path: Path, check_room: Callable[[], None], admit: Admit) -> None:
        super().__init__(admit)
        self._folder, self._path, self._check_room = folder, path, check_room
        self._file = path.open("wb")

    def _write(self, data: bytes) -> None:
        self._check_room()
        try:
            self._file.write(data)
        except OSError as error:
            raise _full(error) from None

    def _keep(self, name: str) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.rename(self._folder / name)
            sync_folder(self._folder)
        except OSError as error:
            raise _full(error) from None
        reach("after_content")

    def discard(self) -> None:
        with suppress(OSError):  # what could not be written before cannot be now
            self._file.close()
        self._path.unlink(missing_ok=True)


def opened_content(path: Path, content: Content) -> BinaryIO:
    """A content, read once to see that it is what was written. Raises Corrupt, and FileNotFoundError."""
    file = _opened(path)
    try:
        if (
            os.fstat(file.fileno()).st_size != content.bytes
            or file_digest(file, "sha256").digest() != content.sha256
        ):
            raise Corrupt(f"{path} is not the {content.bytes} bytes that were written; restore a backup")
        file.seek(0)
    except OSError as error:
        file.close()
        raise _unreadable(path, error) from None
    except BaseException:
        file.close()
        raise
    return file


def content_pieces(path: Path, content: Content) -> Iterator[int]:
    """The same piece by piece: how many bytes were read each time. Raises Corrupt, and FileNotFoundError."""
    with _opened(path) as file:
        left, found = content.bytes, sha256()
        try:
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                found.update(piece)
                left -= len(piece)
                yield len(piece)
            if left or file.read(1) or found.digest() != content.sha256:
                raise Corrupt(f"{path} is not the {content.bytes} bytes that were written; restore a backup")
        except OSError as error:
            raise _unreadable(path, error) from None


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> Corrupt:
    return Corrupt(f"{path} cannot be read ({error.strerror}); restore a backup")


def _full(error: OSError) -> Exception:
    if error.errno in _NO_ROOM:
        return Full("the coordinator's disk is full; send it again when there is room")
    return error
