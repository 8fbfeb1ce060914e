"""Opening the database file, and saying in one line what SQLite could not do with it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebench.core.errors import StoreError
from edgebench.results import schema

# SQLite's primary result code -> (what happened, how to mend it).
_EXPLAINED = {
    sqlite3.SQLITE_BUSY: (
        "is locked by another process",
        "wait until the other edgebench is done, then repeat",
    ),
    sqlite3.SQLITE_LOCKED: (
        "is locked by another process",
        "wait until the other edgebench is done, then repeat",
    ),
    sqlite3.SQLITE_READONLY: (
        "is read-only",
        "make the file and its folder writable, or name another with --db",
    ),
    sqlite3.SQLITE_FULL: (
        "can't grow: the disk is full",
        "free some space and repeat; what was stored is safe",
    ),
    sqlite3.SQLITE_NOTADB: ("is not an SQLite database", "name another file with --db"),
    sqlite3.SQLITE_CORRUPT: (
        "is damaged",
        "take a copy from before, or save what is left: sqlite3 FILE .recover",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "can't be opened",
        "is it a file, in a folder that exists and that you may write to?",
    ),
    sqlite3.SQLITE_IOERR: (
        "can't be read or written: the disk reports an error",
        "check the disk, then repeat",
    ),
}


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn every error of SQLite into a StoreError that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        # An extended code keeps its primary code in the low byte; some errors carry none.
        what, hint = _EXPLAINED.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, (f"refused: {error}", None))
        raise StoreError(f"{path} {what}", hint) from error


def connect(path: Path, *, create: bool, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that may write, migrated to the newest schema."""
    if not create:
        _require(path)
    with told(path):
        connection = _raw(path, "mode=rwc" if create else "mode=rw", busy_timeout_s)
        try:
            schema.check(connection, path)  # before the first write: someone else's file stays untouched
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA foreign_keys = ON")
            schema.migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_readonly(path: Path, *, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that reads only; works on a read-only file in a read-only folder."""
    _require(path)
    with told(path):
        try:
            return _reading(path, "mode=rw", busy_timeout_s)  # SQLite itself falls back to reading
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
        # WAL wants helper files beside the database. Where they can't be made nobody can be writing
        # either, so the file may be read as it stands, unless writes still wait in a log.
        log = path.with_name(f"{path.name}-wal")
        if log.is_file() and log.stat().st_size:
            raise StoreError(
                f"{path} has writes waiting in {log.name}, and its folder is read-only",
                "copy both files to a folder you may write to, and name the copy with --db",
            )
        return _reading(path, "mode=ro&immutable=1", busy_timeout_s)


def _reading(path: Path, options: str, busy_timeout_s: float) -> sqlite3.Connection:
    connection = _raw(path, options, busy_timeout_s)
    try:
        connection.execute("PRAGMA query_only = ON")
        if schema.check(connection, path) < len(schema.MIGRATIONS):
            raise StoreError(f"{path} is empty or has an older schema", "edgebench run brings it up to date")
    except BaseException:
        connection.close()
        raise
    return connection


def _require(path: Path) -> None:
    if not path.exists():
        raise StoreError(f"no database at {path}", "edgebench run makes one, or name one with --db")


def _raw(path: Path, options: str, busy_timeout_s: float) -> sqlite3.Connection:
    # Autocommit: every transaction is an explicit BEGIN.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=busy_timeout_s, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    return connection
