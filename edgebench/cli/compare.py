"""`compare` and `pareto`: the verbs that decide."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgebench.cli.engines import emit_engines
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
from edgebench.cli.levels import emit_levels, warn_of_settings
from edgebench.cli.measure import db_option, with_options
from edgebench.cli.output import Column, emit, examples, output_option, remark
from edgebench.core.errors import UsageError
from edgebench.core.units import interval, significant

filters = [
    click.option("--device", help="Only this device."),
    click.option("-m", "--model", help="Only this model."),
    click.option("--suite", help="The suite whose accuracy is meant.  [default: the newest run's]"),
    click.option(
        "--scorer",
        type=click.Choice(["letter", "cloze", "generate"]),
        help="The scorer whose accuracy is meant.",
    ),
]
asking_filters = [
    click.option(
        "--permute",
        type=click.Choice(["none", "cyclic"]),
        help="Runs that asked every question once, or in all rotations.  [default: as the newest run]",
    ),
    click.option(
        "--num-fewshot",
        "--num_fewshot",
        type=click.IntRange(min=0),
        help="Runs with so many worked examples.  [default: as the newest run]",
    ),
]


@click.command(
    epilog=examples(
        "edgebench compare --by quant",
        "edgebench compare --by quant --base q8_0 -o md",
        "edgebench compare --by quant --margin 0.01",
        "edgebench compare --by engine -m smollm2-135m --suite mmlu-medical",
        "edgebench compare --by device -m smollm2-135m --suite everyday",
        "edgebench compare 01JD9A 01JD9B",
    )
)
@click.argument("runs", nargs=-1)
@click.option(
    "--by",
    type=click.Choice(["quant", "engine", "device"]),
    help="Every level of a model against the widest one, every engine that ran the same weights, or every"
    " device that ran the same file.",
)
@click.option(
    "--base",
    help="The level, engine, engine's run or device to compare with."
    "  [default: most bits per weight; torch, else llama_cpp; the device with most answers]",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Say which levels are not worse by more than this share: 0.01 is one point.",
)
@with_options(filters)
@with_options(asking_filters)
@db_option
@output_option
def compare(
    runs: tuple[str, ...],
    by: str | None,
    base: str | None,
    margin: float | None,
    device: str | None,
    model: str | None,
    suite: str | None,
    scorer: str | None,
    permute: str | None,
    num_fewshot: int | None,
    db: Path,
    output: str,
) -> None:
    """Compare levels, engines, or two RUNs: paired answers, ratios of medians, honest verdicts."""
    from edgebench.results.compare import by_quant, two_runs
    from edgebench.results.devices import accepted, by_device
    from edgebench.results.engines import by_engine
    from edgebench.results.store import Store

    if by is None and len(runs) != 2:
        raise UsageError(
            "compare takes two runs, --by quant, engine or device", "edgebench runs list shows the runs"
        )
    if by in ("engine", "device") and margin is not None:
        raise UsageError("--margin is of levels and of two runs", "engines have a parity gate of their own")
    with Store.open_readonly(db) as store:
        if by is None:
            _emit_pair(two_runs(store, *runs, margin=margin), output, margin)
            return
        asked: dict[str, Any] = {
            "device": device_id(device),
            "model": model,
            "suite": suite,
            "scorer": scorer,
            "permute": permute,
            "num_fewshot": num_fewshot,
            "base": base,
        }
        if by == "quant":
            emit_levels([by_quant(store, **asked, margin=margin).levels], output, margin)
        elif by == "engine":
            emit_engines(by_engine(store, **asked), output)
        else:
            if asked.pop("device"):
                raise UsageError("--by device compares devices: --device keeps to one", "--base names one")
            table = by_device(store, **{**asked, "base": device_id(base)})
            emit_engines(table, output)
            for line in accepted(table):
                remark(line)


def device_id(name: str | None) -> str | None:
    """`local` as the database knows it."""
    from edgebench.session_catalog import show_device

    return show_device("local")["id"] if name == "local" else name


def _emit_pair(pair: Any, output: str, margin: float | None) -> None:
    if pair.differs:
        remark(f"these runs also differ in: {', '.join(pair.differs)}")
    if pair.flips is not None:
        _emit_flips(pair, output, margin)
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


def _emit_flips(pair: Any, output: str, margin: float | None) -> None:
    flips, noise, base_noise = flips_dict(pair.flips), noise_dict(pair.noise), noise_dict(pair.base_noise)
    row: dict[str, Any] = {
        **(flips or {}),
        "verdict": pair.verdict,
        "margin": margin,
        "non_inferior": pair.non_inferior,
        "noise_floor": noise,
        "base_noise_floor": base_noise,
    }
    told = {
        **row,
        "flips": flips,
        "noise_told": noise_told(noise),
        "base_noise_told": noise_told(base_noise),
        "verdict_told": verdict_told(pair.verdict, flips),
        "margin_told": None if margin is None else margin_told(pair.non_inferior, margin),
    }
    keyless = pair.flips.p is None
    columns = [
        Column("n_questions", "questions", right=True),
        *([] if keyless else [Column("flips", "lost/won", flip_rate, right=True)]),
        Column("n_changed", "answers changed", right=True),
        Column("base_noise_told", "noise floor, base", right=True),
        Column("noise_told", "noise floor, new", right=True),
        *([] if keyless else [Column("difference", "difference [95 %]", signed, right=True)]),
        *([] if keyless else [Column("p", "p", p_told, right=True)]),
        Column("verdict_told", "verdict"),
        *([Column("margin_told", f"margin {points(margin)}")] if margin is not None else []),
    ]
    rows = [told] if output in ("table", "md") else [row]
    emit(rows, columns, output, f"{pair.base.label} → {pair.new.label}")
    explain([flips], [pair.verdict], "", noise_known=bool(noise or base_noise))
    for note in pair.notes:
        remark(note)


def _ratio(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} {interval(estimate['ci_low'], estimate['ci_high'])}"


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
@with_options(filters)
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
    from edgebench.results.pareto import accuracy_axis, front, metric
    from edgebench.results.plots import describe, pareto_picture
    from edgebench.results.store import Store

    x, y = metric(x_name), metric(y_name)
    with Store.open_readonly(db) as store:
        rows = level_rows(store, device=device_id(device), model=model, suite=suite, scorer=scorer)
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
    warn_of_settings(rows)
    for note in dict.fromkeys(note for row in rows for note in row.notes) if accuracy_axis(x, y) else ():
        remark(note)
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
