"""Segments: append-only files that hold payloads, each record with its length and checksum.

Knows bytes and places, neither jobs nor SQLite. One thread appends; any number may read what was appended. A
record is named by its place, and whoever names it has had it synced before.

    segment-00000001     8 bytes: magic; then records
    record               magic, kind (u32), job, first item (u64), items, bytes of the body (u32),
                         crc32 of all that and the body (u32); body
    body                 the length of each item (u32), then the items

Little-endian. What follows the last record that anybody names is a torn append and is cut off at the start.
"""

import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from functools import partial
from itertools import accumulate
from pathlib import Path
from struct import Struct
from typing import NamedTuple, TypeVar
from zlib import crc32

from coordinator.items import Items, split
from coordinator.store import Corrupt

SEGMENT_BYTES = 256 << 20
"""A segment that has grown so large is followed by another: what holds nothing alive is deleted whole."""
RECORD_BYTES = 64 << 10
"""Payload bytes that a record holds at most, or one item: a slice of a job is read without much beside it."""
_MUCH_BYTES = 1 << 20  # of one write: the sync that follows would take long (a submission of 17 MB: 20 % less)

_T = TypeVar("_T")

_MAGIC = b"CPSEG01\n"
_HEADER = Struct("<IIQQII")
_CHECKSUM = Struct("<I")
_BODY = _HEADER.size + _CHECKSUM.size
_RECORD_MAGIC = 0x52435043  # "CPCR"


class Kind(IntEnum):
    """What a record's items are."""

    INPUTS = 1
    RESULTS = 2

    @property
    def table(self) -> str:
        """Where the database names such records."""
        return self.name.lower()


class Place(NamedTuple):
    """Where a record is: its segment, and the bytes that it takes there."""

    segment: int
    offset: int
    length: int


class Appender:
    """Writes records behind each other; the segments' only writer.

    Records gather in a buffer until there is enough of them or somebody wants them durable. A write that fails
    keeps the buffer: the next `sync` tries again, and every place that was given stays good.
    """

    def __init__(self, folder: Path, end: Place) -> None:
        """Go on behind `end`, the last record that anybody names; segment 0 begins anew. What is behind it in its
        segment, torn or never named, is cut off."""
        self._folder = folder
        self._number = end.segment
        self._end = end.offset + end.length  # where the next record goes
        self._written = self._end
        self._buffer: list[bytes] = []
        self._full: list[int] = []  # descriptors of segments that were left since the last sync
        self._descriptor = -1
        self._dirty = False  # written since the last sync
        if end.segment:
            self._descriptor = os.open(path_of(folder, self._number), os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self._descriptor, self._end)

    def append(self, kind: Kind, job: int, first: int, items: Items) -> Place:
        """Place one record. It is durable after the next `sync`."""
        return self.copy(encode(kind, job, first, items))

    def copy(self, record: bytes) -> Place:
        """Place a record that was encoded before."""
        if self._descriptor < 0 or self._end + len(record) > SEGMENT_BYTES:
            self.turn()
        place = Place(self._number, self._end, len(record))
        self._buffer.append(record)
        self._end += len(record)
        return place

    def turn(self) -> None:
        """Go on in a new segment."""
        self.flush()
        self._begin()

    @property
    def number(self) -> int:
        """The segment in which it writes."""
        return self._number

    @property
    def buffered_bytes(self) -> int:
        """Bytes that are not written yet."""
        return self._end - self._written

    def flush(self) -> None:
        """Write what is buffered. Raises OSError when it cannot be, and keeps it."""
        if self._buffer:
            data = memoryview(b"".join(self._buffer))
            begun, length = self._written, len(data)
            while data:
                count = os.pwrite(self._descriptor, data, self._end - len(data))
                self._written += count
                data = data[count:]
                self._buffer = [bytes(data)]
            self._buffer.clear()
            self._dirty = True
            if length >= _MUCH_BYTES and hasattr(os, "posix_fadvise"):
                # Linux begins to write out what it is told to drop, and drops only what is written out already.
                os.posix_fadvise(self._descriptor, begun, length, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make all records durable that have a place. Raises OSError when they cannot be; call it again then."""
        self.flush()
        while self._full:
            os.fdatasync(self._full[-1])
            os.close(self._full.pop())
        if self._dirty:
            os.fdatasync(self._descriptor)
            self._dirty = False

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (*self._full, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)

    def _begin(self) -> None:
        path = path_of(self._folder, self._number + 1)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, _MAGIC, 0)
            os.fsync(descriptor)
            sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            self._full.append(self._descriptor)
        self._number, self._descriptor = self._number + 1, descriptor
        self._end = self._written = len(_MAGIC)
        self._dirty = False


class Reader:
    """Reads records by their places. Any number may read at a time, each from one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: dict[int, int] = {}

    def read(self, kind: Kind, job: int, first: int, place: Place) -> list[bytes]:
        """The items of a record, which holds just these of this job. Raises Corrupt."""
        return self._sound(place, partial(decode, kind=kind, job=job, first=first))

    def check(self, place: Place) -> bytes:
        """The record that is there, as it was encoded. Raises Corrupt unless it is whole."""
        return self._sound(place, checked)

    def _sound(self, place: Place, look: Callable[[bytes], _T]) -> _T:
        path = path_of(self._folder, place.segment)
        try:
            if place.segment not in self._descriptors:
                self._descriptors[place.segment] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return look(os.pread(self._descriptors[place.segment], place.length, place.offset))
        except OSError as error:
            raise Corrupt(f"{path} cannot be read ({error.strerror}); restore a backup") from None
        except Corrupt as reason:
            raise Corrupt(f"{path} at byte {place.offset}: {reason}; restore a backup") from None

    def delete(self, segment: int) -> None:
        """Delete a segment that nobody names any more; one that cannot be is left to the next start."""
        self._let_go(segment)
        with suppress(OSError):
            path_of(self._folder, segment).unlink()

    def close(self) -> None:
        """Let go of the files."""
        for segment in list(self._descriptors):
            self._let_go(segment)

    def _let_go(self, segment: int) -> None:
        descriptor = self._descriptors.pop(segment, None)
        if descriptor is not None:
            os.close(descriptor)


def encode(kind: Kind, job: int, first: int, items: Items) -> bytes:
    """A record of these items of a job, from item `first` on."""
    lengths = items.lengths
    if sys.byteorder == "big":
        lengths = lengths[:]
        lengths.byteswap()
    told = _HEADER.pack(_RECORD_MAGIC, kind, job, first, len(items), len(lengths) * 4 + len(items.payload))
    checksum = crc32(items.payload, crc32(lengths, crc32(told)))
    return b"".join((told, _CHECKSUM.pack(checksum), lengths, items.payload))


def decode(record: bytes, kind: Kind, job: int, first: int) -> list[bytes]:
    """The items of a record; raises Corrupt when it is not just as it was encoded."""
    if len(record) < _BODY:
        raise Corrupt("the record ends in its header")
    told = _HEADER.unpack_from(record)
    if told[:4] != (_RECORD_MAGIC, kind, job, first):
        raise Corrupt("this is not the record that was written here")
    checked(record)
    begin = _BODY + told[4] * 4
    return split(memoryview(record)[begin:], Struct(f"<{told[4]}I").unpack_from(record, _BODY))


def checked(record: bytes) -> bytes:
    """This record; raises Corrupt unless it is whole, with the checksum that it was written with."""
    if len(record) < _BODY:
        raise Corrupt("the record ends in its header")
    magic, _, _, _, count, size = _HEADER.unpack_from(record)
    if magic != _RECORD_MAGIC or size != len(record) - _BODY or count * 4 > size:
        raise Corrupt("this is no record of the length that was written")
    (checksum,) = _CHECKSUM.unpack_from(record, _HEADER.size)
    if crc32(memoryview(record)[_BODY:], crc32(record[: _HEADER.size])) != checksum:
        raise Corrupt("the record's checksum does not fit its bytes")
    return record


def parts_of(items: Items) -> Iterator[Items]:
    """Items in runs that each fit a record."""
    payload, ends = memoryview(items.payload), list(accumulate(items.lengths))
    first, begin = 0, 0
    while first < len(ends):
        end = max(first + 1, bisect_right(ends, begin + RECORD_BYTES))
        yield Items(payload[begin : ends[end - 1]], items.lengths[first:end])
        first, begin = end, ends[end - 1]


def path_of(folder: Path, segment: int) -> Path:
    """A segment's file."""
    return folder / f"segment-{segment:08d}"


def numbers(folder: Path) -> set[int]:
    """Of the segments that are there."""
    names = (path.name.removeprefix("segment-") for path in folder.glob("segment-*"))
    return {int(name) for name in names if name.isdecimal()}


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
