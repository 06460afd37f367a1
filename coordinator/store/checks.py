"""All of a stopped store, read and compared with itself. One record is in memory at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from coordinator.core.effects import Outcome
from coordinator.store import Corrupt
from coordinator.store.contents import CONTENTS, opened_content
from coordinator.store.filing import DOCUMENT, stored_document
from coordinator.store.opening import COMMITTED, DATABASE, SEGMENTS, check_header, checked, locked, opened
from coordinator.store.rows import JOB, check_failure, stored_job
from coordinator.store.schema import VERSION, version_of
from coordinator.store.segments import Kind, Place, Reader


@dataclass(slots=True)
class Checked:
    """What there is, and what is wrong with it: a sentence each."""

    jobs: int = 0
    items: int = 0  # inputs
    results: int = 0
    documents: int = 0
    bytes: int = 0  # of payloads and contents, as stored
    troubles: list[str] = field(default_factory=list)


def check(folder: Path) -> Checked:
    """Read a store that no coordinator uses. Raises Occupied, and OSError when it cannot be read."""
    found = Checked()
    database = folder / DATABASE
    if not database.is_file():
        found.troubles.append(f"{database} is missing; restore a backup, or give the folder of --state")
        return found
    lock = locked(folder)
    try:
        check_header(database)
        connection = opened(f"file:{database}", apsw.SQLITE_OPEN_READWRITE)
        try:
            version = version_of(connection)
            if version != VERSION:
                known = f"this Carpool reads {VERSION}"
                found.troubles.append(
                    f"{database} is of version {version}, {known}; start a coordinator on it once"
                )
                return found
            found.troubles.extend(_database(connection, database))
            found.troubles.extend(_newest(connection, folder))
            found.troubles.extend(_names(connection, database))
            _payloads(connection, folder / SEGMENTS, found)
            _documents(connection, folder / CONTENTS, found)
        finally:
            connection.close()
    except Corrupt as corrupt:
        found.troubles.append(str(corrupt))
    except apsw.Error as error:
        found.troubles.append(f"{database} cannot be read: {error}; restore a backup")
    finally:
        os.close(lock)
    return found


def _newest(connection: apsw.Connection, folder: Path) -> Iterator[str]:
    """What is wrong with the last commit, and with the ends of segments."""
    try:
        mark = os.open(folder / COMMITTED, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield f"{folder / 'committed'} is missing; restore a backup"
        return
    try:
        checked(connection, mark, folder / SEGMENTS)
    except Corrupt as corrupt:
        yield str(corrupt)
    finally:
        os.close(mark)


def _database(connection: apsw.Connection, database: Path) -> Iterator[str]:
    for (said,) in connection.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield f"{database}: {said}; restore a backup"


def _names(connection: apsw.Connection, database: Path) -> Iterator[str]:
    """What is wrong with the rows that name payloads, beside what they name."""
    for table in ("failures", *(kind.table for kind in Kind)):
        ((orphans,),) = connection.execute(f"SELECT count(*) FROM {table} WHERE job NOT IN (SELECT job FROM jobs)")
        if orphans:
            yield f"{database} has {orphans} rows of {table} that belong to no job; restore a backup"
    places = " UNION ALL ".join(f"SELECT segment, length FROM {kind.table}" for kind in Kind)
    named = dict(connection.execute(f"SELECT segment, sum(length) FROM ({places}) GROUP BY segment"))
    for segment, live in connection.execute("SELECT segment, live FROM segments"):
        if live != named.get(segment, 0):
            yield (
                f"{database} names {named.get(segment, 0)} bytes of segment {segment}, and {live} were recorded;"
                " restore a backup"
            )
    for tenant, told, found in connection.execute(
        "SELECT tenant, bytes, (SELECT coalesce(sum(max(bytes, 4096)), 0) FROM documents"
        " WHERE documents.tenant = sizes.tenant AND sha256 NOT NULL) FROM sizes"
    ):
        if told != found:
            yield f"contents of {tenant} take {found} bytes, and {told} were recorded; restore a backup"
    for job, item in connection.execute(
        "SELECT failures.job, item FROM failures JOIN results ON results.job = failures.job AND first ="
        " (SELECT max(first) FROM results WHERE job = failures.job AND first <= item) WHERE item < first + items"
    ):
        yield f"item {item} of job {job} has a result and a failure; restore a backup"


def _payloads(connection: apsw.Connection, segments: Path, found: Checked) -> None:
    reader = Reader(segments)
    try:
        for row in connection.execute(f"SELECT {JOB} FROM jobs ORDER BY job"):
            found.jobs += 1
            try:
                job = stored_job(row)
            except Corrupt as corrupt:
                found.troubles.append(str(corrupt))
                continue
            inputs = _records(connection, reader, Kind.INPUTS, job.spec.job, found)
            results = _records(connection, reader, Kind.RESULTS, job.spec.job, found)
            failed = _failures(connection, job.spec.job, found)
            found.items += inputs
            found.results += results
            told = (job.spec.items, job.done, job.failed)
            if (inputs, results, failed) != told:
                found.troubles.append(
                    f"job {job.spec.job} has {inputs} inputs, {results} results and {failed} failures, and"
                    f" {told[0]}, {told[1]} and {told[2]} were recorded; restore a backup"
                )
            if job.outcome is Outcome.DONE and job.done + job.failed != job.spec.items:
                found.troubles.append(f"job {job.spec.job} is done and has unsettled items; restore a backup")
    finally:
        reader.close()


def _records(connection: apsw.Connection, reader: Reader, kind: Kind, job: int, found: Checked) -> int:
    """Items in the sound records of a job; neither inputs after a gap count nor results that are there twice."""
    items = end = 0
    query = f"SELECT first, items, segment, offset, length FROM {kind.table} WHERE job = ? ORDER BY first"
    for first, count, *place in connection.execute(query, (job,)):
        where = Place(*place)
        try:
            whole = len(reader.read(kind, job, first, where)) == count
            if whole and (first >= end if kind is Kind.RESULTS else first == items):
                items, end = items + count, first + count
                found.bytes += where.length
        except Corrupt as corrupt:
            found.troubles.append(str(corrupt))
    return items


def _failures(connection: apsw.Connection, job: int, found: Checked) -> int:
    failed = 0
    for row in connection.execute("SELECT item, code, message, checksum FROM failures WHERE job = ?", (job,)):
        try:
            check_failure(job, *row)
            failed += 1
        except Corrupt as corrupt:
            found.troubles.append(str(corrupt))
    return failed


def _documents(connection: apsw.Connection, contents: Path, found: Checked) -> None:
    for row in connection.execute(f"SELECT {DOCUMENT} FROM documents ORDER BY number"):
        found.documents += 1
        path = contents / str(row[0])
        try:
            document = stored_document(row)
            if document.content is not None:
                opened_content(path, document.content).close()
                found.bytes += document.content.bytes
        except FileNotFoundError:
            found.troubles.append(f"{path} is missing; restore a backup")
        except Corrupt as corrupt:
            found.troubles.append(str(corrupt))
