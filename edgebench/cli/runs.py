"""`runs` and `db`: what is stored, and the database itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgebench.cli.exchange import anonymize_database
from edgebench.cli.measure import db_option
from edgebench.cli.output import Column, emit, emit_one, examples, output_option, remark
from edgebench.core.flags import FLAG_WORDS
from edgebench.core.setting_flags import as_flags, names_that_differ
from edgebench.core.units import data_size, duration, share, significant


@click.group(
    epilog=examples(
        "edgebench runs list",
        "edgebench runs show latest",
        "edgebench runs show 01JD -o json",
        "edgebench runs power latest wall.csv",
        "edgebench runs rm 01JD9",
    )
)
def runs() -> None:
    """Stored runs."""


SHARES = ("acc", "share", "macro_f1", "no_answer", "ece", "brier", "nll", "aurc")
"""Beginnings of metrics that are shown with three decimals."""

RUN_COLUMNS = [
    Column("id", "run"),
    Column("mode", "mode"),
    Column("status", "status"),
    Column("model", "model"),
    Column("level", "level"),
    Column("what", "what"),
    Column("device", "device"),
    Column("started_at", "started"),
    Column("reason", "reason"),
]


@runs.command(
    "list", epilog=examples("edgebench runs list", "edgebench runs list --db results.sqlite -o jsonl")
)
@db_option
@output_option
def runs_list(db: Path, output: str) -> None:
    """All runs, newest first."""
    from edgebench.results.store import Store

    with Store.open_readonly(db) as store:
        rows = [{**_run_row(run), "settings": run.settings} for run in store.runs()]
    names = names_that_differ([row["settings"] for row in rows])
    told = [Column("settings", "settings", partial(as_flags, names=names))] if names else []
    emit(rows, [*RUN_COLUMNS, *told], output)


@runs.command("show", epilog=examples("edgebench runs show latest", "edgebench runs show 01JD9A -o json"))
@click.argument("run", default="latest")
@db_option
@output_option
def runs_show(run: str, db: Path, output: str) -> None:
    """One run: what it was, and its figures. RUN is a unique beginning of its id, or `latest`."""
    from edgebench.results.performance_summary import run_warnings
    from edgebench.results.run_report import accuracy_report
    from edgebench.results.store import Store
    from edgebench.results.summary import figures

    with Store.open_readonly(db) as store:
        row = store.run(run)
        found = figures(store, row.id)
        report = accuracy_report(store, row) if row.mode == "accuracy" else None
        windows, predictions = store.windows(row.id), store.predictions(row.id)
        warnings = [] if report else run_warnings(store, row)
    if output in ("json", "jsonl", "csv"):  # one thing to parse
        told = {"windows": windows, "predictions": predictions, "warnings": [asdict(w) for _, w in warnings]}
        emit_one({**_run_row(row), **_details(row), **(report or {}), **told, "figures": found}, output)
        return
    emit_one({**_run_row(row), **_details(row), **(_asked(report) if report else {})}, output, row.id)
    # Parts have tables of their own.
    _emit_figures([f for f in found if report is None or f["test"] in (row.suite_id, "*")], output)
    if report is not None:
        _emit_parts(report, output)
    _emit_predictions(predictions, found, output)
    if any(window["source"] for window in windows):
        emit(windows, WINDOW_COLUMNS, output, "energy by window")
    for flag in row.flags:
        remark(f"{flag}: {FLAG_WORDS.get(flag, 'see docs/method.md')}")
    for test, warning in warnings:
        remark(f"warning: {test}: {warning.text}; {warning.remedy}")


def _emit_predictions(
    predictions: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], output: str
) -> None:
    """What was predicted before the run beside what came of it."""
    measured = {(f["test"], f["metric"]): f["value"] for f in found if f["statistic"] != "n_outliers"}
    rows = []
    for one in predictions:
        value = measured.get((one["test"], one["metric"]))
        error = None if not value else f"{100 * (one['value'] / value - 1):+.1f} %"
        rows.append(
            {
                **one,
                "shown": _figure(one["metric"], one["value"]),
                "interval": _interval(one),
                "measured": None if value is None else _figure(one["metric"], value),
                "error": error,
            }
        )
    columns = [
        Column("test", "test"),
        Column("metric", "figure"),
        Column("shown", "predicted", right=True),
        Column("interval", "95 % interval", right=True),
        Column("measured", "measured", right=True),
        Column("error", "error", right=True),
        Column("basis", "predicted from"),
    ]
    if rows:
        emit(rows, columns, output, "predictions")


def _emit_figures(found: Sequence[dict[str, Any]], output: str) -> None:
    columns = [
        Column("test", "test"),
        Column("metric", "figure"),
        Column("statistic", "statistic"),
        Column("shown", "value", right=True),
        Column("interval", "95 % interval", right=True),
        Column("n", "n", right=True),
    ]
    shown = [{**f, "shown": _value(f), "interval": _interval(f)} for f in found]
    emit(shown, columns, output, "figures")


def _asked(report: dict[str, Any]) -> dict[str, Any]:
    """How an accuracy run asked, and what came of it, in a few facts."""
    headline = report["headline"]
    return {
        "headline": headline and f"{headline['metric']} {_estimate(headline)}, n = {headline['n']} questions",
        **{name: report[name] for name in ("scorer", "num_fewshot", "permute", "apply_chat_template")},
        "no_answer_rate": report["no_answer_rate"] and _estimate(report["no_answer_rate"]),
        "n_truncated": report["n_truncated"],
    }


def _emit_parts(report: dict[str, Any], output: str) -> None:
    """A table for each kind of part, and what the figures of an accuracy run mean."""
    for kind in ("subjects", "categories", "slices"):
        if parts := [part for part in report[kind] if part.get("acc")]:
            rows = [{"name": part["name"], **part["acc"], "acc": _estimate(part["acc"])} for part in parts]
            columns = [
                Column("name", kind),
                Column("n", "questions", right=True),
                Column("acc", "acc [95 %]", right=True),
            ]
            emit(rows, columns, output, kind)
    if report["headline"] is None:
        remark("no headline: the suite's answers are not public here")
    if report["no_answer_rate"]:
        remark("no_answer_rate: nothing could be read off; counts as wrong, acc_valid leaves it out")
    if report["n_truncated"]:
        remark("n_truncated: prompts that were too long lost tokens from the left")
    if report["calibration"]:
        remark("ece: calibration error freed of its bias, ece_plain as usually printed; brier: 0 to 2")
    if report["permute"] != "none":
        remark(
            "acc: mean over all rotations, clustered by question; edgebench order shows what the order does"
        )
    for note in report["notes"]:
        remark(note)


def _estimate(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    return share(estimate["value"]) + ("" if low is None else f" [{share(low)}, {share(high)}]")


SCOPES = ("wall", "battery", "platform", "package", "gpu_board")


@runs.command(
    "power",
    epilog=examples(
        "edgebench run -m model.gguf --mode performance --marker",
        "edgebench runs power latest wall.csv",
        "edgebench runs power 01JD9A battery.jsonl --scope battery --source monsoon",
    ),
)
@click.argument("run")
@click.argument("log", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--scope", type=click.Choice(SCOPES), default="wall", show_default=True, help="What the meter measures."
)
@click.option("--source", default="external", show_default=True, help="What the meter is called.")
@db_option
@output_option
def runs_power(run: str, log: Path, scope: str, source: str, db: Path, output: str) -> None:
    """Take a run's energy from an external meter's LOG: CSV or JSONL of `t_unix_ns,watt`.

    The run must have begun with load pulses (run --marker): the log is laid over them, whatever its clock.
    """
    from edgebench.core.energy import Scope
    from edgebench.results.store import Store
    from edgebench.session_power import import_power

    with Store.open(db, create=False) as store:
        windows = import_power(store, run, log, source=source, scope=Scope(scope))
    emit(windows, WINDOW_COLUMNS, output, f"energy by {source}")


def _joules(value: float) -> str:
    return f"{significant(value)} J"


WINDOW_COLUMNS = [
    Column("kind", "window"),
    Column("test", "test"),
    Column("source", "meter"),
    Column("scope", "scope"),
    Column("energy_j", "energy", _joules, right=True),
    Column("energy_u95_j", "±", _joules, right=True),
    Column("n_requests", "requests", right=True),
    Column("n_samples", "samples", right=True),
    Column("energy_reason", "why none"),
]


@runs.command("rm", epilog=examples("edgebench runs rm 01JD9A", "edgebench runs rm latest --yes"))
@click.argument("run")
@click.option("--yes", is_flag=True, help="Don't ask.")
@db_option
def runs_rm(run: str, yes: bool, db: Path) -> None:
    """Remove one run with its trials and answers."""
    from edgebench.results.store import Store

    with Store.open(db, create=False) as store:
        row = store.run(run)
        if not yes:
            click.confirm(f"remove {row.id} ({row.mode}, {row.model} {row.label})?", abort=True, err=True)
        store.delete_run(row.id)
    remark(f"removed {row.id}")


def _run_row(run: Any) -> dict[str, Any]:
    config = run.config
    what = f"{run.suite_id} {run.scorer}" if run.suite_id else " ".join(config.get("tests", []))
    what += f" {config['num_fewshot']}-shot" if config.get("num_fewshot") else ""
    what += " all rotations" if config.get("permute") == "cyclic" else ""
    if config.get("shape") == "alone":
        what += " noise floor"
    what += " tune" if run.is_tuning else ""
    return {
        "id": run.id,
        "mode": run.mode.value,
        "status": run.status.value,
        "reason": run.invalid_reason,
        "model": run.model,
        "level": run.label,
        "what": what,
        "device": run.device_id,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def _details(run: Any) -> dict[str, Any]:
    return {
        "evidence": run.evidence.value,
        "artifact_sha256": run.artifact_id,
        "size_bytes": run.size_bytes,
        "bits_per_weight": run.bits_per_weight,
        "runner": f"{run.runner} {run.runner_version}",
        "config": run.config,
        "engine": json.loads(run.engine_json) if run.engine_json else None,
        "scheme_sha256": run.scheme_sha256,
        "timing_source": run.timing_source,
        "flags": run.flags,
        "baseline_rss_bytes": run.baseline_rss_bytes,
        "meters": json.loads(run.meters_json) if run.meters_json else None,
        "command": run.command,
        "edgebench_version": run.edgebench_version,
        "git_commit": run.git_commit,
    }


def _value(figure: dict[str, Any]) -> str:
    if figure["statistic"] == "n_outliers":
        return f"{figure['value']:.0f}"
    return _figure(figure["metric"], figure["value"])


def _figure(metric: str, value: float) -> str:
    if metric.endswith("_bytes"):
        return data_size(value)
    if metric.endswith("_tokens_per_s"):
        return f"{significant(value)} tokens/s"
    if metric.endswith("_s"):
        return duration(value)
    if metric.endswith("_w"):
        return f"{significant(value)} W"
    if metric.startswith("energy_"):
        return _joules(value)
    if metric in ("mbu", "mfu", "overhead_share", "retained_share"):
        return f"{100 * value:.3g} %"
    return share(value) if metric.startswith(SHARES) else significant(value)


def _interval(figure: dict[str, Any]) -> str | None:
    if figure["ci_low"] is None:
        return None
    return f"[{_figure(figure['metric'], figure['ci_low'])}, {_figure(figure['metric'], figure['ci_high'])}]"


@click.group(
    epilog=examples(
        "edgebench db path",
        "edgebench db rebuild --db results.sqlite",
        "edgebench db merge board.sqlite --db results.sqlite",
    )
)
def db() -> None:
    """The results database itself."""


@db.command("path", epilog=examples("edgebench db path"))
@db_option
def db_path(db: Path) -> None:
    """Print where the database is, or would be."""
    click.echo(db.absolute())


@db.command("migrate", epilog=examples("edgebench db migrate --db old.sqlite"))
@db_option
def db_migrate(db: Path) -> None:
    """Bring the database to this version's schema."""
    from edgebench.results.store import Store

    with Store.open(db, create=False) as store:
        version = store.rows("PRAGMA user_version")[0]["user_version"]
    remark(f"{db}: schema {version}")


@db.command("merge", epilog=examples("edgebench db merge board.sqlite laptop.sqlite --db all.sqlite"))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@db_option
def db_merge(files: tuple[Path, ...], db: Path) -> None:
    """Take the runs of other databases into this one; those that are there already stay."""
    from edgebench.results.merge import merge
    from edgebench.results.store import Store

    with Store.open(db) as store:
        for file in files:
            remark(f"{file}: {merge(store, file).told}")


@db.command("rebuild", epilog=examples("edgebench db rebuild"))
@db_option
def db_rebuild(db: Path) -> None:
    """Make every summary anew from the raw rows."""
    from edgebench.results.import_store import add_told_figures
    from edgebench.results.store import Store
    from edgebench.results.summary import rebuild

    with Store.open(db, create=False) as store:
        rebuild(store)
        add_told_figures(store)
        n = len(store.runs())
    remark(f"{db}: {n} summaries rebuilt")


@db.command("vacuum", epilog=examples("edgebench db vacuum"))
@db_option
def db_vacuum(db: Path) -> None:
    """Give space of removed runs back to the disk."""
    from edgebench.results.store import Store

    with Store.open(db, create=False) as store:
        store.vacuum()
    remark(f"{db}: {data_size(db.stat().st_size)}")


db.add_command(anonymize_database)
