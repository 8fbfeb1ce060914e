"""Energy windows, limits, predictions and flags in the database: what stands beside trials."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.core.hashing import canonical_json
from edgebench.core.types import Evidence
from edgebench.results.database import Database, insert
from edgebench.results.records import now


class MeasurementStore(Database):
    """The part of a `Store` that keeps what sensors and limits say."""

    def add_windows(self, run_id: str, windows: Sequence[Mapping[str, object]]) -> None:
        """Store stretches of time with their energy or the reason for none, by the names of the columns."""
        for window in windows:
            self._check_names("energy_window", window)
        with self._write() as connection:
            for window in windows:
                insert(connection, "energy_window", {**window, "run_id": run_id})

    def windows(self, run_id: str) -> list[dict[str, Any]]:
        """A run's energy windows, in the order of time."""
        return self.rows("SELECT * FROM energy_window WHERE run_id = ? ORDER BY start_s, id", (run_id,))

    def drop_windows(self, run_id: str, source: str) -> None:
        """Remove what one meter said of a run: its log is imported anew."""
        with self._write() as connection:
            connection.execute("DELETE FROM energy_window WHERE run_id = ? AND source = ?", (run_id, source))
            connection.execute(
                "DELETE FROM reading WHERE run_id = ? AND channel = ?", (run_id, f"power:{source}")
            )

    def set_headline(self, run_id: str, source: str) -> None:
        """Take a run's energy figures from this meter, where it told of a stretch of time."""
        with self._write() as connection:
            connection.execute(
                "UPDATE energy_window SET headline = (source IS ?1) WHERE run_id = ?2", (source, run_id)
            )

    def set_flags(self, run_id: str, flags: Sequence[str]) -> None:
        """What is to be said of the whole run: `not_steady`, `throttled`, and others."""
        with self._write() as connection:
            connection.execute(
                "UPDATE run SET flags_json = ? WHERE id = ?", (json.dumps(list(flags)), run_id)
            )

    def set_meters(self, run_id: str, facts: Mapping[str, Any]) -> None:
        """Record what energy was measured with, or why it was not."""
        with self._write() as connection:
            connection.execute("UPDATE run SET meters_json = ? WHERE id = ?", (canonical_json(facts), run_id))

    def set_baseline(self, run_id: str, baseline_rss_bytes: int | None) -> None:
        """Record the memory of the measuring process before it had a model."""
        with self._write() as connection:
            connection.execute(
                "UPDATE run SET baseline_rss_bytes = ? WHERE id = ?", (baseline_rss_bytes, run_id)
            )

    def set_anchor(self, run_id: str, anchor_id: str) -> None:
        """Record which run was visited between the visits of this one."""
        with self._write() as connection:
            connection.execute("UPDATE run SET anchor_id = ? WHERE id = ?", (anchor_id, run_id))

    def set_shape(self, artifact_id: str, shape: Mapping[str, Any]) -> None:
        """Record an artifact's weights by type, its layers and heads."""
        with self._write() as connection:
            connection.execute(
                "UPDATE artifact SET shape_json = ? WHERE id = ? AND shape_json IS NULL",
                (canonical_json(shape), artifact_id),
            )

    def shape(self, artifact_id: str) -> dict[str, Any] | None:
        """What `set_shape` recorded."""
        found = self.rows("SELECT shape_json FROM artifact WHERE id = ?", (artifact_id,))
        return json.loads(found[0]["shape_json"]) if found and found[0]["shape_json"] else None

    def set_limits(
        self,
        *,
        device_id: str,
        environment_id: str,
        n_threads: int,
        facts: Mapping[str, Any],
        evidence: Evidence,
    ) -> None:
        """Record what a device can do at most, in place of what was known."""
        row = {
            "device_id": device_id,
            "environment_id": environment_id,
            "n_threads": n_threads,
            "facts_json": canonical_json(facts),
            "evidence": evidence,
            "measured_at": now(),
        }
        with self._write() as connection:
            connection.execute(
                "DELETE FROM device_limit WHERE device_id = ? AND environment_id = ? AND n_threads = ?",
                (device_id, environment_id, n_threads),
            )
            insert(connection, "device_limit", row)

    def limits(self, *, device_id: str, environment_id: str, n_threads: int) -> dict[str, Any] | None:
        """What `set_limits` recorded."""
        found = self.rows(
            "SELECT facts_json FROM device_limit"
            " WHERE device_id = ? AND environment_id = ? AND n_threads = ?",
            (device_id, environment_id, n_threads),
        )
        return dict(json.loads(found[0]["facts_json"])) if found else None

    def set_predictions(self, run_id: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Record what was predicted before a run; the first word stands."""
        with self._write() as connection:
            for row in rows:
                insert(connection, "prediction", {**row, "run_id": run_id}, keep=True)

    def predictions(self, run_id: str) -> list[dict[str, Any]]:
        """What was predicted: test, metric, value, ci_low, ci_high, basis."""
        return self.rows("SELECT * FROM prediction WHERE run_id = ? ORDER BY test, metric", (run_id,))
