"""The database's tables, and how a database of an older version becomes one of today's.

A place is (segment, offset, length): see `segments`. Times are seconds of the wall clock, since a job outlives
the process that took it in.
"""

import apsw

VERSION = 1

_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        job INTEGER PRIMARY KEY, tenant TEXT NOT NULL, api TEXT NOT NULL, model TEXT NOT NULL,
        items INTEGER NOT NULL, item_bytes INTEGER NOT NULL, deadline REAL, value REAL NOT NULL,
        key TEXT, digest BLOB NOT NULL, submitted REAL NOT NULL, checksum INTEGER NOT NULL,
        done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, outcome TEXT, ended REAL
    ) STRICT;
    CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, key) WHERE key IS NOT NULL;
    CREATE INDEX jobs_by_tenant ON jobs (tenant, job);
    CREATE INDEX jobs_live ON jobs (job) WHERE outcome IS NULL;
    CREATE INDEX jobs_by_end ON jobs (ended) WHERE ended IS NOT NULL;
    CREATE TABLE inputs (
        job INTEGER, first INTEGER, items INTEGER NOT NULL,
        segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
        PRIMARY KEY (job, first)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE results (
        job INTEGER, first INTEGER, items INTEGER NOT NULL,
        segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
        PRIMARY KEY (job, first)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE failures (
        job INTEGER, item INTEGER, code TEXT NOT NULL, message TEXT NOT NULL, checksum INTEGER NOT NULL,
        PRIMARY KEY (job, item)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE segments (
        segment INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, last INTEGER NOT NULL, records INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE commits (
        one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, chain BLOB NOT NULL,
        before BLOB NOT NULL, epoch INTEGER NOT NULL
    ) STRICT;
    INSERT INTO commits VALUES (1, 0, zeroblob(16), zeroblob(16), 0);
    """,
)


def migrate(connection: apsw.Connection) -> None:
    """Bring a database to `VERSION`, each step in a transaction. Raises ValueError for one that is newer."""
    version = version_of(connection)
    if version > VERSION:
        raise ValueError(f"it is of version {version}, and this Carpool knows {VERSION}; take a newer Carpool")
    for number, step in enumerate(_MIGRATIONS[version:], version + 1):
        with connection:
            connection.execute(f"{step}; PRAGMA user_version = {number}")


def version_of(connection: apsw.Connection) -> int:
    """The version of a database; 0 when it is empty."""
    ((version,),) = connection.execute("PRAGMA user_version")
    assert isinstance(version, int)
    return version
