"""The table of levels: what each costs and gives, and how surely it differs from the widest one."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgebench.cli.output import Column, emit, remark
from edgebench.core.units import data_size, interval, share, significant

MEDICAL_NOTE = "exam-style accuracy, not clinical safety; not a medical device"


def show_levels(store: Any, run_ids: Sequence[str], output: str) -> None:
    """The table after a run: every level just measured, and how it compares with the widest one."""
    from edgebench.results.compare import by_quant
    from edgebench.results.levels import level_rows

    rows = level_rows(store, only=run_ids)
    if not rows:
        if output == "table":
            remark("nothing complete to show yet")
        else:
            emit([], [], output)
        return
    comparisons: list[Any] = []
    for model in dict.fromkeys(row.model for row in rows):
        comparisons += by_quant(store, model=model, only=run_ids).levels
    emit_levels(comparisons, output)


def emit_levels(levels: Sequence[Any], output: str) -> None:
    """Print the table, with what its columns mean on stderr."""
    shown = [_level_dict(level) for level in levels]
    first = levels[0].row
    titles = {
        "prefill_tokens_per_s": first.prefill_test or "pp",
        "decode_tokens_per_s": first.decode_test or "tg",
    }
    columns = [
        *([Column("model", "model")] if len({row["model"] for row in shown}) > 1 else []),
        Column("level", "level"),
        Column("size_bytes", "size", data_size, right=True),
        Column("bits_per_weight", "bits/w", significant, right=True),
        *(_rate_column(key, f"{title} t/s") for key, title in titles.items()),
        Column("ttft_s", "TTFT", _with_interval_s, right=True),
        Column("peak_rss_bytes", "peak memory", _value_size, right=True),
        Column("acc", "acc [95 %]", _accuracy, right=True),
        Column("flips", "flips lost/won", _flips, right=True),
        Column("p_holm", "p", significant, right=True),
        Column("noise_floor", "noise floor", _noise, right=True),
        Column("verdict", "verdict"),
        *([Column("n_flagged", "noisy", right=True)] if any(row["n_flagged"] for row in shown) else []),
    ]
    used = [
        c
        for c in columns
        if c.key in ("level", "verdict") or any(row.get(c.key) is not None for row in shown)
    ]
    title = f"{first.model} on {first.device_id}" + (
        f", {first.suite_id} by {first.scorer}" if first.suite_id else ""
    )
    emit(shown, used, output, title)
    warn_of_settings([level.row for level in levels])
    if output == "table":
        _legend(shown, levels)


def warn_of_settings(rows: Sequence[Any]) -> None:
    """Say so when the levels of a table were not measured alike."""
    from edgebench.results.levels import settings_that_differ

    if names := settings_that_differ(rows):
        remark(
            f"warning: speeds were measured under different settings ({', '.join(names)}); not a fair table"
        )


def _legend(shown: Sequence[dict[str, Any]], levels: Sequence[Any]) -> None:
    remark("t/s, TTFT: median [95 % interval]; bits/w: effective, read back from the file; energy: no meter.")
    if any(row["flips"] for row in shown):
        remark("flips: right before, wrong now / the reverse; p: exact McNemar, Holm over the table")
    if any(row["noise_floor"] for row in shown):
        remark("noise floor: flips of the file against itself when each question is scored alone")
    for row in shown:
        if row["n_fallback"]:
            remark(
                f"{row['level']}: not what its name says: 256 does not divide the rows of"
                f" {row['n_fallback']} tensors, and llama.cpp gave them other types"
            )
    if any(row["n_flagged"] for row in shown):
        remark("noisy: repetitions disturbed by other programs or an unsteady host; quieten it and run again")
    if any(level.row.medical for level in levels):
        remark(MEDICAL_NOTE)
    if any(row["evidence"] != "measured" for row in shown):
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
        "energy_reason": "no_meter",
        "flips": None
        if level.flips is None
        else {**asdict(level.flips), "difference": difference(level.flips)},
        "p_holm": level.p_holm,
        "noise_floor": None if level.noise is None else asdict(level.noise),
        "verdict": level.verdict,
        "n_flagged": row.n_flagged,
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


def _rate_column(key: str, title: str) -> Column:
    return Column(
        key, title, lambda e: f"{significant(e['value'])} {interval(e['ci_low'], e['ci_high'])}", right=True
    )


def _with_interval_s(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    bounds = "–" if low is None else f"[{significant(low * 1e3)}, {significant(high * 1e3)}]"
    return f"{significant(estimate['value'] * 1e3)} ms {bounds}"


def _value_size(estimate: dict[str, Any]) -> str:
    return data_size(estimate["value"])


def _accuracy(estimate: dict[str, Any]) -> str:
    return f"{share(estimate['value'])} [{share(estimate['ci_low'])}, {share(estimate['ci_high'])}]"


def _flips(flips: dict[str, Any]) -> str:
    return f"{flips['n_lost']}/{flips['n_won']} of {flips['n']}"


def _noise(noise: dict[str, Any]) -> str:
    return f"{noise['n_lost'] + noise['n_won']} of {noise['n']}"
