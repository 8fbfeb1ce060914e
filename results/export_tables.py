"""Plain tables of what the database holds, for any program: CSV, and Parquet where pyarrow is there.

No question text, no model output, no key; of suites whose key is not public no correctness either.
"""
# ruff: noqa: S608 - queries are put together of names of our own

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import MissingDependency
from edgebench.core.paths import atomic_path
from edgebench.results.export_runs import HAVE_OWN_KEY
from edgebench.results.records import RunRow
from edgebench.results.store import Store

_RUN = """run.id AS run_id, run.mode, run.status, run.invalid_reason, run.evidence, run.started_at,
  artifact.model_id AS model, artifact.quant AS level, artifact.format, run.artifact_id AS artifact_sha256,
  artifact.size_bytes, artifact.bits_per_weight, run.device_id AS device, run.runner, run.runner_version,
  run.suite_id AS suite, run.scorer"""
_GRADES = ("correct", "correct_norm", "correct_bytes")
_GRADED = ", ".join(
    f"CASE WHEN run.suite_id IN ({HAVE_OWN_KEY}) THEN NULL ELSE answer.{name} END AS {name}"
    for name in _GRADES
)
_FIGURES_OF_KEYS = f"""(run.suite_id IS NULL OR run.suite_id NOT IN ({HAVE_OWN_KEY})
  OR summary.metric GLOB 'share_choice_*' OR summary.metric GLOB 'energy_*')"""

TABLES = {
    "figures": f"""SELECT {_RUN}, summary.test, summary.metric, summary.statistic, summary.value,
        summary.ci_low, summary.ci_high, summary.n
      FROM summary JOIN run ON run.id = summary.run_id JOIN artifact ON artifact.id = run.artifact_id
      WHERE summary.run_id = ? AND {_FIGURES_OF_KEYS}
      ORDER BY summary.test, summary.metric, summary.statistic""",
    "trials": f"""SELECT {_RUN}, trial.test, trial.phase, trial.round_index, trial.process_index,
        trial.repetition, trial.n_prompt, trial.n_gen, trial.n_depth, trial.started_s, trial.load_s,
        trial.prefill_s, trial.ttft_s, trial.decode_s, trial.total_s, trial.energy_j, trial.energy_source,
        trial.energy_scope, trial.energy_evidence, trial.energy_reason, trial.peak_rss_bytes,
        trial.peak_vram_bytes, trial.temperature_start_c, trial.temperature_end_c, trial.flags_json
      FROM trial JOIN run ON run.id = trial.run_id JOIN artifact ON artifact.id = run.artifact_id
      WHERE trial.run_id = ? ORDER BY trial.id""",
    "answers": f"""SELECT {_RUN}, answer.question_id, answer.repeat, question.subject, question.n_choices,
        answer.choice_index, {_GRADED}, answer.n_prompt, answer.n_gen, answer.total_s
      FROM answer JOIN run ON run.id = answer.run_id JOIN artifact ON artifact.id = run.artifact_id
      LEFT JOIN question ON question.suite_id = run.suite_id AND question.id = answer.question_id
      WHERE answer.run_id = ? ORDER BY answer.question_id, answer.repeat""",
}
"""Name of a table -> how a run's rows of it are asked for. Evidence and status stand in every row."""


def table_rows(store: Store, runs: Sequence[RunRow], table: str) -> list[dict[str, Any]]:
    """The rows of one of `TABLES`, of these runs."""
    return [row for run in runs for row in store.rows(TABLES[table], (run.id,))]


def write_csv(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write rows as CSV; what is absent is an empty cell."""
    with atomic_path(out) as part, part.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write rows as Parquet; MissingDependency without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency(
            "--format parquet needs pyarrow", "pip install pyarrow, or take --format csv"
        ) from error
    with atomic_path(out) as part:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), part)
