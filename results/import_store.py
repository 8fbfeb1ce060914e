"""Runs of other programs in the database: stored whole or not at all, each once, and never ranked.

Somebody measured them, but not this program on this device: their evidence is `replayed`. What can't be
worked out from raw rows (a figure whose samples the file does not have) is kept in the run's `engine_json`,
and put among the figures again whenever summaries are made anew.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgebench import __version__
from edgebench.core.hashing import canonical_json, sha256_json
from edgebench.core.types import Evidence, Format, Mode, Status
from edgebench.results.database import insert
from edgebench.results.records import now
from edgebench.results.store import Store
from edgebench.results.summary import summarise

PROTOCOL = "imported"
"""The protocol of an imported run, as its configuration names it."""
_IS_IMPORTED = """CASE WHEN json_valid(config_json) AND json_valid(coalesce(engine_json, '{}'))
  THEN json_extract(config_json, '$.protocol') END = ?1"""
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LEVEL = re.compile(
    r"[-_. ]((?:ud-)?(?:i?q\d(?:_[a-z0-9]+)*|tq\d_\d|mxfp4|f16|f32|bf16|fp16|fp32|int8|int4))$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure that only the file itself tells."""

    test: str
    metric: str
    statistic: str
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSuite:
    """What a file tells of the questions."""

    name: str
    version: str
    sha256: str
    n_questions: int
    medical: bool

    @property
    def id(self) -> str:
        """Told apart from this program's own suite of the same name: its prompts may differ."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRun:
    """One run as a file tells it."""

    mode: Mode
    tool: str
    tool_version: str
    model: str
    level: str
    format: Format
    size_bytes: int
    n_params: int | None = None
    device: str
    """The processor or board, as the file names it."""
    memory_bytes: int | None = None
    os: str | None = None
    started_at: str | None
    records: tuple[str, ...]
    """sha256 of each record of the file that went into it: what is known already is not taken again."""
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the program said of itself."""
    trials: tuple[Mapping[str, Any], ...] = ()
    figures: tuple[Figure, ...] = ()
    suite: ImportedSuite | None = None

    @property
    def id(self) -> str:
        """From the content: the same file in two databases is one run when they are merged."""
        digest = sha256_json([self.tool, *self.records])
        stamp_ms = int(datetime.fromisoformat(self.started_at).timestamp() * 1000) if self.started_at else 0
        number = (stamp_ms << 80) | int(digest[:20], 16)
        return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))

    @property
    def artifact_id(self) -> str:
        """Stands for the file's hash, which nobody told."""
        return sha256_json([self.tool, self.model, self.level, self.size_bytes, self.n_params])

    @property
    def device_id(self) -> str:
        """Told apart from every device of this program's own."""
        return "imported-" + (re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")[:60] or "unknown")


def known_records(store: Store) -> set[str]:
    """The records of all imports before."""
    rows = store.rows(f"SELECT config_json FROM run WHERE {_IS_IMPORTED}", (PROTOCOL,))  # noqa: S608
    return {record for row in rows for record in json.loads(row["config_json"]).get("records", ())}


def keep_runs(store: Store, runs: Sequence[ImportedRun], source: Path, file_sha256: str) -> list[str]:
    """Store all of these runs in one transaction; their ids."""
    with store.transaction() as connection:
        for run in runs:
            for table, row in _context(run):
                insert(connection, table, row, keep=True)
            insert(connection, "run", _run_row(run, source, file_sha256))
            for trial in run.trials:
                insert(connection, "trial", {**trial, "run_id": run.id})
    for run in runs:
        summarise(store, run.id)
        add_told_figures(store, run.id)
    return [run.id for run in runs]


def add_told_figures(store: Store, run_id: str | None = None) -> None:
    """Put the figures that only a file told among those of one imported run, or of all."""
    sql = f"SELECT id, engine_json FROM run WHERE {_IS_IMPORTED} AND (?2 IS NULL OR id = ?2)"  # noqa: S608
    found = store.rows(sql, (PROTOCOL, run_id))
    with store.transaction() as connection:
        for row in found:
            for figure in json.loads(row["engine_json"] or "{}").get("figures", ()):
                # By our own names: a merged run's JSON is a stranger's.
                kept = {name: figure.get(name) for name in Figure.__slots__}
                insert(connection, "summary", {**kept, "run_id": row["id"]}, keep=True)


def split_level(name: str) -> tuple[str, str]:
    """(model, level) of a file's name: `Tiny-1B-Q4_K_M.gguf` is Tiny-1B at q4_k_m."""
    name = name.removesuffix(".gguf")
    found = _LEVEL.search(name)
    return (name[: found.start()], found[1].lower()) if found and found.start() else (name, "unknown")


def utc(text: str | None) -> str | None:
    """A date and time as the database writes it; None for what is none."""
    try:
        moment = datetime.fromisoformat(text or "")
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    if not 2000 <= moment.year < 2100:  # a run's id holds the moment
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _context(run: ImportedRun) -> list[tuple[str, dict[str, object]]]:
    """The rows that a run refers to."""
    profile = {"id": run.device_id, "name": run.device, "kind": PROTOCOL, "facts": {"told_by": run.tool}}
    facts = {"os": run.os, "cpu": run.device, "told_by": run.tool}
    rows: list[tuple[str, dict[str, object]]] = [
        ("model", {"id": run.model, "name": run.model, "n_params": run.n_params, "source": PROTOCOL}),
        (
            "artifact",
            {
                "id": run.artifact_id,
                "model_id": run.model,
                "format": run.format,
                "quant": run.level,
                "bits_per_weight": 8 * run.size_bytes / run.n_params if run.n_params else None,
                "size_bytes": run.size_bytes,
                "tool": run.tool,
                "tool_version": run.tool_version,
                "created_at": now(),
                "n_params": run.n_params,
                "manifest_json": canonical_json({"sha256": None, "told_by": run.tool}),
            },
        ),
        (
            "device",
            {
                **{key: profile[key] for key in ("id", "name", "kind")},
                "soc": run.device,
                "memory_bytes": run.memory_bytes,
                "profile_sha256": sha256_json(profile),
                "profile_json": canonical_json(profile),
            },
        ),
        (
            "environment",
            {
                "id": sha256_json(facts)[:16],
                "os": run.os or "not told",
                "cpu": run.device,
                "facts_json": canonical_json(facts),
            },
        ),
    ]
    if run.suite is not None:
        suite = {name: getattr(run.suite, name) for name in ("id", "name", "version", "sha256", "medical")}
        rows.append(("suite", {**suite, "n_questions": run.suite.n_questions}))
    return rows


def _run_row(run: ImportedRun, source: Path, file_sha256: str) -> dict[str, object]:
    context = dict(_context(run))
    config = {
        **run.config,
        "protocol": PROTOCOL,
        "mode": run.mode.value,
        "records": list(run.records),
        "imported": {"file": source.name, "sha256": file_sha256, "tool": run.tool, "at": now()},
    }
    figures = [{name: getattr(one, name) for name in Figure.__slots__} for one in run.figures]
    return {
        "id": run.id,
        "mode": run.mode,
        "status": Status.COMPLETE,
        "evidence": Evidence.REPLAYED,
        "artifact_id": run.artifact_id,
        "device_id": run.device_id,
        "environment_id": context["environment"]["id"],
        "suite_id": run.suite.id if run.suite else None,
        "runner": run.tool,
        "runner_version": run.tool_version,
        "config_sha256": sha256_json([PROTOCOL, run.tool, *run.records]),
        "config_json": canonical_json(config),
        "seed": 0,
        "scorer": run.tool if run.suite else None,
        "timing_source": "engine",
        "engine_json": canonical_json({**run.facts, "figures": figures}),
        "command": shlex.join(["edgebench", "import", source.name]),
        "started_at": run.started_at or now(),
        "finished_at": run.started_at or now(),
        "edgebench_version": __version__,
    }
