"""Checkpoints: the write-ahead log is brought into the database beside the writing, so that no commit waits for it.

Much of a long log is copied by a thread of its own, while the writer goes on. What came meanwhile is little; that
the writer copies itself, between two commits: then all of the log is copied, and the next commit begins it anew.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor

import apsw

from coordinator.store.failpoints import reach
from coordinator.store.opening import opened

_LONG = int(os.environ.get("CARPOOL_LOG_PAGES", "16384"))  # of 4 KiB: from then on the log is copied
_SHORT = 512  # pages that the writer copies itself


class Checkpoints:
    """Of one database; everything here is called by its writer."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._pages = 0  # in the log
        self._copying: Future[int] | None = None
        self._thread = ThreadPoolExecutor(1, "store-checkpoint")
        self._other: apsw.Connection | None = None  # the thread's
        connection.set_wal_hook(self._committed)

    def go_on(self) -> None:
        """Begin, or bring to an end, what is due. Between two commits."""
        if self._copying is None:
            if self._pages > _LONG:
                self._copying = self._thread.submit(self._copy)
        elif self._copying.done():
            left, self._copying = self._pages - self._copying.result(), None
            if left < _SHORT:
                _checkpoint(self._connection)
                self._pages = 0  # until the next commit tells
                reach("after_checkpoint")

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.shutdown()
        if self._other is not None:
            self._other.close()

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _copy(self) -> int:
        try:
            if self._other is None:
                self._other = opened(f"file:{self._connection.filename}", apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error:
            return 0  # as below
        copied = _checkpoint(self._other)
        reach("in_checkpoint")
        return copied


def _checkpoint(connection: apsw.Connection) -> int:
    """Copy as much as no reader needs; the pages of the log that are copied by now."""
    try:
        return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[1]
    except apsw.Error:
        return 0  # the log holds everything, and it is tried again; what is damaged will be met by a commit
