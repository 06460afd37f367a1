"""The database's tables, and how a database of an older version becomes one of today's.

A place is (segment, offset, length): see `segments`; `live` is how many bytes of one the rows name. Times are
seconds of the wall clock, since a job outlives the process that took it in.
"""

import apsw

VERSION = 4
DOCUMENTS_SINCE = 4
"""A database of an older version, which may be copied too, has none."""

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
    # Jobs may be forgotten: their numbers are not given again, and segments know how much of them is alive.
    """
    ALTER TABLE commits ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;
    UPDATE commits SET newest = (SELECT coalesce(max(job), 0) FROM jobs);
    ALTER TABLE segments RENAME COLUMN records TO live;
    UPDATE segments SET live = 0;
    UPDATE segments SET live = named.bytes FROM (
        SELECT segment, sum(length) AS bytes FROM (
            SELECT segment, length FROM inputs UNION ALL SELECT segment, length FROM results
        ) GROUP BY segment
    ) AS named WHERE named.segment = segments.segment;
    """,
    # Items of a job may be more work, or less, than those that the speeds were measured on.
    """
    ALTER TABLE jobs ADD COLUMN item_work REAL NOT NULL DEFAULT 1;
    """,
    # What fronts keep beside jobs; `bytes` and `sha256` are of its content, if it has one. What contents of a
    # tenant take together is asked for each time one comes: `sizes`.
    """
    CREATE TABLE documents (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, tenant TEXT NOT NULL,
        key TEXT, created REAL NOT NULL, until REAL, live INTEGER NOT NULL, body TEXT NOT NULL,
        bytes INTEGER, sha256 BLOB, checksum INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX documents_by_key ON documents (tenant, kind, key) WHERE key IS NOT NULL;
    CREATE INDEX documents_by_tenant ON documents (tenant, kind, number);
    CREATE INDEX documents_live ON documents (number) WHERE live;
    CREATE INDEX documents_by_end ON documents (until) WHERE until IS NOT NULL;
    CREATE TABLE sizes (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TRIGGER content_comes AFTER INSERT ON documents WHEN NEW.sha256 NOT NULL BEGIN
        INSERT INTO sizes VALUES (NEW.tenant, max(NEW.bytes, 4096))
            ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER content_goes AFTER DELETE ON documents WHEN OLD.sha256 NOT NULL BEGIN
        UPDATE sizes SET bytes = bytes - max(OLD.bytes, 4096) WHERE tenant = OLD.tenant;
    END;
    """,
)


def migrate(connection: apsw.Connection, to: int = VERSION) -> None:
    """Bring a database to a version, each step in a transaction. Raises ValueError for one that is newer."""
    version = version_of(connection)
    if version > to:
        raise ValueError(f"it is of version {version}, and this Carpool knows {to}; take a newer Carpool")
    for number, step in enumerate(_MIGRATIONS[version:to], version + 1):
        with connection:
            connection.execute(f"{step}; PRAGMA user_version = {number}")


def version_of(connection: apsw.Connection) -> int:
    """The version of a database; 0 when it is empty."""
    ((version,),) = connection.execute("PRAGMA user_version")
    assert isinstance(version, int)
    return version
