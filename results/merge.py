"""Results of another database into this one: runs with all they yielded, each once, whole or not at all.

Ids follow from content or are unique by themselves; only the numbers of trials and energy windows are a
database's own, and are given anew. The source is read, never changed, and not trusted: known tables and
columns only, and every row must pass this database's own checks.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import StoreError
from edgebench.results.connection import connect_readonly, told
from edgebench.results.database import insert
from edgebench.results.store import Store

Row = dict[str, Any]

SHARED = ("model", "artifact", "device", "environment", "suite", "question", "device_limit")
"""What runs refer to. A row that is there stays as it is."""
OF_RUN = ("trial", "reading", "answer", "summary", "energy_window", "prediction")
OF_CHECK = ("check_token", "check_greedy", "check_answer")
_NUMBERED = ("trial", "energy_window")
"""Tables whose `id` is a number of this database alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What came of a merge, in runs and checks."""

    n_new: int
    n_updated: int
    """Known, but the source had more of them."""
    n_unchanged: int

    @property
    def told(self) -> str:
        """For people: `runs: 2 new, 1 known already`."""
        parts = {
            "new": self.n_new,
            "that went further": self.n_updated,
            "known already": self.n_unchanged,
        }
        told = ", ".join(f"{n} {what}" for what, n in parts.items() if n)
        return f"runs: {told}" if told else "no runs"


def merge(into: Store, source: Path, only: Collection[str] | None = None) -> Merged:
    """Take every run of `source`, or only those of some ids, in one transaction.

    A run that is there already is replaced when the source's goes further, and left when not. Raises
    StoreError when the file is damaged, of another schema, or has what this one does not allow.
    """
    with (
        told(source),
        closing(connect_readonly(source, busy_timeout_s=30.0)) as connection,
        into.transaction() as writing,
    ):
        return _Merge(writing, into.path, connection, source).all(only)


class _Merge:
    """One merge: where from, where to, and which columns both know."""

    def __init__(
        self, into: sqlite3.Connection, path: Path, source: sqlite3.Connection, source_path: Path
    ) -> None:
        self._into, self._path = into, path
        self._source, self._source_path = source, source_path
        self._columns: dict[str, list[str]] = {}
        source.execute("PRAGMA trusted_schema = OFF")
        verdict = source.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreError(f"{source_path} is damaged: {verdict}", "take a copy from before")
        for table in (*SHARED, "run", *OF_RUN, "token_time", "check_run", *OF_CHECK):
            self._columns[table] = self._known(table)

    def all(self, only: Collection[str] | None) -> Merged:
        """Everything wanted."""
        runs = [row for row in self._read("run") if only is None or row["id"] in only]
        checks = list(self._read("check_run")) if only is None else []
        self._share(runs, checks, everything=only is None)
        counts = [0, 0, 0]
        for run in runs:
            counts[self._take("run", run, "run_id", OF_RUN)] += 1
        for check in checks:
            counts[self._take("check_run", check, "check_id", OF_CHECK)] += 1
        return Merged(n_new=counts[0], n_updated=counts[1], n_unchanged=counts[2])

    def _share(self, runs: list[Row], checks: list[Row], *, everything: bool) -> None:
        """The rows that runs refer to, and all others of their tables when everything is wanted."""
        wanted = {
            "suite": {run["suite_id"] for run in runs},
            "device": {run["device_id"] for run in runs},
            "environment": {run["environment_id"] for run in runs},
        }
        self._check_suites()
        artifacts = self._lineage({row["artifact_id"] for row in (*runs, *checks)})
        models = {row["id"]: row for row in self._read("model")}
        if everything:
            artifacts = self._lineage({row["id"] for row in self._read("artifact")})
        for artifact in artifacts:  # parents first, since a child names its parent
            if model := models.get(artifact["model_id"]):
                insert(self._into, "model", model, keep=True)
            insert(self._into, "artifact", artifact, keep=True)
        for table in ("device", "environment", "suite"):
            for row in self._read(table):
                if everything or row["id"] in wanted[table]:
                    insert(self._into, table, row, keep=True)
        for row in self._read("question"):
            if everything or row["suite_id"] in wanted["suite"]:
                insert(self._into, "question", row, keep=True)
        for row in self._read("device_limit"):
            if everything or (
                row["device_id"] in wanted["device"] and row["environment_id"] in wanted["environment"]
            ):
                insert(self._into, "device_limit", row, keep=True)

    def _check_suites(self) -> None:
        """StoreError when a suite of one id holds other questions here and there: answers would mix."""
        here = {row["id"]: row["sha256"] for row in self._into.execute("SELECT id, sha256 FROM suite")}
        for row in self._read("suite"):
            if here.get(row["id"], row["sha256"]) != row["sha256"]:
                raise StoreError(
                    f"suite {row['id']} has other questions in {self._source_path} than in {self._path}",
                    "merge into a database of its own: --db other.sqlite",
                )

    def _lineage(self, ids: set[str]) -> list[Row]:
        """Artifacts and those they were made from, parents first; a circle is cut."""
        known = {row["id"]: row for row in self._read("artifact")}
        found: dict[str, Row] = {}

        def take(artifact_id: str, below: frozenset[str]) -> None:
            row = known.get(artifact_id)
            if row is None or artifact_id in found or artifact_id in below:
                return
            if row["parent_id"] is not None:
                take(row["parent_id"], below | {artifact_id})
            found[artifact_id] = row

        for artifact_id in sorted(ids):
            take(artifact_id, frozenset())
        return list(found.values())

    def _take(self, table: str, row: Row, key: str, parts: tuple[str, ...]) -> int:
        """Copy a run or a check with its parts: 0 when new, 1 when it replaces an older one, 2 when kept."""
        unique = "key_sha256" if table == "check_run" else "id"
        sql = f"SELECT * FROM {table} WHERE {unique} = ?"  # noqa: S608 - names of our own
        known = self._into.execute(sql, (row[unique],)).fetchone()
        if known is not None:
            here = self._extent(self._into, dict(known), key, parts)
            if self._extent(self._source, row, key, parts) <= here:
                return 2
            self._into.execute(f"DELETE FROM {table} WHERE id = ?", (known["id"],))  # noqa: S608
        insert(self._into, table, row)
        for part in parts:
            self._copy(part, key, row["id"])
        return 1 if known is not None else 0

    def _extent(
        self, connection: sqlite3.Connection, row: Mapping[str, Any], key: str, parts: tuple[str, ...]
    ) -> tuple[bool, int, str]:
        """How far a run got: complete or not, rows it yielded, and when it was last touched."""
        n_rows = 0
        for part in parts:
            if part != "summary":  # can be made again
                sql = f"SELECT count(*) FROM {part} WHERE {key} = ?"  # noqa: S608
                n_rows += int(connection.execute(sql, (row["id"],)).fetchone()[0])
        return row["status"] == "complete", n_rows, row["finished_at"] or ""

    def _copy(self, table: str, key: str, value: str) -> None:
        order = "ORDER BY id" if table in _NUMBERED else ""
        for row in self._read(table, f"WHERE {key} = ? {order}", value):
            old_id = row.pop("id") if table in _NUMBERED else None
            new_id = insert(self._into, table, row)
            if table == "trial":
                for time in self._read("token_time", "WHERE trial_id = ?", old_id):
                    insert(self._into, "token_time", {**time, "trial_id": new_id})

    def _read(self, table: str, where: str = "", *params: object) -> Iterator[Row]:
        names = ", ".join(self._columns[table])
        for row in self._source.execute(f"SELECT {names} FROM {table} {where}", params):  # noqa: S608
            yield dict(row)

    def _known(self, table: str) -> list[str]:
        """This database's columns of a table; StoreError when the source's table is another one."""
        here = [row["name"] for row in self._into.execute(f"PRAGMA table_info({table})")]
        kind = self._source.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        there = {row["name"] for row in self._source.execute(f"PRAGMA table_info({table})")}
        if kind is None or kind["type"] != "table" or not set(here) <= there:
            raise StoreError(
                f"{self._source_path} has no table {table} as edgebench makes it", "is it edgebench's file?"
            )
        return here
