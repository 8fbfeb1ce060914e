"""The table of levels: what each costs and gives, and how surely it differs from the widest one."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from edgebench.cli.output import Column, emit, remark
from edgebench.core.errors import UsageError
from edgebench.core.types import MEDICAL_NOTE, NO_METER
from edgebench.core.units import ABSENT, data_size, interval, share, significant


def show_runs(store: Any, run_ids: Sequence[Sequence[str]], output: str) -> None:
    """What a command measured: a table for each plan and suite, or all their rows as data.

    Never fails for what can't be compared: the runs are stored, and that is said instead.
    """
    tables: list[Sequence[Any]] = []
    for ids in run_ids:
        try:
            tables += _tables(store, ids)
        except UsageError as error:
            remark(f"no table: {error.message}")
    if tables:
        emit_levels(tables, output)
    elif output == "table":
        remark("nothing complete to show yet")
    else:
        emit([], [], output)


def _tables(store: Any, ids: Sequence[str]) -> list[Sequence[Any]]:
    """The comparisons of one plan: each model by each suite it was asked; speeds stand in each."""
    from edgebench.results.compare import by_quant

    runs = [run for run in store.runs() if run.id in ids and run.status == "complete"]
    speed = {run.id for run in runs if run.suite_id is None}
    asked = list(dict.fromkeys((run.suite_id, run.scorer) for run in reversed(runs) if run.suite_id))
    tables: list[Sequence[Any]] = []
    for model in dict.fromkeys(run.model for run in reversed(runs)):
        for suite in asked or [(None, None)]:
            only = speed | {run.id for run in runs if (run.suite_id, run.scorer) == suite}
            tables.append(by_quant(store, model=model, only=only).levels)
    return tables


def emit_levels(tables: Sequence[Sequence[Any]], output: str) -> None:
    """Print tables of levels, with what their columns mean on stderr."""
    if output in ("json", "jsonl", "csv"):
        emit([_level_dict(level) for levels in tables for level in levels], [], output)
    settings = [_settings(levels[0].row) for levels in tables]
    for levels, own in zip(tables, settings, strict=True):
        warn_of_settings([level.row for level in levels])
        if output in ("table", "md"):
            shown = [_level_dict(level) for level in levels]
            # What tells this table from the others of a sweep.
            told = [
                f"{key} {value}" for key, value in own.items() if any(s.get(key) != value for s in settings)
            ]
            emit(shown, _columns(shown), output, ", ".join([_title(levels[0].row), *told]))
    if output in ("table", "md"):
        _legend([level for levels in tables for level in levels])


def _title(row: Any) -> str:
    return f"{row.model} on {row.device_id}" + (f", {row.suite_id} by {row.scorer}" if row.suite_id else "")


def _settings(row: Any) -> dict[str, Any]:
    """What the engine was told."""
    return dict((row.performance or row.accuracy).config["settings"])


def _columns(shown: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns these rows have something in; every rate that was measured has one."""
    tests = dict.fromkeys(test["test"] for row in shown for test in row["tests"])
    n_asked = {row["acc"]["n"] for row in shown if row["acc"]}
    columns = [
        Column("level", "level"),
        Column("size_bytes", "size", data_size, right=True),
        Column("bits_per_weight", "bits/w", significant, right=True),
        *(Column("tests", f"{test} t/s", partial(_rate, test), right=True) for test in tests),
        Column("ttft_s", "TTFT", _with_interval_s, right=True),
        Column("peak_rss_bytes", "peak memory", _value_size, right=True),
        Column("acc", "acc [95 %]", _accuracy_with_n if len(n_asked) > 1 else _accuracy, right=True),
        Column("flips", "lost/won", _flips, right=True),
        Column("p_holm", "p", significant, right=True),
        Column("noise_floor", "noise floor", _noise, right=True),
        Column("verdict", "verdict"),
        Column("n_flagged", "noisy", right=True),
        Column("n_outliers", "outliers", right=True),
    ]
    return [column for column in columns if any(row[column.key] for row in shown)]


def _rate(test: str, rates: Sequence[dict[str, Any]]) -> str:
    for rate in rates:
        if rate["test"] == test:
            return f"{significant(rate['value'])}\n{interval(rate['ci_low'], rate['ci_high'])}"
    return ABSENT


def warn_of_settings(rows: Sequence[Any]) -> None:
    """Say so when the levels of a table were not measured alike."""
    from edgebench.results.levels import settings_that_differ

    if names := settings_that_differ(rows):
        remark(
            f"warning: speeds were measured under different settings ({', '.join(names)}); not a fair table"
        )


def _legend(levels: Sequence[Any]) -> None:
    rows = [level.row for level in levels]
    remark("t/s, TTFT: median [95 % interval]; bits/w: effective, read back from the file; energy: no meter")
    if any(level.flips for level in levels):
        remark("lost/won: right in the baseline, wrong here / the reverse; p: McNemar, Holm over the table")
    if any(level.noise for level in levels):
        remark("noise floor: flips of the file against itself when each question is scored alone")
    for label, n_fallback in dict.fromkeys((row.label, row.n_fallback) for row in rows if row.n_fallback):
        remark(
            f"{label}: not what its name says: 256 does not divide the rows of {n_fallback} tensors,"
            " and llama.cpp gave them other types"
        )
    if any(row.n_flagged for row in rows):
        remark("noisy: repetitions disturbed by other programs or an unsteady host; quieten it and run again")
    if any(row.n_outliers for row in rows):
        remark("outliers: repetitions outside 1.5 interquartile ranges; counted, never dropped")
    if any(row.medical for row in rows):
        remark(MEDICAL_NOTE)
    if any(row.evidence != "measured" for row in rows):
        remark("some figures are not measured (see evidence in -o json); they never rank")


def _level_dict(level: Any) -> dict[str, Any]:
    row = level.row
    figures = {name: asdict(value) for name, value in row.figures.items()}
    exact = {
        key: figures.pop(key)["value"] if key in figures else None
        for key in ("size_bytes", "bits_per_weight")
    }
    return {
        "model": row.model,
        "level": row.label,
        "artifact_sha256": row.artifact_id,
        "size_bytes": None if exact["size_bytes"] is None else int(exact["size_bytes"]),
        "bits_per_weight": exact["bits_per_weight"],
        **{
            key: figures.get(key)
            for key in ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s", "tpot_s")
        },
        **{key: figures.get(key) for key in ("peak_rss_bytes", "load_s", "acc")},
        "energy_j_per_token": None,
        "energy_reason": NO_METER,
        "flips": None
        if level.flips is None
        else {**asdict(level.flips), "difference": difference(level.flips)},
        "p_holm": level.p_holm,
        "noise_floor": None if level.noise is None else asdict(level.noise),
        "noise_floor_reason": level.noise_reason,
        "verdict": level.verdict,
        "tests": [
            {"test": test, "metric": metric, **asdict(estimate)}
            for (test, metric), estimate in sorted(row.tests.items(), key=_pp_before_tg)
        ],
        "settings": _settings(row),
        "n_flagged": row.n_flagged,
        "n_outliers": row.n_outliers,
        "n_fallback": row.n_fallback,
        "prefill_test": row.prefill_test,
        "decode_test": row.decode_test,
        "chat_test": row.chat_test,
        "suite": row.suite_id,
        "scorer": row.scorer,
        "device": row.device_id,
        "evidence": row.evidence.value,
        "runs": {
            "performance": row.performance.id if row.performance else None,
            "accuracy": row.accuracy.id if row.accuracy else None,
            "noise_floor": row.alone.id if row.alone else None,
        },
    }


def difference(flips: Any) -> dict[str, Any] | None:
    """The paired difference of two accuracies as data; None without shared questions."""
    return None if flips.difference is None else asdict(flips.difference)


def _pp_before_tg(item: tuple[tuple[str, str], Any]) -> tuple[bool, int, str]:
    """pp before tg, short tests before long ones: pp128, pp512, tg128."""
    (test, metric), _ = item
    return metric != "prefill_tokens_per_s", len(test), test


def _with_interval_s(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    bounds = "–" if low is None else f"[{significant(low * 1e3)}, {significant(high * 1e3)}]"
    return f"{significant(estimate['value'] * 1e3)} ms\n{bounds}"


def _value_size(estimate: dict[str, Any]) -> str:
    return data_size(estimate["value"])


def _accuracy(estimate: dict[str, Any]) -> str:
    return f"{share(estimate['value'])}\n[{share(estimate['ci_low'])}, {share(estimate['ci_high'])}]"


def _accuracy_with_n(estimate: dict[str, Any]) -> str:
    return f"{_accuracy(estimate)} n={estimate['n']}"


def _flips(flips: dict[str, Any]) -> str:
    return f"{flips['n_lost']}/{flips['n_won']}\nof {flips['n']}"


def _noise(noise: dict[str, Any]) -> str:
    return f"{noise['n_lost'] + noise['n_won']}\nof {noise['n']}"
