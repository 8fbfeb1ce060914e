"""What a row of the database is made of: core's nouns as columns, and a run as an object."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from edgebench.core.hashing import canonical_json, sha256_json
from edgebench.core.types import (
    Artifact,
    DeviceProfile,
    Environment,
    Evidence,
    Format,
    Mode,
    Status,
    Suite,
    level_label,
)

TUNE = "tune"
"""The protocol of a trial of `tune`, as its configuration names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A row of `run`, with what names its artifact."""

    id: str
    mode: Mode
    status: Status
    invalid_reason: str | None
    evidence: Evidence
    artifact_id: str
    device_id: str
    environment_id: str
    suite_id: str | None
    runner: str
    runner_version: str
    config_sha256: str
    config_json: str
    seed: int
    started_at: str
    finished_at: str | None
    edgebench_version: str
    git_commit: str | None
    git_dirty: int | None
    scorer: str | None
    scheme_sha256: str | None
    timing_source: str
    engine_json: str | None
    command: str | None
    flags_json: str
    baseline_rss_bytes: int | None
    anchor_id: str | None
    meters_json: str | None
    model: str
    format: Format
    quant: str
    parent_quant: str | None
    bits_per_weight: float | None
    size_bytes: int
    n_fallback: int

    @property
    def label(self) -> str:
        """`q8_0`, or `q8_0 (from q4_1)` when the weights had been quantized before."""
        return level_label(self.quant, self.parent_quant)

    @property
    def config(self) -> dict[str, Any]:
        """The plan this run followed."""
        return dict(json.loads(self.config_json))

    @property
    def settings(self) -> dict[str, Any]:
        """What the engine was told."""
        return dict(self.config.get("settings", {}))

    @property
    def is_tuning(self) -> bool:
        """Whether it was a trial of `tune`: it never stands for its file in a table of levels."""
        return self.config.get("protocol") == TUNE

    @property
    def meter_accuracy(self) -> float | None:
        """The documented relative error of the meter that energy figures come from; None: not known."""
        told = json.loads(self.meters_json) if self.meters_json else {"headline": None, "meters": []}
        return next((m["accuracy"] for m in told["meters"] if m["source"] == told["headline"]), None)

    @property
    def flags(self) -> list[str]:
        """What a person should know of the whole run: `not_steady`, `throttled`, and more."""
        return list(json.loads(self.flags_json))

    @property
    def shape(self) -> str | None:
        """Of an accuracy run: whether questions were scored `grouped` or `alone`."""
        return self.config.get("shape")


def run_row(row: Mapping[str, Any]) -> RunRow:
    """The run a database row tells of."""
    closed = {
        "mode": Mode(row["mode"]),
        "status": Status(row["status"]),
        "evidence": Evidence(row["evidence"]),
        "format": Format(row["format"]),
    }
    return RunRow(**{**row, **closed})


def model_row(artifact: Artifact) -> dict[str, object]:
    """The row of `model` an artifact belongs to."""
    return {
        "id": artifact.model,
        "name": artifact.model,
        "family": artifact.family,
        "n_params": artifact.n_params,
        "source": artifact.source,
        "license": artifact.license,
    }


def artifact_row(artifact: Artifact, manifest: Mapping[str, Any]) -> dict[str, object]:
    """The row of `artifact`, but for `parent_id`: only the database knows whether it has the parent."""
    # The parent's hash would be lost where the parent is not in this database.
    lineage = {"parent_sha256": artifact.parent_sha256} if artifact.parent_sha256 else {}
    return {
        "id": artifact.sha256,
        "model_id": artifact.model,
        "format": artifact.quant.format,
        "quant": artifact.quant.name,
        "bits_per_weight": artifact.quant.bits_per_weight,
        "size_bytes": artifact.size_bytes,
        "calibration_sha256": manifest.get("calibration_sha256"),
        "tool": artifact.tool,
        "tool_version": artifact.tool_version,
        "created_at": now(),
        "n_params": artifact.n_params,
        "parent_quant": artifact.parent_quant,
        "manifest_json": canonical_json({**lineage, **manifest}),
    }


def device_row(device: DeviceProfile) -> dict[str, object]:
    """The row of `device`; the whole profile is kept as JSON."""
    profile = asdict(device)
    return {
        **{column: profile[column] for column in ("id", "name", "kind", "soc", "memory_bytes")},
        "profile_sha256": sha256_json(profile),
        "profile_json": canonical_json(profile),
    }


def environment_row(environment: Environment) -> dict[str, object]:
    """The row of `environment`."""
    row = asdict(environment)
    row["facts_json"] = canonical_json(row.pop("facts"))
    return row


def suite_row(suite: Suite) -> dict[str, object]:
    """The row of `suite`."""
    return {
        "id": suite.id,
        "name": suite.name,
        "version": suite.version,
        "sha256": suite.sha256,
        "n_questions": len(suite.questions),
        "license": suite.license,
        "medical": suite.medical,
        "facts_json": canonical_json(
            {
                "categories": suite.categories,
                "slices": suite.slices,
                "headline": suite.headline,
                "label": suite.label,
                "key_sha256": suite.key_sha256,
            }
        ),
    }


def question_rows(suite: Suite) -> Iterator[dict[str, object]]:
    """The rows of `question`: everything but the text."""
    for question in suite.questions:
        yield {
            "suite_id": suite.id,
            "id": question.id,
            "subject": question.subject,
            "n_choices": len(question.choices),
            "answer_index": question.answer_index,
            "sha256": sha256_json([question.text, *question.choices]),
        }


def now() -> str:
    """This moment in UTC; microseconds keep two runs in a row apart."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
