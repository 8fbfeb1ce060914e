"""The results database: raw rows go in by whole transactions, figures are read back by query."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgebench import __version__
from edgebench.core.errors import UsageError
from edgebench.core.hashing import canonical_json, new_ulid
from edgebench.core.types import Artifact, DeviceProfile, Environment, Evidence, Mode, Status, Suite
from edgebench.results.damage_store import DamageStore
from edgebench.results.database import insert
from edgebench.results.measurement_store import MeasurementStore
from edgebench.results.records import (
    RunRow,
    artifact_row,
    device_row,
    environment_row,
    model_row,
    now,
    question_rows,
    run_row,
    suite_row,
)

_RUN_ROWS = """
  SELECT run.*, artifact.model_id AS model, artifact.format, artifact.quant, artifact.parent_quant,
    artifact.bits_per_weight,
    artifact.size_bytes, coalesce(json_extract(artifact.manifest_json, '$.n_fallback'), 0) AS n_fallback
  FROM run JOIN artifact ON artifact.id = run.artifact_id"""
_NEWEST_FIRST = "ORDER BY run.started_at DESC, run.id DESC"


class Store(DamageStore, MeasurementStore):
    """An open results database. Every write is one transaction; every failure is a StoreError."""

    # What is measured, and where. A row that is there already stays as it is.

    def add_artifact(self, artifact: Artifact, manifest: Mapping[str, Any]) -> None:
        """Record a model file and its model."""
        with self._write() as connection:
            known = connection.execute(
                "SELECT 1 FROM artifact WHERE id = ?", (artifact.parent_sha256,)
            ).fetchone()
            parent = {"parent_id": artifact.parent_sha256 if known else None}
            insert(connection, "model", model_row(artifact), keep=True)
            insert(connection, "artifact", artifact_row(artifact, manifest) | parent, keep=True)

    def add_device(self, device: DeviceProfile) -> None:
        """Record a device's profile."""
        with self._write() as connection:
            insert(connection, "device", device_row(device), keep=True)

    def add_environment(self, environment: Environment) -> None:
        """Record the state of a device's software."""
        with self._write() as connection:
            insert(connection, "environment", environment_row(environment), keep=True)

    def add_suite(self, suite: Suite) -> None:
        """Record a suite and, of its questions, everything but the text."""
        with self._write() as connection:
            sql = "SELECT sha256 FROM suite WHERE id = ?"
            stored = connection.execute(sql, (suite.id,)).fetchone()
            if stored is not None and stored["sha256"] != suite.sha256:
                raise UsageError(
                    f"suite {suite.id} stands in {self.path} with other questions", "raise its version"
                )
            insert(connection, "suite", suite_row(suite), keep=True)
            for row in question_rows(suite):
                insert(connection, "question", row, keep=True)

    # A run, and what it yields.

    def create_run(
        self,
        *,
        mode: Mode,
        evidence: Evidence,
        artifact_id: str,
        device_id: str,
        environment_id: str,
        suite_id: str | None,
        runner: str,
        runner_version: str,
        config: Mapping[str, Any],
        config_sha256: str,
        seed: int,
        scorer: str | None = None,
        scheme_sha256: str | None = None,
        git_commit: str | None = None,
        git_dirty: bool | None = None,
        command: str | None = None,
        timing_source: str = "host",
    ) -> str:
        """Begin a run; its id."""
        run_id = new_ulid()
        row = {
            "id": run_id,
            "mode": mode,
            "status": Status.RUNNING,
            "evidence": evidence,
            "artifact_id": artifact_id,
            "device_id": device_id,
            "environment_id": environment_id,
            "suite_id": suite_id,
            "runner": runner,
            "runner_version": runner_version,
            "config_sha256": config_sha256,
            "config_json": canonical_json(config),
            "seed": seed,
            "scorer": scorer,
            "scheme_sha256": scheme_sha256,
            "git_commit": git_commit,
            "git_dirty": git_dirty,
            "command": command,
            "timing_source": timing_source,
            "started_at": now(),
            "edgebench_version": __version__,
        }
        with self._write() as connection:
            insert(connection, "run", row)
        return run_id

    def set_engine(self, run_id: str, facts: Mapping[str, Any]) -> None:
        """Record what the engine says of itself and the model."""
        with self._write() as connection:
            connection.execute("UPDATE run SET engine_json = ? WHERE id = ?", (canonical_json(facts), run_id))

    def set_origin(
        self, run_id: str, *, command: str, git_commit: str | None, git_dirty: bool | None
    ) -> None:
        """Record which command and which code asked for a run that another computer made."""
        sql = "UPDATE run SET command = ?, git_commit = ?, git_dirty = ? WHERE id = ?"
        with self._write() as connection:
            connection.execute(sql, (command, git_commit, git_dirty, run_id))

    def set_status(self, run_id: str, status: Status, reason: str | None = None) -> None:
        """Move a run to a status; `reason` is kept only where something went wrong."""
        going = status is Status.RUNNING
        kept = None if status in (Status.RUNNING, Status.COMPLETE) else reason
        with self._write() as connection:
            connection.execute(
                "UPDATE run SET status = ?, invalid_reason = ?, finished_at = ? WHERE id = ?",
                (status, kept, None if going else now(), run_id),
            )

    def add_trial(
        self, run_id: str, trial: Mapping[str, object], token_times_s: Sequence[float] = ()
    ) -> None:
        """Store one trial, by the names of its columns, with the moment each token came."""
        self._check_names("trial", trial)
        with self._write() as connection:
            trial_id = insert(connection, "trial", {**trial, "run_id": run_id})
            connection.executemany(
                "INSERT INTO token_time (trial_id, i, t_s) VALUES (?, ?, ?)",
                [(trial_id, i, t_s) for i, t_s in enumerate(token_times_s)],
            )

    def add_readings(self, run_id: str, channel: str, unit: str, rows: Sequence[tuple[float, float]]) -> None:
        """Store (t_s, value) pairs of a meter."""
        with self._write() as connection:
            connection.executemany(
                "INSERT INTO reading (run_id, channel, unit, t_s, value) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                [(run_id, channel, unit, t_s, value) for t_s, value in rows],
            )

    def add_answers(self, run_id: str, answers: Sequence[Mapping[str, object]]) -> None:
        """Store a scoring group's answers, all or none, by the names of their columns."""
        for answer in answers:
            self._check_names("answer", answer)
        with self._write() as connection:
            for answer in answers:
                insert(connection, "answer", {**answer, "run_id": run_id}, keep=True)

    def replace_summary(self, run_id: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Put these summary rows in place of the ones the run had."""
        with self._write() as connection:
            connection.execute("DELETE FROM summary WHERE run_id = ?", (run_id,))
            for row in rows:
                insert(connection, "summary", {**row, "run_id": run_id})

    def delete_run(self, run_id: str) -> None:
        """Remove a run with all it yielded; its artifact, device and suite stay."""
        with self._write() as connection:
            connection.execute("DELETE FROM run WHERE id = ?", (run_id,))

    # Reading back.

    def find_run(
        self, *, config_sha256: str, artifact_id: str, device_id: str, environment_id: str
    ) -> RunRow | None:
        """The newest run of a plan on these, done or to be resumed; an invalid one doesn't count."""
        found = self._runs(
            "WHERE config_sha256 = ? AND artifact_id = ? AND device_id = ? AND environment_id = ?"
            " AND status IN ('running','interrupted','failed','complete')",
            (config_sha256, artifact_id, device_id, environment_id),
        )
        return found[0] if found else None

    def runs(self, *, mode: Mode | None = None, status: Status | None = None) -> list[RunRow]:
        """Runs, newest first."""
        return self._runs(
            "WHERE (?1 IS NULL OR mode = ?1) AND (?2 IS NULL OR status = ?2)",
            (mode, status),
        )

    def run(self, name: str) -> RunRow:
        """The run whose id begins with `name`, or the `latest` one; UsageError when not exactly one."""
        if name == "latest":
            found = self._runs()[:1]
        else:
            found = self._runs("WHERE substr(run.id, 1, length(?1)) = ?1", (name.upper(),))
        if len(found) == 1:
            return found[0]
        candidates = found or self._runs()
        if not candidates:
            raise UsageError(f"no runs in {self.path}", "edgebench run makes one")
        known = ", ".join(f"{run.id} ({run.mode}, {run.label})" for run in candidates[:5])
        more = f", and {len(candidates) - 5} more" if len(candidates) > 5 else ""
        what = f"{len(found)} runs begin with {name!r}" if found else f"no run begins with {name!r}"
        raise UsageError(what, f"{'candidates' if found else 'newest'}: {known}{more}")

    def count_trials(self, run_id: str) -> dict[tuple[str, int], int]:
        """(test, round_index) -> how many measured trials are stored."""
        rows = self.rows(
            "SELECT test, round_index, count(*) AS n FROM trial WHERE run_id = ? AND phase = 'measured'"
            " GROUP BY test, round_index",
            (run_id,),
        )
        return {(row["test"], row["round_index"]): row["n"] for row in rows}

    def next_process_index(self, run_id: str) -> int:
        """The number of the next measuring process of a run."""
        sql = "SELECT coalesce(max(process_index) + 1, 0) AS i FROM trial WHERE run_id = ?"
        return int(self.rows(sql, (run_id,))[0]["i"])

    def answered(self, run_id: str) -> set[str]:
        """Ids of the questions a run has answers to."""
        return {
            row["question_id"]
            for row in self.rows("SELECT question_id FROM answer WHERE run_id = ?", (run_id,))
        }

    def _runs(self, where: str = "", params: Sequence[object] = ()) -> list[RunRow]:
        return [run_row(row) for row in self.rows(f"{_RUN_ROWS} {where} {_NEWEST_FIRST}", params)]
