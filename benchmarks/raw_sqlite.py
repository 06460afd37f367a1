"""A submission's bytes in SQLite, and nothing else asked of it: `python -m benchmarks.raw_sqlite DIR`.

Each line "ITEMS EACH" on standard input has it write ITEMS payloads into a table, EACH of them joined in a row, in
one commit; it answers with the seconds from BEGIN to the end of COMMIT. The payloads and the joined blobs are made
before, and the log is brought into the database after: neither is counted, which favours it.
"""

import sys
from itertools import islice
from pathlib import Path
from time import perf_counter

import apsw

from benchmarks.payloads import payloads


def main(folder: Path) -> None:
    """Answer lines until there are no more."""
    connection = apsw.Connection(str(folder / "raw.db"))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
    connection.wal_autocheckpoint(0)
    connection.execute(
        "CREATE TABLE inputs (job INTEGER, first INTEGER, items INTEGER NOT NULL, payload BLOB NOT NULL) STRICT"
    )
    for job, line in enumerate(sys.stdin):
        items, each = map(int, line.split())
        fresh = payloads()
        rows = []
        for first in range(0, items, each):
            some = list(islice(fresh, min(each, items - first)))
            rows.append((job, first, len(some), b"".join(some)))
        begun_s = perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO inputs VALUES (?,?,?,?)", rows)
        connection.execute("COMMIT")
        print(perf_counter() - begun_s, flush=True)
        connection.execute("DELETE FROM inputs")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
