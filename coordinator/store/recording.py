"""Commits: the rows that change together, durably, and what proves afterwards that none of them is missing.

Blocks; for the one thread that writes.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b

import apsw

from coordinator.store.failpoints import reach
from coordinator.store.opening import write_mark
from coordinator.store.rows import Row
from coordinator.store.segments import Kind, Place


@dataclass(slots=True)
class Rows:
    """What one commit changes. Rows of payloads are (job, first item, items, segment, offset, length)."""

    jobs: list[Row] = field(default_factory=list)
    inputs: list[Row] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    ends: list[Row] = field(default_factory=list)
    settled: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    forgotten: list[int] = field(default_factory=list)  # jobs
    documents: list[Row] = field(default_factory=list)  # new or changed
    dropped: list[str] = field(default_factory=list)  # documents
    moved: dict[Kind, list[Row]] = field(default_factory=dict)  # payloads that have another place now
    freed: defaultdict[int, int] = field(
        default_factory=lambda: defaultdict(int)
    )  # by segment: bytes not named now

    def places(self) -> Iterator[Place]:
        """Of all payloads that it names."""
        for rows in (self.inputs, self.results, *self.moved.values()):
            for row in rows:
                yield Place(*row[3:6])


class Recorder:
    """The database's only writer."""

    def __init__(self, connection: apsw.Connection, mark: int, last: tuple[int, bytes]) -> None:
        """`last` is number and chain of the last commit, `mark` the file that keeps them."""
        self._connection = connection
        self._mark = mark
        self._number, self._chain = last

    def record(self, rows: Rows, *, boots: int = 0, drop_below: int = 0) -> list[int]:
        """Commit these. Gives the segments, of those below `drop_below`, in which nothing is alive now: they are
        forgotten, and their files may be deleted.

        Raises apsw.Error: then nothing is changed, once the transaction is rolled back.
        """
        many = self._connection.executemany
        segments: dict[int, list[int]] = {}  # end of the last record, its offset, bytes of all
        for segment, offset, length in rows.places():
            seen = segments.setdefault(segment, [0, 0, 0])
            if offset + length > seen[0]:
                seen[0], seen[1] = offset + length, offset
            seen[2] += length
        self._connection.execute("BEGIN IMMEDIATE")
        many(
            "INSERT INTO jobs (job, tenant, api, model, items, item_bytes, deadline, value, key, digest, submitted,"
            " item_work, checksum) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            rows.jobs,
        )
        many("INSERT INTO inputs VALUES (?,?,?,?,?,?)", rows.inputs)
        many("INSERT INTO results VALUES (?,?,?,?,?,?)", rows.results)
        many("INSERT INTO failures VALUES (?,?,?,?,?)", rows.failures)
        many(
            "UPDATE jobs SET done = done + ?, failed = failed + ? WHERE job = ?",
            [(done, failed, job) for job, (done, failed) in rows.settled.items()],
        )
        many("UPDATE jobs SET outcome = ?, ended = ? WHERE job = ?", rows.ends)
        for kind, moved in rows.moved.items():
            many(f"REPLACE INTO {kind.table} VALUES (?,?,?,?,?,?)", moved)
        for table in ("failures", *(kind.table for kind in Kind), "jobs") if rows.forgotten else ():
            many(f"DELETE FROM {table} WHERE job = ?", [(job,) for job in rows.forgotten])
        many(
            "INSERT INTO documents (name, kind, tenant, key, created, until, live, body, bytes, sha256, checksum)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (name) DO UPDATE SET until = excluded.until,"
            " live = excluded.live, body = excluded.body, checksum = excluded.checksum",
            rows.documents,
        )
        many("DELETE FROM documents WHERE name = ?", [(name,) for name in rows.dropped])
        many(
            "INSERT INTO segments VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE"
            " SET last = iif(?2 > bytes, ?3, last), bytes = max(bytes, ?2), live = live + ?4",
            [(segment, end, last, live) for segment, (end, last, live) in segments.items()],
        )
        many("UPDATE segments SET live = live - ?2 WHERE segment = ?1", rows.freed.items())
        emptied = "DELETE FROM segments WHERE live = 0 AND segment < ? RETURNING segment"
        dropped = [int(row[0]) for row in self._connection.execute(emptied, (drop_below,))] if drop_below else []
        filed = [(row[0], row[-1]) for row in rows.documents]
        changed = (
            sorted(segments.items()),
            rows.forgotten,
            sorted(rows.freed.items()),
            dropped,
            filed,
            rows.dropped,
        )
        chain = blake2b(
            b"%b %d %r" % (self._chain, self._number + 1, repr(changed).encode()), digest_size=16
        ).digest()
        self._connection.execute(
            "UPDATE commits SET number = ?, chain = ?, before = ?, epoch = epoch + ?, newest = max(newest, ?)",
            (self._number + 1, chain, self._chain, boots, max((row[0] for row in rows.jobs), default=0)),
        )
        reach("before_commit")
        self._connection.execute("COMMIT")
        reach("after_commit")
        self._number, self._chain = self._number + 1, chain
        with suppress(OSError):  # no room, where files are copied to be changed: it may lag behind
            write_mark(self._mark, self._number, chain)
        return dropped
