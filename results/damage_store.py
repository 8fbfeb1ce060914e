"""Checks of artifacts against their reference, in the database: raw rows in, none of them text."""

from collections.abc import Mapping, Sequence

from edgebench import __version__
from edgebench.core.hashing import canonical_json, new_ulid
from edgebench.core.types import Evidence, Status
from edgebench.results.database import Database, insert
from edgebench.results.records import now


class DamageStore(Database):
    """The part of a `Store` that keeps checks."""

    def find_check(self, key_sha256: str) -> str | None:
        """The id of the complete check under a key."""
        found = self.rows(
            "SELECT id FROM check_run WHERE key_sha256 = ? AND status = 'complete'", (key_sha256,)
        )
        return str(found[0]["id"]) if found else None

    def begin_check(
        self,
        *,
        artifact_id: str,
        reference_id: str,
        key_sha256: str,
        evidence: Evidence,
        runner: str,
        runner_version: str,
        config: Mapping[str, object],
        text_sha256: str,
        n_chunks: int,
    ) -> str:
        """Begin a check in place of one under the same key that came to no end; its id."""
        row = {
            "id": new_ulid(),
            "artifact_id": artifact_id,
            "reference_id": reference_id,
            "key_sha256": key_sha256,
            "status": Status.RUNNING,
            "evidence": evidence,
            "runner": runner,
            "runner_version": runner_version,
            "config_json": canonical_json(config),
            "text_sha256": text_sha256,
            "n_chunks": n_chunks,
            "started_at": now(),
            "edgebench_version": __version__,
        }
        with self._write() as connection:
            connection.execute("DELETE FROM check_run WHERE key_sha256 = ?", (key_sha256,))
            insert(connection, "check_run", row)
        return str(row["id"])

    def add_check_tokens(
        self, check_id: str, chunk_index: int, columns: Mapping[str, Sequence[float]]
    ) -> None:
        """Store a chunk's rows, all or none; `columns` holds a value per predicted token."""
        n = len(columns["kld_nats"])
        values = zip(*(columns[name] for name in _TOKEN_COLUMNS), strict=True)
        sql = f"""INSERT INTO check_token (check_id, i, chunk_index, {", ".join(_TOKEN_COLUMNS)})
            VALUES (?, ?, ?, {", ".join("?" * len(_TOKEN_COLUMNS))})"""  # noqa: S608 - names of our own
        with self._write() as connection:
            connection.executemany(
                sql, [(check_id, chunk_index * n + i, chunk_index, *row) for i, row in enumerate(values)]
            )

    def add_check_greedy(self, check_id: str, prompt_index: int, *, n_same: int, n_tokens: int) -> None:
        """Store how much of one greedy continuation agrees."""
        row = {"check_id": check_id, "prompt_index": prompt_index, "n_same": n_same, "n_tokens": n_tokens}
        with self._write() as connection:
            insert(connection, "check_greedy", row)

    def add_check_answers(self, check_id: str, answers: Sequence[Mapping[str, object]]) -> None:
        """Store a scoring group's answers, all or none, by the names of their columns."""
        with self._write() as connection:
            for answer in answers:
                insert(connection, "check_answer", {**answer, "check_id": check_id})

    def end_check(self, check_id: str, status: Status, reason: str | None = None) -> None:
        """Close a check as complete, or as failed with the reason."""
        with self._write() as connection:
            connection.execute(
                "UPDATE check_run SET status = ?, reason = ?, finished_at = ? WHERE id = ?",
                (status, reason, now(), check_id),
            )


_TOKEN_COLUMNS = ("nll_nats", "nll_parent_nats", "kld_nats", "same_top", "max_logprob_diff_nats")
