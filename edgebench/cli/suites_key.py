"""`suites score` and `suites calibrate-key`: answers and keys that are the user's own."""

from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import db_option
from edgebench.cli.output import Column, emit, examples, output_option, remark
from edgebench.cli.run_options import data_option
from edgebench.core.errors import InvalidRun, UsageError
from edgebench.core.types import MEDICAL_NOTE
from edgebench.core.units import interval, share

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
key_option = click.option("--key", type=_FILE, required=True, help="CSV: question_id,answer.")

_FIGURES = [
    Column("n", "questions", right=True),
    Column("n_unparsed", "unparsed", right=True),
    Column("acc", "acc", share, right=True),
    Column("interval", "95 % interval", right=True),
]


@click.command(
    "score",
    epilog=examples(
        "edgebench suites score mobile-mmlu --key key.csv --run latest",
        "edgebench suites score mobile-mmlu-pro --key key.csv --predictions answers.csv -o json",
    ),
)
@click.argument("suite")
@key_option
@click.option("--run", help="A complete run: the beginning of its id, or `latest`.")
@click.option("--predictions", type=_FILE, help="CSV: question_id,predicted_answer.")
@db_option
@data_option
@output_option
def score(
    suite: str, key: Path, run: str | None, predictions: Path | None, db: Path, data: Path | None, output: str
) -> None:
    """Grade answers to SUITE with a key of your own; nothing is sent anywhere."""
    from edgebench.session_key import score_with_key

    graded = score_with_key(suite, key, db, run=run, answers=predictions, data=data)
    columns = [Column("group", "group"), Column("name", "name"), *_FIGURES]
    emit(
        [_shown(row) for row in graded.rows], columns, output, f"{graded.asked.name}, graded with {key.name}"
    )
    remark(f"key {graded.key_sha256[:12]}: not the authors', and no official score")
    for n, what in (
        (graded.n_unkeyed, "answered questions are not in the key: not graded"),
        (graded.n_unanswered, "questions of the key were not answered: not graded"),
    ):
        if n:
            remark(f"{n} {what}")
    _stand_beside(graded.asked)


@click.command(
    "calibrate-key",
    epilog=examples(
        "edgebench suites calibrate-key mobile-mmlu --key key.csv --run qwen2.5-3b-instruct=01JD9A \\",
        "    --run llama-3.2-3b-instruct=01JD9B --predictions gemma-2-2b-it=gemma.csv",
    ),
)
@click.argument("suite")
@key_option
@click.option("--predictions", multiple=True, metavar="MODEL=FILE", help="A model's answers; repeatable.")
@click.option("--run", "runs", multiple=True, metavar="MODEL=RUN", help="A model's run; repeatable.")
@db_option
@data_option
@output_option
def calibrate_key(
    suite: str,
    key: Path,
    predictions: tuple[str, ...],
    runs: tuple[str, ...],
    db: Path,
    data: Path | None,
    output: str,
) -> None:
    """Check a key of SUITE against what its authors published of three models.

    The key is usable when qwen2.5-3b-instruct, llama-3.2-3b-instruct and gemma-2-2b-it all land within 3
    points; slices are shown and don't decide.
    """
    from edgebench.session_key import calibrate_key as calibrate

    sources: list[tuple[str, str | Path]] = [*map(_pair, runs)]
    sources += [(model, Path(file)) for model, file in map(_pair, predictions)]
    found = calibrate(suite, key, db, sources=sources, data=data)
    columns = [
        Column("model", "model"),
        Column("part", "part"),
        *_FIGURES,
        Column("published", "published", share, right=True),
        Column("difference", "difference", lambda d: f"{d:+.3f}", right=True),
        Column("within", "within 3 points", lambda within: "yes" if within else "no"),
    ]
    rows = [{**_shown(row), "usable": not found.off} for row in found.rows]
    emit(rows, columns, output, f"{key.name} against the published figures of {found.asked.name}")
    if found.n_wide:
        remark("so few questions can't settle 3 points: see the intervals")
    _stand_beside(found.asked)
    if found.off:
        raise InvalidRun(
            f"{key} is not usable: {'; '.join(found.off)}",
            "more than 3 points off for one model: nothing graded with this key says much",
        )
    remark(f"{key} is usable: all three models are within 3 points (key {found.key_sha256[:12]})")


def _pair(text: str) -> tuple[str, str]:
    model, equals, what = text.partition("=")
    if not (model and equals and what):
        raise UsageError(f"{text!r} does not name a model and its answers", "write MODEL=FILE or MODEL=RUN")
    return model, what


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "interval": interval(row["ci_low"], row["ci_high"])}


def _stand_beside(asked: Any) -> None:
    if asked.label:
        remark(asked.label)
    if asked.medical:
        remark(MEDICAL_NOTE)
