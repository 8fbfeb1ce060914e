"""Keys a user brings: grading answers with one, and checking one against published figures."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import StoreError, SuiteError, UsageError, nearest
from edgebench.core.hashing import sha256_file
from edgebench.core.stats import wilson
from edgebench.core.types import Mode, Status
from edgebench.results.predictions import Asked, asked, fullest_suite, predictions
from edgebench.results.store import Store
from edgebench.suites.answer_file import read_key, read_predictions
from edgebench.suites.definition import Definition, find_definition
from edgebench.suites.loader import load_suite
from edgebench.suites.published import MODELS, PART_OF, SLICES, TOLERANCE, TOTALS

Answers = Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """Answers graded with a key, overall and by group; only questions both cover count."""

    rows: Sequence[dict[str, Any]]
    key_sha256: str
    asked: Asked
    n_unkeyed: int
    """Answers the key has nothing for."""
    n_unanswered: int
    """Questions of the key that nobody answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A key beside the published figures of three models."""

    rows: Sequence[dict[str, Any]]
    key_sha256: str
    asked: Asked
    off: Sequence[str]
    """What speaks against the key, a clause per model; empty when it is usable."""
    n_wide: int
    """Models whose interval is wider than the tolerance: too few questions to be sure."""


def score_with_key(
    suite: str, key: Path, db: Path, *, run: str | None, answers: Path | None, data: Path | None
) -> Graded:
    """Grade a stored run, or a file of answers, with a key."""
    if (run is None) == (answers is None):
        raise UsageError("name either a run or a file of answers", "--run RUN, or --predictions FILE.csv")
    definition = find_definition(suite)
    name = definition.name
    known, given = _run_answers(name, run, db) if run else (_known(definition, db, data), {})
    if answers is not None:
        given = read_predictions(answers, known.n_choices)
    right = _key(key, known)
    common = _common(given, right, key)
    groups: list[tuple[str, str, Callable[[str], bool]]] = [
        ("overall", name, lambda _: True),
        ("valid only", name, lambda q: given[q] is not None),
    ]
    for group, parts in (("category", known.categories), ("slice", known.slices)):
        groups += [(group, part, _in(known, subjects)) for part, subjects in parts.items()]
    subjects = sorted(set(known.subjects.values()))
    if len(subjects) > 1:
        groups += [("subject", subject, _in(known, (subject,))) for subject in subjects]
    rows = [
        {"group": group, "name": part, **_figures(filter(inside, common), given, right)}
        for group, part, inside in groups
    ]
    return Graded(
        rows=[row for row in rows if row["n"] or row["group"] in ("overall", "valid only")],
        key_sha256=sha256_file(key),
        asked=known,
        n_unkeyed=len(given.keys() - right.keys()),
        n_unanswered=len(right.keys() - given.keys()),
    )


def calibrate_key(
    suite: str, key: Path, db: Path, *, sources: Sequence[tuple[str, str | Path]], data: Path | None
) -> Calibration:
    """Grade the three models' answers with a key, and compare with what the authors published of them.

    `sources` are a model and its answers each: a file's path, or a run by name.
    """
    definition = find_definition(suite)
    name = definition.name
    if name not in TOTALS:
        raise UsageError(f"no published figures to check a key of {name} with", f"known: {', '.join(TOTALS)}")
    by_model = _by_model(sources)
    known = _known(definition, db, data)
    given: dict[str, Answers] = {}
    for model, source in by_model.items():
        if isinstance(source, Path):
            given[model] = read_predictions(source, known.n_choices)
        else:
            known, given[model] = _run_answers(name, source, db)
    right = _key(key, known)
    rows = [
        row for i, model in enumerate(MODELS) for row in _against(name, i, given[model], right, known, key)
    ]
    overall = [row for row in rows if row["part"] == "overall"]
    return Calibration(
        rows=rows,
        key_sha256=sha256_file(key),
        asked=known,
        off=[_told(row) for row in overall if not row["within"]],
        n_wide=sum(row["ci_high"] - row["ci_low"] > 2 * TOLERANCE for row in overall),
    )


def _against(
    suite: str, i: int, given: Answers, right: Mapping[str, int], known: Asked, key: Path
) -> Iterator[dict[str, Any]]:
    """A model's rows: overall, which decides, then the slices, which only tell."""
    common = _common(given, right, key)
    parts: dict[str, tuple[list[str], float]] = {"overall": (common, TOTALS[suite][i])}
    if suite not in PART_OF:  # the published slices are of the whole set
        parts |= {
            part: (list(filter(_in(known, fields), common)), published[i])
            for part, (fields, published) in SLICES.items()
        }
    for part, (questions, published) in parts.items():
        figures = _figures(questions, given, right)
        if figures["n"]:
            difference = figures["acc"] - published
            yield {
                "model": MODELS[i],
                "part": part,
                "decides": part == "overall",
                "published": published,
                "difference": difference,
                # A hair for the last bit: exactly 3 points off is not outside.
                "within": abs(difference) <= TOLERANCE + 1e-9,
                **figures,
            }


def _told(row: Mapping[str, Any]) -> str:
    side = "above" if row["difference"] > 0 else "below"
    points = abs(row["difference"]) * 100
    return f"{row['model']} is {points:.1f} points {side} the published {row['published'] * 100:.1f} %"


def _by_model(named: Sequence[tuple[str, str | Path]]) -> dict[str, str | Path]:
    sources: dict[str, str | Path] = {}
    for name, source in named:
        model = name.rpartition("/")[2].lower()
        if model not in MODELS:
            raise nearest(model, MODELS, kind="model of the published figures")
        if model in sources:
            raise UsageError(f"answers of {model} are named twice")
        sources[model] = source
    if missing := [model for model in MODELS if model not in sources]:
        raise UsageError(
            f"a key is checked with all three models; missing: {', '.join(missing)}",
            f"--predictions {missing[0]}=FILE.csv, or --run {missing[0]}=RUN",
        )
    return sources


def _known(definition: Definition, db: Path, data: Path | None) -> Asked:
    """The suite's questions: from its data where a folder is named, else as the database has them."""
    if data is None and db.exists():
        # A database that can't tell is as good as none: nothing in it was asked for.
        with suppress(StoreError), Store.open_readonly(db) as store:
            if suite_id := fullest_suite(store, definition.name):
                return asked(store, suite_id)
    questions = load_suite(str(definition.file), data).questions if data is not None else ()
    return Asked(
        name=definition.name,
        subjects={q.id: q.subject for q in questions},
        n_choices={q.id: len(q.choices) for q in questions},
        categories=definition.categories,
        slices=definition.slices,
        label=definition.label,
        medical=definition.medical,
    )


def _run_answers(name: str, run: str, db: Path) -> tuple[Asked, Answers]:
    with Store.open_readonly(db) as store:
        row = store.run(run)
        if row.mode is not Mode.ACCURACY or row.suite_id is None:
            raise UsageError(f"run {row.id} measured {row.mode}: it has no answers")
        if row.status is not Status.COMPLETE:
            raise UsageError(f"run {row.id} is {row.status}", "only complete runs are graded")
        known = asked(store, row.suite_id)
        if known.name != name:
            raise UsageError(f"run {row.id} answered {known.name}, not {name}")
        return known, predictions(store, row.id)


def _key(path: Path, known: Asked) -> dict[str, int]:
    return read_key(path, known.n_choices, unknown_ok=known.name in PART_OF)


def _common(given: Answers, right: Mapping[str, int], key: Path) -> list[str]:
    common = sorted(given.keys() & right.keys())
    if not common:
        raise SuiteError(f"{key} has none of the questions that were answered")
    return common


def _in(known: Asked, subjects: Sequence[str]) -> Callable[[str], bool]:
    wanted = set(subjects)
    return lambda question: known.subjects.get(question) in wanted


def _figures(questions: Iterable[str], given: Answers, right: Mapping[str, int]) -> dict[str, Any]:
    told = Counter("none" if given[q] is None else given[q] == right[q] for q in questions)
    found = wilson(told[True], told.total())
    return {
        "n": told.total(),
        "n_correct": told[True],
        "n_unparsed": told["none"],
        "acc": found.value if found else None,
        "ci_low": found.ci_low if found else None,
        "ci_high": found.ci_high if found else None,
    }
