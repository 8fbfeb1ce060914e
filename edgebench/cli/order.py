"""`order`: what the order of the options does to each level."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgebench.cli.compare import device_id, filters
from edgebench.cli.flips import points
from edgebench.cli.measure import db_option, with_options
from edgebench.cli.output import Column, emit, examples, output_option, remark
from edgebench.core.units import ABSENT, share, significant


@click.command(
    epilog=examples(
        "edgebench order",
        "edgebench order --suite mmlu-medical --out order.png",
        "edgebench order -o json",
    )
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A picture: PNG, SVG or PDF.")
@with_options(filters)
@db_option
@output_option
def order(
    out: Path | None,
    device: str | None,
    model: str | None,
    suite: str | None,
    scorer: str | None,
    db: Path,
    output: str,
) -> None:
    """Does a level lean on "A"? What runs with --permute cyclic say of each one.

    Mean accuracy over all rotations, CircularEval (right in every one), consistency, accuracy by the place
    of the right option, chosen places, RStd, and the accuracy with PriDe's prior divided out.
    """
    from edgebench.results.order import order_rows
    from edgebench.results.store import Store

    with Store.open_readonly(db) as store:
        levels = order_rows(store, device=device_id(device), model=model, suite=suite, scorer=scorer)
    rows = [_row(level) for level in levels]
    shown = [{**row, "leaning": _leaning(row)} for row in rows] if output in ("table", "md") else rows
    emit(shown, _columns(shown) if output in ("table", "md") else [], output, _title(levels))
    _explain(rows)
    if out is not None:
        from edgebench.results.order_plot import order_picture

        models = ", ".join(dict.fromkeys(level.row.model for level in levels))
        order_picture(levels, out, f"{models}: does the order of the options matter?")
        remark(f"picture: {out}")


def _title(levels: Sequence[Any]) -> str:
    from edgebench.results.levels import asking

    row = levels[0].row
    return f"{', '.join(dict.fromkeys(level.row.model for level in levels))} on {row.device_id}, " + (
        asking(row.accuracy).title
    )


def _row(level: Any) -> dict[str, Any]:
    from edgebench.results.order import place_name

    graded = level.graded
    pride = graded and graded.pride
    return {
        "model": level.row.model,
        "level": level.row.label,
        "bits_per_weight": level.row.figures["bits_per_weight"].value
        if "bits_per_weight" in level.row.figures
        else None,
        "n_questions": level.n,
        "n_incomplete": level.n_incomplete,
        "acc": graded and asdict(graded.accuracy),
        "circular": graded and asdict(graded.circular),
        "circular_chance": graded and graded.circular_chance_acc,
        "consistent": asdict(level.consistent),
        "acc_by_gold_place": graded
        and {place_name(place): asdict(figure) for place, figure in enumerate(graded.gold_at)},
        "chosen_places": {place_name(place): asdict(figure) for place, figure in enumerate(level.chosen_at)},
        "fair_share": {place_name(place): fair for place, fair in enumerate(level.fair_at)},
        "leans_on": None if level.leans_index is None else place_name(level.leans_index),
        "lean": level.lean_share,
        "rstd": graded and asdict(graded.rstd),
        "rstd_noise": graded and graded.rstd_noise_share,
        "acc_debiased": pride and asdict(pride.accuracy),
        "acc_same_questions": pride and asdict(pride.plain),
        "n_pride_calibration": pride and pride.n_calibration,
        "suite": level.row.suite_id,
        "scorer": level.row.scorer,
        "device": level.row.device_id,
        "evidence": level.row.evidence.value,
        "notes": list(level.row.notes),
        "run": level.row.accuracy.id,
    }


def _columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns these rows have something in."""
    names = sorted({name for row in rows for name in row["chosen_places"]})
    places = "/".join(names) if len(names) <= 5 else f"{names[0]} … {names[-1]}"
    several_models = len({row["model"] for row in rows}) > 1
    columns = [
        *([Column("model", "model")] if several_models else []),
        Column("level", "level"),
        Column("n_questions", "questions", right=True),
        Column("acc", "mean acc", _figure, right=True),
        Column("circular", "CircularEval", _figure, right=True),
        Column("consistent", "consistent", _figure, right=True),
        Column("acc_by_gold_place", f"acc at {places}", _shares),
        Column("chosen_places", f"chosen {places}", _shares),
        Column("leaning", "leans on"),
        Column("rstd", "RStd", _figure, right=True),
        Column("rstd_noise", "by chance", share, right=True),
        Column("acc_debiased", "PriDe acc", _figure, right=True),
        Column("acc_same_questions", "without PriDe", _figure, right=True),
    ]
    return [column for column in columns if any(row[column.key] is not None for row in rows)]


def _figure(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    return f"{share(estimate['value'])}\n" + (ABSENT if low is None else f"[{share(low)}, {share(high)}]")


def _shares(by_place: dict[str, dict[str, Any]]) -> str:
    """`0.31 0.27 0.22 0.20`, five to a line."""
    values = [f"{estimate['value']:.2f}" for estimate in by_place.values()]
    return "\n".join(" ".join(values[i : i + 5]) for i in range(0, len(values), 5))


def _leaning(row: dict[str, Any]) -> str:
    return "no place" if row["leans_on"] is None else f"{row['leans_on']}\nby {points(row['lean'])}"


def _explain(rows: Sequence[dict[str, Any]]) -> None:
    remark("leans on: the place chosen more often than its fair share by the most, beyond chance (95 %)")
    if any(row["acc"] for row in rows):
        chance = next(row["circular_chance"] for row in rows if row["acc"])
        remark(
            "mean acc: over all rotations, clustered by question;"
            f" CircularEval: right in all of them, guessing gives {significant(chance)}"
        )
        remark(
            "acc at A/B/…: accuracy where the right option stood there; RStd: their standard deviation, and"
        )
        remark("  what so many questions show by chance; consistent: the same option chosen in every order")
    else:
        remark("no key: the suite's answers are not public here; what needs one is left out")
    if any(row["acc_debiased"] for row in rows):
        remark(
            "PriDe: a prior for places, learned from a few questions without keys, divided out of the rest"
        )
    if n_left_out := max(row["n_incomplete"] for row in rows):
        remark(f"left out: up to {n_left_out} questions that were not answered in every order")
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        remark(note)
    if any(row["evidence"] != "measured" for row in rows):
        remark("some figures are not measured (see evidence in -o json); they never rank")
