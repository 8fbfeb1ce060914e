"""Predictions at work: what is known of other models on this device, said before a run, checked after it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from edgebench.core.prediction import Prediction
from edgebench.core.roofline import ModelShape
from edgebench.core.types import Artifact, Evidence, Format, Mode, Settings, Status, Workload
from edgebench.devices.limits import Limits
from edgebench.devices.local import local_device, local_environment
from edgebench.results.performance_summary import WHOLE_RUN
from edgebench.results.store import Store
from edgebench.session_cell import Cell
from edgebench.session_fit import Fit, Measured, fit_model, predict
from edgebench.session_limits import Say
from edgebench.session_models import check_levels, peek_level, resolve
from edgebench.session_plan import Plan

_TESTS = """
  SELECT trial.test, n_prompt, n_gen, n_depth, max(trial.peak_rss_bytes) AS peak_rss_bytes,
    (SELECT value FROM summary WHERE summary.run_id = trial.run_id AND summary.test = trial.test
       AND metric IN ('prefill_tokens_per_s','decode_tokens_per_s') AND statistic = 'median') AS tokens_per_s,
    (SELECT value FROM summary WHERE summary.run_id = trial.run_id AND summary.test = trial.test
       AND metric IN ('energy_j_per_token','energy_j_per_prompt_token')) AS energy_j_per_token,
    (SELECT scope FROM energy_window w WHERE w.run_id = trial.run_id AND headline AND energy_j IS NOT NULL
       LIMIT 1) AS scope
  FROM trial WHERE run_id = ? AND phase = 'measured' AND test NOT GLOB 'chat*' AND test NOT GLOB 'sustained*'
  GROUP BY trial.test"""


def known_measurements(store: Store, *, device_id: str, environment_id: str) -> list[Measured]:
    """Every measured test of a file whose shape is stored, on this device in this environment."""
    found: list[Measured] = []
    for run in store.runs(mode=Mode.PERFORMANCE, status=Status.COMPLETE):
        here = (run.device_id, run.environment_id) == (device_id, environment_id)
        shape = _stored_shape(store, run.artifact_id)
        settings = Settings(**run.config["settings"])
        if shape is None or not here or settings.on_gpu or run.evidence is not Evidence.MEASURED:
            continue  # a GPU's speeds follow from its own limits, which nobody measured
        found += [
            Measured(
                sha256=run.artifact_id,
                model=run.model,
                shape=shape,
                settings=settings,
                workload=Workload(n_prompt=row["n_prompt"], n_gen=row["n_gen"], n_depth=row["n_depth"]),
                tokens_per_s=row["tokens_per_s"],
                peak_rss_bytes=row["peak_rss_bytes"],
                baseline_rss_bytes=run.baseline_rss_bytes,
                energy_j_per_token=row["energy_j_per_token"],
                energy_scope=row["scope"],
            )
            for row in store.rows(_TESTS, (run.id,))
        ]
    return found


def _stored_shape(store: Store, artifact_id: str) -> ModelShape | None:
    told = store.shape(artifact_id)
    return None if told is None else ModelShape.from_facts(told)


def predict_cell(cell: Cell, plan: Plan, store: Store) -> None:
    """Say before a run what is expected of it; stored once, from what was known of other files then."""
    shape = _stored_shape(store, cell.artifact.sha256)
    limits = store.limits(
        device_id=plan.device.id, environment_id=plan.environment.id, n_threads=plan.settings.n_threads
    )
    if shape is None or plan.settings.on_gpu or cell.artifact.quant.format is not Format.GGUF:
        return
    others = [
        row
        for row in known_measurements(store, device_id=plan.device.id, environment_id=plan.environment.id)
        if row.sha256 != cell.artifact.sha256
    ]
    unknown = Limits(n_threads=plan.settings.n_threads, reason="the device's limits are not known")
    known = Limits(**{name: limits[name] for name in Limits.__dataclass_fields__}) if limits else unknown
    rows: list[dict[str, object]] = []
    peaks: list[Prediction] = []
    for workload in cell.job.workloads:
        if workload.chat or workload.sustained_s:
            continue
        fit = predict(
            shape,
            others,
            settings=plan.settings,
            limits=known,
            n_prompt=workload.n_prompt,
            n_gen=workload.n_gen,
            n_depth=workload.n_depth,
        )
        peaks.append(fit.peak)
        rows += _rows(workload, fit)
    if told := [peak for peak in peaks if peak.value is not None]:
        rows.append(_row(WHOLE_RUN, "peak_rss_bytes", max(told, key=lambda peak: peak.value or 0.0)))
    store.set_predictions(cell.run_id, [row for row in rows if row["value"] is not None])


def _rows(workload: Workload, fit: Fit) -> Iterator[dict[str, object]]:
    if workload.n_prompt and not workload.n_gen:
        yield _row(workload.name, "prefill_tokens_per_s", fit.prefill)
        yield _row(workload.name, "energy_j_per_prompt_token", fit.prefill_energy)
    if workload.n_gen and not workload.n_prompt:
        yield _row(workload.name, "decode_tokens_per_s", fit.decode)
        yield _row(workload.name, "energy_j_per_token", fit.decode_energy)


def _row(test: str, metric: str, prediction: Prediction) -> dict[str, object]:
    return {
        "test": test,
        "metric": metric,
        "value": prediction.value,
        "ci_low": prediction.ci_low,
        "ci_high": prediction.ci_high,
        "basis": prediction.basis,
    }


def fit_rows(
    model: str,
    levels: tuple[str, ...],
    store: Store | None,
    settings: Settings,
    *,
    n_prompt: int,
    n_gen: int,
    n_depth: int,
    say: Say,
) -> list[dict[str, Any]]:
    """`devices fit`: a row for the model's file, or for each of its levels that is made already.

    Raises ModelError or UsageError for what is no GGUF model.
    """
    check_levels(levels)
    device = local_device()
    rows = []
    if store is not None:
        rows = known_measurements(store, device_id=device.id, environment_id=local_environment().id)
    parent = resolve(model, say)
    found = []
    for artifact in _files(parent, levels, say):
        fit = fit_model(
            str(artifact.path),
            rows,
            settings=settings,
            say=say,
            n_prompt=n_prompt,
            n_gen=n_gen,
            n_depth=n_depth,
        )
        found.append(_told(artifact, fit, device.memory_bytes))
    return found


def _files(parent: Artifact, levels: tuple[str, ...], say: Say) -> Iterator[Artifact]:
    if not levels:
        yield parent
    for level in levels:
        artifact = peek_level(parent, level)
        if artifact is None:
            say(f"{level} of {parent.model} is not made yet: edgebench quantize {parent.model} --to {level}")
        else:
            yield artifact


def _told(artifact: Artifact, fit: Fit, memory_bytes: int | None) -> dict[str, Any]:
    parts = fit.parts
    return {
        "model": artifact.model,
        "level": artifact.label,
        "artifact_sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "peak_rss_bytes": _figure(fit.peak),
        "memory_parts": asdict(parts) if parts else None,
        "fits": None if fit.peak.value is None or memory_bytes is None else fit.peak.value < memory_bytes,
        "prefill_tokens_per_s": _figure(fit.prefill),
        "decode_tokens_per_s": _figure(fit.decode),
        "ttft_s": _figure(fit.ttft),
        "prefill_energy_j_per_token": _figure(fit.prefill_energy),
        "energy_j_per_token": _figure(fit.decode_energy),
    }


def _figure(prediction: Prediction) -> dict[str, Any]:
    return {
        "value": prediction.value,
        "ci_low": prediction.ci_low,
        "ci_high": prediction.ci_high,
        "basis": prediction.basis,
        "evidence": prediction.evidence.value,
    }
