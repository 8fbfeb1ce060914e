"""The tables of engines on the same weights: do they compute the same, and only then what they cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from edgebench.cli.flips import flip_rate, flips_dict, noise_dict, noise_told
from edgebench.cli.levels import ENERGIES
from edgebench.cli.output import Column, emit, remark
from edgebench.core.flags import MEMORY_DEFINITION
from edgebench.core.setting_flags import as_flags
from edgebench.core.units import ABSENT, data_size, duration, interval, significant

BASE = "base"
"""Stands where another engine's gate does."""
_SHOWN = ("n_threads", "flash_attn", "type_k", "type_v", "n_gpu_layers", "dtype", "provider", "gpu", "server")
"""Settings that stand in the tables; -o json has all."""
_COSTS = (
    ("ttft_s", "TTFT", duration),
    ("peak_rss_bytes", "peak memory", data_size),
    *((key, title, significant) for key, title in ENERGIES.items()),
)
"""Figure, how its column is called, how a value is shown."""
_ENGINES_OWN = frozenset({"runner", "runner_version"})
"""Conditions that differ between engines anyway."""
_N_GAPS = 3
"""Gaps of disagreements that a cell lists; -o json has all."""


def emit_engines(table: Any, output: str) -> None:
    """Print the parity of engines, then their costs; what the columns mean goes to stderr."""
    rows = [_engine_dict(engine, table.base) for engine in table.engines]
    if output in ("json", "jsonl", "csv"):
        emit(rows, [], output)
    else:
        shown = [_told(row) for row in rows]
        base = table.base.row
        on = f" on {base.device_id}" if len({row["device"] for row in rows}) > 1 else ""
        parity = f"{_what(base)}: parity with {base.engine} {base.label}{on}"
        emit(shown, _parity_columns(shown), output, parity)
        if any(row["runs"]["performance"] for row in rows):
            if output == "md":
                click.echo()
            emit(
                shown,
                _cost_columns(shown),
                output,
                f"{base.model}{on or f' on {base.device_id}'}: speed, memory, energy",
            )
    _legend(table, rows)


def _what(row: Any) -> str:
    from edgebench.results.levels import asking

    return ", ".join([row.model, *([asking(row.accuracy).title] if row.accuracy else [])])


def _engine_dict(engine: Any, base: Any) -> dict[str, Any]:
    row, found = engine.row, engine.parity
    return {
        "model": row.model,
        "engine": row.engine,
        "version": row.runs[0].runner_version,
        "level": row.label,
        "artifact_sha256": row.artifact_id,
        "base": engine is base,
        "parity": None if found is None else {**asdict(found), "gate": found.gate.value},
        "flips": flips_dict(engine.flips),
        "noise_floor": noise_dict(engine.noise),
        "base_noise_floor": noise_dict(base.noise),
        "accuracy_settings": row.accuracy and row.accuracy.settings,
        "performance_settings": row.performance and row.performance.settings,
        "tests": [
            {"test": test, "metric": metric, **asdict(estimate)}
            for (test, metric), estimate in sorted(row.tests.items())
        ],
        **{
            key: asdict(row.figures[key]) if key in row.figures else None
            for key in (row.headline, "ttft_s", "tpot_s", "load_s", "peak_rss_bytes", *ENERGIES)
        },
        **{f"energy_{key}": row.meter[key] for key in ("source", "scope", "method", "evidence", "reason")},
        "ratios": [
            {key: value for key, value in asdict(ratio).items() if key not in ("base", "new")}
            for ratio in engine.ratios
        ],
        "chat_test": row.chat_test,
        "flags": row.flags,
        "suite": row.suite_id,
        "scorer": row.scorer,
        "device": row.device_id,
        "evidence": row.evidence.value,
        "notes": list(row.notes),
        "runs": {
            "accuracy": row.accuracy and row.accuracy.id,
            "performance": row.performance and row.performance.id,
            "noise_floor": row.alone and row.alone.id,
        },
    }


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """An engine's row with what only a person reads."""
    found = row["parity"]
    return {
        **row,
        "costs": _costs(row),
        "gate": BASE if found is None else "\n".join([found["gate"], *found["reasons"]]),
        "agree": found and found["agree"],
        "largest": found and found["largest_nats"],
        "median": found and found["median_nats"],
        "gaps": found and found["disagreements"],
        "noise_told": noise_told(row["noise_floor"]) if row["runs"]["accuracy"] else None,
        "asked_with": _flags_told(row["accuracy_settings"]),
        "timed_with": _flags_told(row["performance_settings"]),
    }


def _parity_columns(shown: Sequence[Mapping[str, Any]]) -> list[Column]:
    columns = [
        *_device_column(shown),
        Column("engine", "engine"),
        Column("level", "level"),
        Column("gate", "parity"),
        Column("agree", "agree [95 %]", _agreement, right=True),
        Column("flips", "lost/won", flip_rate, right=True),
        Column("noise_told", "noise floor", right=True),
        Column("median", "log-prob diff.: median", _nats, right=True),
        Column("largest", "largest", _nats, right=True),
        Column("gaps", "gaps of disagreements", _gaps),
        Column("asked_with", "asked with"),
    ]
    return [column for column in columns if any(row[column.key] is not None for row in shown)]


def _cost_columns(shown: Sequence[Mapping[str, Any]]) -> list[Column]:
    """A column for every figure that some row has."""
    titles = dict.fromkeys(title for row in shown for title in row["costs"])
    columns = [
        *_device_column(shown),
        Column("engine", "engine"),
        Column("level", "level"),
        Column("gate", "parity", lambda text: text.partition("\n")[0]),
        *(Column("costs", title, partial(_cost, title), right=True) for title in titles),
        Column("timed_with", "timed with"),
        Column("flags", "flags", "\n".join),
    ]
    return [column for column in columns if any(row[column.key] for row in shown)]


def _device_column(shown: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Where there are several."""
    return [Column("device", "device")] if len({row["device"] for row in shown}) > 1 else []


def _costs(row: Mapping[str, Any]) -> dict[str, str]:
    """Title -> the figure, and how it stands to the base's."""
    ratios = {(ratio["test"], ratio["metric"]): ratio for ratio in row["ratios"]}
    cells = {
        f"{one['test']} t/s": _figure(one, significant, ratios.get((one["test"], one["metric"])))
        for one in row["tests"]
    }
    by_metric = {ratio["metric"]: ratio for ratio in row["ratios"]}
    by_metric["ttft_s"] = ratios.get((row["chat_test"], "ttft_s"))  # of several chats, the shown one
    for metric, title, show in _COSTS:
        if row[metric]:
            cells[title] = _figure(row[metric], show, by_metric.get(metric))
    return cells


def _figure(
    estimate: Mapping[str, Any], show: Callable[[float], str], ratio: Mapping[str, Any] | None
) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    bounds = [] if low is None else [f"[{show(low)}, {show(high)}]"]
    return "\n".join([" ".join([show(estimate["value"]), *bounds]), *_ratio_lines(ratio)])


def _ratio_lines(ratio: Mapping[str, Any] | None) -> list[str]:
    """`(1.30 × [1.27, 1.34], better)`; no number where the verdict is withheld."""
    from edgebench.results.engines import WITHHELD

    if ratio is None:
        return []
    if ratio["verdict"] == WITHHELD:
        return [f"({WITHHELD})"]
    of = ratio["ratio"]
    bounds = "" if of["ci_low"] is None else f" {interval(of['ci_low'], of['ci_high'])}"
    return [f"({significant(of['value'])} ×{bounds},", f"{ratio['verdict']})"]


def _cost(title: str, cells: Mapping[str, str]) -> str:
    return cells.get(title, ABSENT)


def _agreement(estimate: Mapping[str, Any]) -> str:
    """`1087 of 1089`, and the share's interval."""
    n = estimate["n"]
    low, high = (f"{100 * estimate[key]:.1f}" for key in ("ci_low", "ci_high"))
    return f"{round(n * estimate['value'])} of {n}\n{100 * estimate['value']:.1f} % [{low}, {high}]"


def _nats(value_nats: float) -> str:
    return f"{value_nats:.2g}"


def _gaps(disagreements: Sequence[Mapping[str, Any]]) -> str:
    """The widest gaps; in nats."""
    gaps = sorted((one["gap_nats"] for one in disagreements if one["gap_nats"] is not None), reverse=True)
    if not disagreements:
        return "no disagreement"
    told = ", ".join(map(_nats, gaps[:_N_GAPS])) or "not known"
    return told + (f", {len(gaps) - _N_GAPS} more" if len(gaps) > _N_GAPS else "")


def _flags_told(settings: Mapping[str, Any] | None) -> str | None:
    """Settings as run's flags; None of a run that is not there."""
    return None if settings is None else as_flags(settings, [name for name in _SHOWN if settings.get(name)])


def _legend(table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    from edgebench.results.levels import settings_that_differ
    from edgebench.results.parity import F32_LIMIT_NATS, LEAST_AGREE_SHARE, ROUNDED_GAP_LIMIT_NATS

    f32, other = F32_LIMIT_NATS, ROUNDED_GAP_LIMIT_NATS
    remark(
        f"parity: PASS where {100 * LEAST_AGREE_SHARE:g} % of the answers agree and, where they don't,"
        f" the best two are closer than {f32:g} nat in f32, {other:g} elsewhere; in f32, log-probabilities"
        f" may differ by {f32:g} nat; elsewhere they are only shown"
    )
    if any(row["parity"] and not row["parity"]["in_f32"] for row in rows):
        remark("in f32: weights in f32, asked with -fa off -ctk f32 -ctv f32 on a CPU, in both engines")
    remark(
        "lost/won: right in the base, wrong here / the reverse; noise floor: flips of an engine against"
        " itself when each question is scored alone (edgebench run --noise-floor)"
    )
    timed = [engine.row for engine in table.engines if engine.row.performance]
    if timed:
        remark("×: this engine's figure over the base's; parity not shown: it may not do the same work")
        unequal = [name for name in settings_that_differ(timed) if name not in _ENGINES_OWN]
        if unequal:
            remark(f"warning: costs were measured under different conditions: {', '.join(unequal)}")
        remark(MEMORY_DEFINITION)
    for reason in sorted({row["energy_reason"] for row in rows if row["energy_reason"]} if timed else ()):
        remark(f"energy: not measured ({reason})")
    for named, why in table.left_out:
        remark(f"left out: {named} ({why})")
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        remark(note)
    if any(row["evidence"] != "measured" for row in rows):
        remark("some figures are not measured (see evidence in -o json); they never rank")
