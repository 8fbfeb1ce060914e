"""`runs`, `compare`, `pareto`, `db`: the verbs that read the database."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import db_option
from edgebench.cli.output import Column, emit, emit_one, examples, output_option, remark
from edgebench.core.errors import UsageError
from edgebench.core.units import data_size, duration, interval, share, significant

MEDICAL_NOTE = "exam-style accuracy, not clinical safety; not a medical device"

filters = [
    click.option("--device", help="Only this device."),
    click.option("-m", "--model", help="Only this model."),
    click.option("--suite", help="The suite whose accuracy is meant.  [default: the newest run's]"),
    click.option(
        "--scorer", type=click.Choice(["letter", "cloze"]), help="The scorer whose accuracy is meant."
    ),
]


def _filtered(function: Any) -> Any:
    for option in reversed(filters):
        function = option(function)
    return function


# runs ------------------------------------------------------------------------------------------


@click.group(
    epilog=examples(
        "edgebench runs list",
        "edgebench runs show latest",
        "edgebench runs show 01JD -o json",
        "edgebench runs rm 01JD9",
    )
)
def runs() -> None:
    """Stored runs."""


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


@runs.command("list")
@db_option
@output_option
def runs_list(db: Path, output: str) -> None:
    """All runs, newest first."""
    from edgebench.results.store import Store

    with Store.open_readonly(db) as store:
        emit([_run_row(run) for run in store.runs()], RUN_COLUMNS, output)


@runs.command("show")
@click.argument("run", default="latest")
@db_option
@output_option
def runs_show(run: str, db: Path, output: str) -> None:
    """One run: what it was, and its figures. RUN is a unique beginning of its id, or `latest`."""
    from edgebench.results.store import Store
    from edgebench.results.summary import figures

    with Store.open_readonly(db) as store:
        row = store.run(run)
        found = figures(store, row.id)
    if output in ("json", "jsonl"):
        emit_one({**_run_row(row), **_details(row), "figures": found}, output)
        return
    emit_one({**_run_row(row), **_details(row)}, output, row.id)
    columns = [
        Column("test", "test"),
        Column("metric", "figure"),
        Column("statistic", "statistic"),
        Column("shown", "value", right=True),
        Column("interval", "95 % interval", right=True),
        Column("n", "n", right=True),
    ]
    shown = [{**f, "shown": _figure(f["metric"], f["value"]), "interval": _interval(f)} for f in found]
    emit(shown, columns, output, "figures")


@runs.command("rm")
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
    if config.get("shape") == "alone":
        what += " noise floor"
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
    import json

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
        "edgebench_version": run.edgebench_version,
        "git_commit": run.git_commit,
    }


def _figure(metric: str, value: float) -> str:
    if metric.endswith("_bytes"):
        return data_size(value)
    if metric.endswith("_tokens_per_s"):
        return f"{significant(value)} tokens/s"
    if metric.endswith("_s"):
        return duration(value)
    return share(value) if metric.startswith(("acc", "share")) else significant(value)


def _interval(figure: dict[str, Any]) -> str | None:
    if figure["ci_low"] is None:
        return None
    return f"[{_figure(figure['metric'], figure['ci_low'])}, {_figure(figure['metric'], figure['ci_high'])}]"


# levels ----------------------------------------------------------------------------------------


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
    _emit_levels(comparisons, output)


def _emit_levels(levels: Sequence[Any], output: str) -> None:
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
    _warn_of_settings([level.row for level in levels])
    if output == "table":
        _legend(shown, levels)


def _warn_of_settings(rows: Sequence[Any]) -> None:
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
        else {**asdict(level.flips), "difference": _difference(level.flips)},
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


def _difference(flips: Any) -> dict[str, Any] | None:
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


# compare ---------------------------------------------------------------------------------------


@click.command(
    epilog=examples(
        "edgebench compare --by quant",
        "edgebench compare --by quant --base q8_0 -o md",
        "edgebench compare 01JD9A 01JD9B",
    )
)
@click.argument("runs", nargs=-1)
@click.option("--by", type=click.Choice(["quant"]), help="Every level of a model against the widest one.")
@click.option("--base", help="The level to compare with.  [default: most bits per weight]")
@_filtered
@db_option
@output_option
def compare(
    runs: tuple[str, ...],
    by: str | None,
    base: str | None,
    device: str | None,
    model: str | None,
    suite: str | None,
    scorer: str | None,
    db: Path,
    output: str,
) -> None:
    """Compare levels, or two RUNs: paired answers, ratios of medians, honest verdicts."""
    from edgebench.results.compare import by_quant, two_runs
    from edgebench.results.store import Store

    if by is None and len(runs) != 2:
        raise UsageError("compare takes two runs, or --by quant", "edgebench runs list shows the runs")
    with Store.open_readonly(db) as store:
        if by == "quant":
            device = _device_id(device)
            levels = by_quant(store, device=device, model=model, suite=suite, scorer=scorer, base=base).levels
            _emit_levels(levels, output)
        else:
            _emit_pair(two_runs(store, *runs), output)


def _device_id(name: str | None) -> str | None:
    """`local` as the database knows it."""
    from edgebench.session_catalog import show_device

    return show_device("local")["id"] if name == "local" else name


def _emit_pair(pair: Any, output: str) -> None:
    if pair.differs:
        remark(f"these runs also differ in: {', '.join(pair.differs)}")
    if pair.flips is not None:
        rows = [
            {
                **asdict(pair.flips),
                "p": pair.flips.p,
                "difference": _difference(pair.flips),
                "verdict": pair.verdict,
            }
        ]
        columns = [
            Column("n", "questions", right=True),
            Column("n_lost", "lost", right=True),
            Column("n_won", "won", right=True),
            Column("n_changed", "answers changed", right=True),
            Column("difference", "difference [95 %]", _signed, right=True),
            Column("p", "p (McNemar)", significant, right=True),
            Column("verdict", "verdict"),
        ]
        emit(rows, columns, output, f"{pair.base.label} → {pair.new.label}")
        return
    columns = [
        Column("test", "test"),
        Column("metric", "figure"),
        Column("base", "base", lambda e: significant(e["value"]), right=True),
        Column("new", "new", lambda e: significant(e["value"]), right=True),
        Column("ratio", "ratio [95 %]", _ratio, right=True),
        Column("verdict", "verdict"),
    ]
    emit([asdict(ratio) for ratio in pair.ratios], columns, output, f"{pair.base.label} → {pair.new.label}")


def _signed(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:+.3f} [{estimate['ci_low']:+.3f}, {estimate['ci_high']:+.3f}]"


def _ratio(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} {interval(estimate['ci_low'], estimate['ci_high'])}"


# pareto ----------------------------------------------------------------------------------------


@click.command(
    epilog=examples(
        "edgebench pareto --x decode_tokens_per_s --y acc --out front.png",
        "edgebench pareto --x peak_rss_bytes --y acc -o json",
    )
)
@click.option("--x", "x_name", required=True, help="A metric: decode_tokens_per_s, size_bytes, ttft_s, …")
@click.option("--y", "y_name", required=True, help="A metric: acc, prefill_tokens_per_s, …")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A picture: PNG, SVG or PDF.")
@click.option("--allow-synthetic", is_flag=True, help="Let figures that were not measured rank.")
@_filtered
@db_option
@output_option
def pareto(
    x_name: str,
    y_name: str,
    out: Path | None,
    allow_synthetic: bool,
    device: str | None,
    model: str | None,
    suite: str | None,
    scorer: str | None,
    db: Path,
    output: str,
) -> None:
    """Which levels nothing else beats on both axes; the table, and the picture with --out."""
    from edgebench.results.levels import level_rows
    from edgebench.results.pareto import front, metric
    from edgebench.results.plots import describe, pareto_picture
    from edgebench.results.store import Store

    x, y = metric(x_name), metric(y_name)
    with Store.open_readonly(db) as store:
        rows = level_rows(store, device=_device_id(device), model=model, suite=suite, scorer=scorer)
        found = front(rows, x, y, allow_synthetic=allow_synthetic)
    points = [
        {
            "model": p.row.model,
            "level": p.row.label,
            "bits_per_weight": p.row.figures["bits_per_weight"].value
            if "bits_per_weight" in p.row.figures
            else None,
            x.name: asdict(p.x),
            y.name: asdict(p.y),
            "on_front": p.on_front,
            "ranked": p.ranked,
        }
        for p in found.points
    ]
    columns = [
        Column("model", "model"),
        Column("level", "level"),
        Column("bits_per_weight", "bits/w", significant, right=True),
        Column(x.name, x.axis_title, lambda e: _scaled(e, x.scale), right=True),
        Column(y.name, y.axis_title, lambda e: _scaled(e, y.scale), right=True),
        Column("on_front", "on the front", lambda v: "yes" if v else "no"),
    ]
    emit(points, columns, output, f"{y.title} against {x.title.lower()}")
    _warn_of_settings(rows)
    for label, why in found.left_out:
        remark(f"left out: {label} ({why})")
    if out is not None:
        pareto_picture(
            found.points, x, y, out, title=_picture_title(rows, x, y), note=describe(found.points, x, y)
        )
        remark(f"picture: {out}")


def _scaled(estimate: dict[str, Any], scale: float) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    bounds = "" if low is None else f" {interval(low / scale, high / scale)}"
    return significant(estimate["value"] / scale) + bounds


def _picture_title(rows: Sequence[Any], x: Any, y: Any) -> str:
    models = ", ".join(dict.fromkeys(row.model for row in rows))
    return f"{models}: {y.title.lower()} against {x.title.lower()}"


# db --------------------------------------------------------------------------------------------


@click.group(
    epilog=examples(
        "edgebench db path",
        "edgebench db rebuild --db results.sqlite",
    )
)
def db() -> None:
    """The results database itself."""


@db.command("path")
@db_option
def db_path(db: Path) -> None:
    """Print where the database is, or would be."""
    click.echo(db.absolute())


@db.command("migrate")
@db_option
def db_migrate(db: Path) -> None:
    """Bring the database to this version's schema."""
    from edgebench.results.store import Store

    with Store.open(db, create=False) as store:
        version = store.rows("PRAGMA user_version")[0]["user_version"]
    remark(f"{db}: schema {version}")


@db.command("rebuild")
@db_option
def db_rebuild(db: Path) -> None:
    """Make every summary anew from the raw rows."""
    from edgebench.results.store import Store
    from edgebench.results.summary import rebuild

    with Store.open(db, create=False) as store:
        rebuild(store)
        n = len(store.runs())
    remark(f"{db}: {n} summaries rebuilt")


@db.command("vacuum")
@db_option
def db_vacuum(db: Path) -> None:
    """Give space of removed runs back to the disk."""
    from edgebench.results.store import Store

    with Store.open(db, create=False) as store:
        store.vacuum()
    remark(f"{db}: {data_size(db.stat().st_size)}")
