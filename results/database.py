"""The database file as an object: how it is opened, written to by whole transactions, and queried."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from edgebench.results.connection import connect, connect_readonly, told

BUSY_TIMEOUT_S = 30.0


class Database:
    """An open database; what it can store is added by its subclasses."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, create: bool = True, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open for writing, made and migrated when needed; `create=False` wants the file to be there."""
        return cls(connect(path, create=create, busy_timeout_s=busy_timeout_s), path)

    @classmethod
    def open_readonly(cls, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open for reading; neither file nor folder needs to be writable, and nothing is migrated."""
        return cls(connect_readonly(path, busy_timeout_s=busy_timeout_s), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; SQLite folds its log back into it."""
        self._connection.close()

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[dict[str, Any]]:
        """The rows a query yields."""
        with told(self.path):
            return [dict(row) for row in self._connection.execute(sql, tuple(params))]

    def vacuum(self) -> None:
        """Give the space of removed rows back to the disk."""
        with told(self.path):
            self._connection.execute("VACUUM")

    def _check_names(self, table: str, row: Mapping[str, object]) -> None:
        known = {column["name"] for column in self.rows("SELECT name FROM pragma_table_info(?)", (table,))}
        if unknown := row.keys() - known:
            raise TypeError(f"{table} has no column {', '.join(sorted(unknown))}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose writes are kept together, or not at all."""
        with self._write() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with told(self.path), self._connection as connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")
            yield connection


def insert(
    connection: sqlite3.Connection, table: str, row: Mapping[str, object], *, keep: bool = False
) -> int | None:
    """Insert a row, its id back; `keep` leaves a row of the same key as it is."""
    # Not INSERT OR IGNORE: that would drop rows that break a NOT NULL or a CHECK, without a word.
    sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608
    return connection.execute(
        sql + (" ON CONFLICT DO NOTHING" if keep else ""), tuple(row.values())
    ).lastrowid
