"""Answers that are graded elsewhere or with a user's key: the file to upload, grading, checking a key."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.stats import wilson
from edgebench.core.types import (
    Artifact,
    DeviceProfile,
    Environment,
    Evidence,
    Format,
    Mode,
    QuantSpec,
    Question,
    Scorer,
    Status,
    Suite,
)
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.session_key import calibrate_key, score_with_key
from edgebench.session_submission import write_submission
from edgebench.suites.definition import find_definition
from edgebench.suites.published import MODELS, SLICES, TOTALS

FIELDS = ("first_aid", "shopping")
N = 200


def portal_suite(name: str = "mobile-mmlu") -> Suite:
    """200 invented questions in two fields, without a key."""
    questions = tuple(
        Question(
            id=f"q{i:03d}",
            text=f"secret text {i}",
            choices=("secret 1", "secret 2", "secret 3", "secret 4"),
            answer_index=None,
            subject=FIELDS[i % 2],
        )
        for i in range(N)
    )
    return Suite(
        name=name,
        version="1",
        title=name,
        sha256="0" * 64,
        questions=questions,
        default_scorer=Scorer.LETTER,
        prompts={},
        license="CC-BY-NC-ND-4.0",
        citation="",
        source="",
        categories={"Health": ("first_aid",)},
        slices={"health": ("first_aid",), "all": FIELDS},
        label="non-commercial, no derivatives",
    )


class Lab:
    def __init__(self, store: Store) -> None:
        self.store = store
        store.add_device(DeviceProfile(id="laptop", name="laptop", kind="laptop"))
        store.add_environment(Environment(id="env", os="Linux"))

    def run(
        self, choices: Mapping[str, int | None], *, model: str = "tiny", suite: Suite | None = None
    ) -> RunRow:
        suite = suite or portal_suite()
        artifact = Artifact(
            sha256=f"{model:0<64}",
            path=Path("x.gguf"),
            model=model,
            quant=QuantSpec(name="q4_0", format=Format.GGUF),
            size_bytes=1,
        )
        self.store.add_artifact(artifact, {})
        self.store.add_suite(suite)
        run_id = self.store.create_run(
            mode=Mode.ACCURACY,
            evidence=Evidence.SYNTHETIC,
            artifact_id=artifact.sha256,
            device_id="laptop",
            environment_id="env",
            suite_id=suite.id,
            runner="synthetic",
            runner_version="1",
            config={},
            config_sha256="plan",
            seed=0,
            scorer="letter",
        )
        answers = [
            {"question_id": q, "repeat": r, "choice_index": c if r == 0 else 3, "correct": None}
            for q, c in choices.items()
            for r in (0, 1)
        ]
        self.store.add_answers(run_id, answers)
        self.store.set_status(run_id, Status.COMPLETE)
        return self.store.run(run_id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "edgebench.sqlite") as opened:
        yield opened


@pytest.fixture
def lab(store: Store) -> Lab:
    return Lab(store)


def ids(n: int = N) -> list[str]:
    return [f"q{i:03d}" for i in range(n)]


def write(path: Path, column: str, letters: Mapping[str, str]) -> Path:
    path.write_text(f"question_id,{column}\n" + "".join(f"{q},{c}\n" for q, c in letters.items()))
    return path


# The file to upload


def test_a_submission_holds_ids_and_letters_and_nothing_else(lab: Lab, store: Store, tmp_path: Path) -> None:
    run = lab.run({"q002": 2, "q000": 0, "q001": None})
    path = write_submission(store, run, tmp_path / "submissions")
    assert path.read_text(encoding="utf-8") == "question_id,predicted_answer\nq000,A\nq001,\nq002,C\n"


def test_a_submission_is_named_after_its_run_and_written_again_in_place(
    lab: Lab, store: Store, tmp_path: Path
) -> None:
    run = lab.run({"q000": 0}, model="some/odd model")
    path = write_submission(store, run, tmp_path / "submissions")
    assert path.name == f"mobile-mmlu-some_odd_model-q4_0-letter-{run.id[:10]}.csv"
    assert store.run(run.id[:10]).id == run.id
    before = path.read_bytes()
    assert write_submission(store, run, tmp_path / "submissions") == path
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_two_runs_have_two_submissions(lab: Lab, store: Store, tmp_path: Path) -> None:
    paths = {write_submission(store, lab.run({"q000": c}), tmp_path) for c in range(3)}
    assert len(paths) == 3


def test_a_submission_is_graded_like_its_run(lab: Lab, store: Store, tmp_path: Path) -> None:
    run = lab.run({q: (None if i % 10 == 0 else i % 4) for i, q in enumerate(ids())})
    submission = write_submission(store, run, tmp_path)
    key = write(tmp_path / "key.csv", "answer", dict.fromkeys(ids(), "B"))
    by_run = score_with_key("mobile-mmlu", key, store.path, run=run.id, answers=None, data=None)
    by_file = score_with_key("mobile-mmlu", key, store.path, run=None, answers=submission, data=None)
    assert by_run == by_file


# Grading with a key


def test_answers_are_graded_overall_and_by_group(lab: Lab, store: Store, tmp_path: Path) -> None:
    # First aid (even): 50 right, 50 unparsed. Shopping (odd): all wrong.
    given = {q: (1 if i % 2 else (0 if i % 4 else None)) for i, q in enumerate(ids())}
    key = write(tmp_path / "key.csv", "answer", dict.fromkeys(ids(), "A"))
    run = lab.run(given)
    graded = score_with_key("mobile-mmlu", key, store.path, run=run.id, answers=None, data=None)
    rows = {(row["group"], row["name"]): row for row in graded.rows}
    assert {k: (r["n_correct"], r["n_unparsed"], r["n"]) for k, r in rows.items()} == {
        ("overall", "mobile-mmlu"): (50, 50, 200),
        ("valid only", "mobile-mmlu"): (50, 0, 150),
        ("category", "Health"): (50, 50, 100),
        ("slice", "health"): (50, 50, 100),
        ("slice", "all"): (50, 50, 200),
        ("subject", "first_aid"): (50, 50, 100),
        ("subject", "shopping"): (0, 0, 100),
    }
    for row in rows.values():
        expected = wilson(row["n_correct"], row["n"])
        assert expected is not None
        assert (row["acc"], row["ci_low"], row["ci_high"]) == (
            expected.value,
            expected.ci_low,
            expected.ci_high,
        )
    assert graded.asked.label == "non-commercial, no derivatives"


def test_only_what_key_and_answers_share_is_graded(lab: Lab, store: Store, tmp_path: Path) -> None:
    key = write(tmp_path / "key.csv", "answer", {"q000": "A", "q001": "A", "q002": "A"})
    run = lab.run({"q001": 0, "q002": 1, "q003": 0})
    graded = score_with_key("mobile-mmlu", key, store.path, run=run.id, answers=None, data=None)
    assert (graded.rows[0]["n_correct"], graded.rows[0]["n"]) == (1, 2)
    assert (graded.n_unkeyed, graded.n_unanswered) == (1, 1)


def test_answers_alone_are_graded_without_groups(tmp_path: Path) -> None:
    key = write(tmp_path / "key.csv", "answer", {"q000": "A", "q001": "B"})
    answers = write(tmp_path / "answers.csv", "predicted_answer", {"q000": "A", "q001": ""})
    nowhere = tmp_path / "none.sqlite"
    graded = score_with_key("everyday", key, nowhere, run=None, answers=answers, data=None)
    assert [(r["group"], r["n_correct"], r["n"]) for r in graded.rows] == [
        ("overall", 1, 2),
        ("valid only", 1, 1),
    ]
    assert not nowhere.exists()


def test_real_questions_bring_their_subjects(shared_data: Path, tmp_path: Path) -> None:
    from edgebench.suites.loader import load_suite

    questions = load_suite("mmlu-medical", shared_data).questions
    letters = {q.id: "ABCD"[q.answer_index or 0] for q in questions}
    key = write(tmp_path / "key.csv", "answer", letters)
    answers = write(tmp_path / "answers.csv", "predicted_answer", dict.fromkeys(letters, "A"))
    graded = score_with_key(
        "mmlu-medical", key, tmp_path / "none.sqlite", run=None, answers=answers, data=shared_data
    )
    assert (graded.rows[0]["n_correct"], graded.rows[0]["n"]) == (235, 1089)  # the published share of "A"
    assert {r["name"]: r["n"] for r in graded.rows if r["group"] == "subject"} == {
        "anatomy": 135,
        "clinical_knowledge": 265,
        "college_biology": 144,
        "college_medicine": 173,
        "medical_genetics": 100,
        "professional_medicine": 272,
    }
    assert graded.asked.medical


def test_what_can_not_be_graded_is_said(lab: Lab, store: Store, tmp_path: Path) -> None:
    key = write(tmp_path / "key.csv", "answer", {"q000": "A"})
    run = lab.run({"q001": 0})
    grade = {"run": run.id, "answers": None, "data": None}
    with pytest.raises(SuiteError, match="has none of the questions"):
        score_with_key("mobile-mmlu", key, store.path, **grade)
    with pytest.raises(UsageError, match="answered mobile-mmlu, not everyday"):
        score_with_key("everyday", key, store.path, **grade)
    with pytest.raises(UsageError, match="either a run or a file"):
        score_with_key("mobile-mmlu", key, store.path, **{**grade, "answers": key})
    store.set_status(run.id, Status.INTERRUPTED)
    with pytest.raises(UsageError, match="is interrupted"):
        score_with_key("mobile-mmlu", key, store.path, **grade)
    write(key, "answer", {"q000": "A", "zzz": "B"})
    with pytest.raises(SuiteError, match=r"key\.csv:3: the suite has no question 'zzz'"):
        score_with_key("mobile-mmlu", key, store.path, run=lab.run({"q000": 0}).id, answers=None, data=None)


def test_a_key_of_the_whole_serves_its_part(lab: Lab, store: Store, tmp_path: Path) -> None:
    key = write(tmp_path / "key.csv", "answer", {"q000": "A", "in-the-whole-only": "B"})
    run = lab.run({"q000": 0}, suite=portal_suite("mobile-mmlu-pro"))
    graded = score_with_key("mobile-mmlu-pro", key, store.path, run=run.id, answers=None, data=None)
    assert (graded.rows[0]["n_correct"], graded.rows[0]["n"]) == (1, 1)


# Checking a key


def answers_right(n_right: int, n: int = 1000) -> dict[str, str]:
    return {q: ("A" if i < n_right else "B") for i, q in enumerate(f"q{i}" for i in range(n))}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write(tmp_path / "key.csv", "answer", {f"q{i}": "A" for i in range(1000)})


def sources(tmp_path: Path, rights: Sequence[int]) -> list[tuple[str, str | Path]]:
    return [
        (model, write(tmp_path / f"{model}.csv", "predicted_answer", answers_right(n_right)))
        for model, n_right in zip(MODELS, rights, strict=True)
    ]


@pytest.mark.parametrize(
    ("suite", "rights", "off"),
    [
        ("mobile-mmlu", (681, 502, 389), []),
        ("mobile-mmlu", (711, 472, 419), []),  # exactly three points each
        ("mobile-mmlu", (712, 502, 389), ["qwen2.5-3b-instruct is 3.1 points above the published 68.1 %"]),
        (
            "mobile-mmlu",
            (681, 402, 489),
            ["llama-3.2-3b-instruct is 10.0 points below", "gemma-2-2b-it is 10.0"],
        ),
        ("mobile-mmlu-pro", (606, 420, 312), []),
        ("mobile-mmlu-pro", (681, 502, 389), ["qwen2.5", "llama-3.2", "gemma-2"]),
    ],
)
def test_a_key_is_usable_within_three_points(
    tmp_path: Path, key: Path, suite: str, rights: Sequence[int], off: list[str]
) -> None:
    found = calibrate_key(suite, key, tmp_path / "none", sources=sources(tmp_path, rights), data=None)
    assert len(found.off) == len(off)
    assert all(told.startswith(begins) for told, begins in zip(found.off, off, strict=True))
    assert [(row["model"], row["n_correct"], row["n"]) for row in found.rows] == [
        (model, n_right, 1000) for model, n_right in zip(MODELS, rights, strict=True)
    ]


def test_slices_are_shown_and_do_not_decide(lab: Lab, store: Store, tmp_path: Path) -> None:
    key = write(tmp_path / "key.csv", "answer", dict.fromkeys(ids(), "A"))
    named: list[tuple[str, str | Path]] = []
    for model, total in zip(MODELS, TOTALS["mobile-mmlu"], strict=True):
        # All right ones in first aid: far from its published figure, while the total is near its own.
        order = sorted(ids(), key=lambda q: int(q[1:]) % 2)
        right = set(order[: round(total * N)])
        run = lab.run({q: 0 if q in right else 1 for q in ids()}, model=model)
        named.append((f"Maker/{model.upper()}", run.id))
    found = calibrate_key("mobile-mmlu", key, store.path, sources=named, data=None)
    assert found.off == []
    assert found.n_wide == 3  # 200 questions: the intervals are wider than the tolerance
    first_aid = [row for row in found.rows if row["part"] == "first_aid"]
    assert [row["n"] for row in first_aid] == [100, 100, 100]
    assert not any(row["within"] or row["decides"] for row in first_aid)
    assert [row["part"] for row in found.rows if row["decides"]] == ["overall"] * 3


def test_all_three_models_are_needed_once(tmp_path: Path, key: Path) -> None:
    three = sources(tmp_path, (681, 502, 389))
    for named, words in (
        (three[:2], "missing: gemma-2-2b-it"),
        ([], "missing: qwen2.5-3b-instruct, llama-3.2-3b-instruct, gemma-2-2b-it"),
        ([*three, three[0]], "qwen2.5-3b-instruct are named twice"),
        ([("qwen2.5-3b", "x"), *three], "unknown model of the published figures 'qwen2.5-3b'"),
    ):
        with pytest.raises(UsageError, match=words):
            calibrate_key("mobile-mmlu", key, tmp_path / "none", sources=named, data=None)
    with pytest.raises(UsageError, match="no published figures"):
        calibrate_key("everyday", key, tmp_path / "none", sources=three, data=None)


def test_published_slices_agree_with_the_slices_they_are_made_of() -> None:
    fields = {name: parts[0] for name, (parts, _) in SLICES.items() if len(parts) == 1}
    assert len(SLICES["seven health fields"][0]) == 7 == len(fields) == len(SLICES["Health & Safety"][0])
    sizes = {
        "medical_and_health_knowledge": 183,
        "mental_health": 130,
        "first_aid": 221,
        "nutrition_and_diet": 151,
        "physical_fitness": 190,
        "ergonomics": 204,
        "food_safety": 219,
    }
    for name in ("medical + mental + first aid", "seven health fields"):
        parts, published = SLICES[name]
        for i in range(len(MODELS)):
            mean = sum(sizes[f] * SLICES[f][1][i] for f in parts) / sum(sizes[f] for f in parts)
            assert published[i] == pytest.approx(mean, abs=0.001)


def test_published_slices_are_of_fields_the_suite_has() -> None:
    definition = find_definition("mobile-mmlu")
    known = {field for fields in definition.categories.values() for field in fields}
    for fields, published in SLICES.values():
        assert set(fields) <= known
        assert len(published) == len(MODELS)
    assert set(SLICES["Health & Safety"][0]) == set(definition.categories["Health & Safety"])
    assert set(SLICES["seven health fields"][0]) == set(definition.slices["health"])


def test_a_submission_reads_back_as_a_table(lab: Lab, store: Store, tmp_path: Path) -> None:
    path = write_submission(store, lab.run({'odd "id", with, commas': 1}), tmp_path)
    with path.open(newline="", encoding="utf-8") as handle:
        assert list(csv.DictReader(handle)) == [
            {"question_id": 'odd "id", with, commas', "predicted_answer": "B"}
        ]
