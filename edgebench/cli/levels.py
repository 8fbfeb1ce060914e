"""The table of levels: what each costs and gives, and how surely it differs from the widest one."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from edgebench.cli.flips import (
    explain,
    flip_rate,
    flips_dict,
    margin_told,
    noise_dict,
    noise_told,
    p_told,
    points,
    signed,
    verdict_told,
)
from edgebench.cli.output import Column, emit, remark
from edgebench.core.errors import UsageError
from edgebench.core.flags import FLAG_WORDS, MEMORY_DEFINITION
from edgebench.core.setting_flags import as_flags, names_that_differ
from edgebench.core.units import ABSENT, data_size, interval, share, significant

HEADLINE_SHORT = {"acc_mean_of_subjects": "acc, mean of subjects", "macro_f1": "macro-F1"}
"""How a table's column is called where the suite is not known by `acc`."""


ENERGIES = {
    "energy_j_per_token": "J/token",
    "energy_j_per_prompt_token": "J/prompt token",
    "energy_j_per_request": "J/request",
    "energy_j_per_question": "J/question",
    "energy_j_per_correct": "J/correct answer",
    "battery_percent_per_1k_tokens": "battery % per 1000 tokens",
    "questions_per_charge": "questions per charge",
}
"""Energy figures and how their columns are called."""


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
    from edgebench.results.levels import Asking, asking

    runs = [run for run in store.runs() if run.id in ids and run.status == "complete"]
    speed = {run.id for run in runs if run.suite_id is None}
    ways = list(dict.fromkeys(asking(run) for run in reversed(runs) if run.suite_id))
    tables: list[Sequence[Any]] = []
    for model in dict.fromkeys(run.model for run in reversed(runs)):
        for way in ways or [Asking()]:
            only = speed | {run.id for run in runs if run.suite_id and asking(run) == way}
            tables.append(by_quant(store, model=model, only=only).levels)
    return tables


def emit_levels(tables: Sequence[Sequence[Any]], output: str, margin: float | None = None) -> None:
    """Print tables of levels, with what their columns mean on stderr."""
    if output in ("json", "jsonl", "csv"):
        emit([_level_dict(level, margin) for levels in tables for level in levels], [], output)
    titled: dict[str, list[Any]] = {}
    for levels in tables:
        warn_of_settings([level.row for level in levels])
        titled.setdefault(_title(levels[0].row), []).extend(levels)
    if output in ("table", "md"):
        # What tells the combinations of a sweep apart; levels of one are compared among themselves.
        names = names_that_differ([_settings(levels[0].row) for levels in tables])
        for title, levels in titled.items():
            shown = [_told(_level_dict(level, margin), names) for level in levels]
            emit(shown, _columns(shown, margin), output, title)
        _legend([level for levels in tables for level in levels])


def _title(row: Any) -> str:
    from edgebench.results.levels import asking

    what = [asking(row.accuracy).title] if row.accuracy else []
    return ", ".join([f"{row.model} on {row.device_id}", *what])


def _settings(row: Any) -> dict[str, Any]:
    """What the engine was told."""
    return dict((row.performance or row.accuracy).config.get("settings", {}))


def _columns(shown: Sequence[dict[str, Any]], margin: float | None) -> list[Column]:
    """The columns these rows have something in; every rate that was measured has one."""
    tests = dict.fromkeys(test["test"] for row in shown for test in row["tests"])
    n_asked = {row["headline"]["n"] for row in shown if row["headline"]}
    headline = next((row["headline"]["metric"] for row in shown if row["headline"]), "acc")
    keyless = any(row["verdict"] == "no key" for row in shown)
    columns = [
        Column("level", "level"),
        Column("settings_told", "settings"),
        Column("size_bytes", "size", data_size, right=True),
        Column("bits_per_weight", "bits/w", significant, right=True),
        *(Column("tests", f"{test} t/s", partial(_rate, test), right=True) for test in tests),
        Column("ttft_s", "TTFT", _with_interval_s, right=True),
        Column("peak_rss_bytes", "peak memory", _value_size, right=True),
        *(Column(key, title, _plain_interval, right=True) for key, title in ENERGIES.items()),
        Column("mbu", "of bandwidth", _percent, right=True),
        Column(
            "headline",
            f"{HEADLINE_SHORT.get(headline, headline)} [95 %]",
            partial(_accuracy, with_n=len(n_asked) > 1),
            right=True,
        ),
        Column("difference", "difference", signed, right=True),
        Column("flips", "changed" if keyless else "lost/won", flip_rate, right=True),
        Column("noise_told", "noise floor", right=True),
        Column("p_holm", "p", p_told, right=True),
        Column("verdict_told", "verdict"),
        *([Column("margin_told", f"margin {points(margin)}")] if margin is not None else []),
        Column("n_flagged", "noisy", right=True),
        Column("flags", "flags", "\n".join),
        Column("n_outliers", "outliers", right=True),
    ]
    return [column for column in columns if any(row[column.key] for row in shown)]


def _told(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A level's row with what only a person reads; `names` are the settings it goes by."""
    flips = row["flips"]
    return {
        **row,
        "settings_told": as_flags(row["settings"], names),
        "difference": flips and flips["difference"],
        "noise_told": _floors(row) if row["runs"]["accuracy"] else None,
        "verdict_told": verdict_told(row["verdict"], flips),
        "margin_told": None if row["margin"] is None else margin_told(row["non_inferior"], row["margin"]),
    }


def _floors(row: dict[str, Any]) -> str:
    """The level's noise floor; another engine's baseline brings its own."""
    told = noise_told(row["noise_floor"])
    return f"{told}\nbase {noise_told(row['base_noise_floor'])}" if row["other_engine"] else told


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
    sizes = sorted({level.n_family for level in levels if level.n_family})
    remark("t/s, TTFT: median [95 % interval]; bits/w: effective, read back from the file")
    _explain_energy(rows)
    _explain_battery(rows)
    explain(
        [flips_dict(level.flips) for level in levels],
        [level.verdict for level in levels],
        f", Holm over {' and '.join(map(str, sizes))} comparison{'s' if sizes != [1] else ''}",
        noise_known=any(level.noise for level in levels),
    )
    if any(row.headline != "acc" and row.headline in row.figures for row in rows):
        remark("difference, p and margin: of the accuracy over all answers, not of the suite's headline")
    if any(level.other_engine for level in levels):
        remark("base …: the noise floor of the baseline, which another engine scored")
    for label, n_fallback in dict.fromkeys((row.label, row.n_fallback) for row in rows if row.n_fallback):
        remark(
            f"{label}: not what its name says: 256 does not divide the rows of {n_fallback} tensors,"
            " and llama.cpp gave them other types"
        )
    if any(row.n_flagged for row in rows):
        remark("noisy: repetitions disturbed by other programs or an unsteady host; quieten it and run again")
    if any(row.n_outliers for row in rows):
        remark("outliers: repetitions outside 1.5 interquartile ranges; counted, never dropped")
    for note in dict.fromkeys(note for row in rows for note in row.notes):
        remark(note)
    if any(row.evidence != "measured" for row in rows):
        remark("some figures are not measured (see evidence in -o json); they never rank")


def _explain_battery(rows: Sequence[Any]) -> None:
    if any(
        "battery_percent_per_1k_tokens" in row.figures or "questions_per_charge" in row.figures
        for row in rows
    ):
        remark(
            "battery: of what a full charge holds, by the charge counter over the level, times the voltage;"
            " the whole device's joules, as its battery tells them"
        )


def _explain_energy(rows: Sequence[Any]) -> None:
    """Where joules come from, or why there are none; what memory means; what flags say."""
    sources = {(r.meter["source"], r.meter["scope"]) for r in rows if not r.meter["reason"]}
    for source, scope in sorted(sources):
        remark(f"J: gross energy of {source}, scope {scope}; per unit of the test's work [95 % interval]")
    if any(row.performance for row in rows):
        for reason in sorted({str(r.meter["reason"]) for r in rows if r.meter["reason"]}):
            remark(f"energy: not measured ({reason})")
    if any("peak_rss_bytes" in row.figures for row in rows):
        remark(MEMORY_DEFINITION)
    if any("mbu" in row.figures for row in rows):
        remark("of bandwidth: bytes a token must read × tokens/s, as a share of the device's read bandwidth")
    for flag in dict.fromkeys(flag for row in rows for flag in row.flags):
        remark(f"{flag}: {FLAG_WORDS.get(flag, 'see docs/method.md')}")


def _level_dict(level: Any, margin: float | None) -> dict[str, Any]:
    row = level.row
    figures = {name: asdict(value) for name, value in row.figures.items()}
    headline = figures.get(row.headline)
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
        **{key: figures.get(key) for key in ENERGIES},
        **{f"energy_{key}": row.meter[key] for key in ("source", "scope", "method", "evidence", "reason")},
        **{key: figures.get(key) for key in ("mbu", "mfu")},
        "flags": row.flags,
        "headline": headline and {"metric": row.headline, **headline},
        "flips": flips_dict(level.flips),
        "p_holm": level.p_holm,
        "n_compared": level.n_family,
        "noise_floor": noise_dict(level.noise),
        "noise_floor_reason": level.noise_reason,
        "base_noise_floor": noise_dict(level.base_noise),
        "other_engine": level.other_engine,
        "verdict": level.verdict,
        "margin": margin,
        "non_inferior": level.non_inferior,
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
        "notes": list(row.notes),
        "runs": {
            "performance": row.performance.id if row.performance else None,
            "accuracy": row.accuracy.id if row.accuracy else None,
            "noise_floor": row.alone.id if row.alone else None,
        },
    }


def _pp_before_tg(item: tuple[tuple[str, str], Any]) -> tuple[bool, int, str]:
    """pp before tg, short tests before long ones: pp128, pp512, tg128."""
    (test, metric), _ = item
    return metric != "prefill_tokens_per_s", len(test), test


def _with_interval_s(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    bounds = "–" if low is None else f"[{significant(low * 1e3)}, {significant(high * 1e3)}]"
    return f"{significant(estimate['value'] * 1e3)} ms\n{bounds}"


def _plain_interval(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    return significant(estimate["value"]) + ("" if low is None else f"\n{interval(low, high)}")


def _percent(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['value']:.0f} %"


def _value_size(estimate: dict[str, Any]) -> str:
    return data_size(estimate["value"])


def _accuracy(estimate: dict[str, Any], *, with_n: bool) -> str:
    n = f" n={estimate['n']}" if with_n else ""
    return f"{share(estimate['value'])}\n[{share(estimate['ci_low'])}, {share(estimate['ci_high'])}]{n}"
