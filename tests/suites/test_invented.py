"""Suites whose files are not at hand: invented rows in the same formats, in the places they have."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import SuiteError
from edgebench.core.types import Scorer
from edgebench.suites.definition import find_definition
from edgebench.suites.loader import load_pool, load_suite
from edgebench.suites.prompts import build_prompt

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write("test/law.csv", rows)`: a file under the data folder, which is the test's own; no cache."""
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))

    def call(path: str, content: str | Iterable[dict[str, Any]]) -> None:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".parquet":
            arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
            from pyarrow import parquet

            parquet.write_table(arrow.Table.from_pylist(list(content)), target)
        elif isinstance(content, str):
            target.write_text(content, encoding="utf-8")
        else:
            target.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")

    return call


def table(rows: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    rows = list(rows)
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def mobile_row(number: int, **more: Any) -> dict[str, Any]:
    """One as the authors' files have them: long options with commas, statements numbered in the question."""
    options = {letter: f"Put it on shelf {letter}, then wait {number} days" for letter in "ABCD"}
    return {
        "question_id": f"{number:08x}",
        "Question": f"Where goes box {number}?\n(1) Up (2) Down",
        **options,
        **more,
    }


# Mobile-MMLU ------------------------------------------------------------------------------------


def test_mobile_mmlu_is_eighty_files_named_after_their_fields(tmp_path: Path, write: Write) -> None:
    files = find_definition("mobile-mmlu").forms[0].files
    for number, file in enumerate(files):
        write(f"mobile-mmlu/{file.path}", table([mobile_row(2 * number), mobile_row(2 * number + 1)]))
    suite = load_suite("mobile-mmlu", tmp_path)
    assert len(suite.questions) == 160
    assert {q.subject for q in suite.questions} == {file.subject for file in files}
    assert "marketing__and_sales_strarigies" in {q.subject for q in suite.questions}
    assert not suite.has_key
    assert not suite.verified  # invented rows are not the pinned ones
    assert suite.asks_for_submission
    (tmp_path / "mobile-mmlu" / files[7].path).unlink()
    with pytest.raises(SuiteError, match=f"{files[7].path} is not there") as caught:
        load_suite("mobile-mmlu", tmp_path)
    assert "edgebench suites fetch mobile-mmlu" in (caught.value.hint or "")


def test_mobile_mmlu_is_asked_in_the_authors_words_and_in_lm_evals(tmp_path: Path, write: Write) -> None:
    write("mobile-mmlu-pro.csv", table([mobile_row(1, Field="art_techniques_and_architecture")]))
    suite = load_suite("mobile-mmlu-pro", tmp_path)
    (question,) = suite.questions
    assert question.subject == "art_techniques_and_architecture"
    asked = "Where goes box 1?\n(1) Up (2) Down\n" + "".join(
        f"{letter}. Put it on shelf {letter}, then wait 1 days\n" for letter in "ABCD"
    )
    written = build_prompt(suite, question, Scorer.GENERATE)
    assert written.context == (
        "Answer the following multiple choice question and provide only letter of the correct answer.\n"
        + asked
        + "Answer\N{FULLWIDTH COLON}\n"
    )
    assert suite.prompts[Scorer.GENERATE].n_gen == 5
    letters = build_prompt(suite, question, Scorer.LETTER)
    assert letters.context == (
        "The following are multiple choice questions (with answers) about art techniques and "
        "architecture.\n\n" + asked + "Answer:"
    )
    assert letters.continuations == (" A", " B", " C", " D")


def test_key_to_the_whole_set_is_one_to_its_harder_part(tmp_path: Path, write: Write) -> None:
    write("mobile-mmlu-pro.csv", table([mobile_row(n, Field="law") for n in (1, 2, 3)]))
    key = tmp_path / "key.csv"
    key.write_text("question_id,answer\n00000009,A\n00000002,C\n")
    suite = load_suite("mobile-mmlu-pro", tmp_path, key=key)
    assert [(q.id, q.answer_index) for q in suite.questions] == [("00000002", 2)]
    key.write_text("question_id,answer\n00000009,A\n")
    with pytest.raises(SuiteError, match="has none of the questions of mobile-mmlu-pro"):
        load_suite("mobile-mmlu-pro", tmp_path, key=key)


# MMLU and MMLU-Pro ------------------------------------------------------------------------------


def mmlu_row(number: int) -> tuple[str, list[str], int]:
    return f"How many are {number} and {number}?", [str(2 * number + k) for k in range(4)], number % 4


def write_mmlu(write: Write, form: str) -> None:
    subjects = [file.subject for file in find_definition("mmlu").forms[0].files]
    for split in ("test", "dev"):
        by_subject = {s: [mmlu_row(7 * n + i) for i in range(2)] for n, s in enumerate(subjects)}
        if form == "hub":
            rows = [
                {"question": q, "subject": subject, "choices": choices, "answer": answer}
                for subject, questions in by_subject.items()
                for q, choices, answer in questions
            ]
            write(f"all/{split}-00000-of-00001.parquet", rows)
            continue
        for subject, questions in by_subject.items():
            lines = "".join(
                ",".join([q, *choices, "ABCD"[answer] if form == "authors" else str(answer)]) + "\n"
                for q, choices, answer in questions
            )
            head = "" if form == "authors" else "question,choice0,choice1,choice2,choice3,answer\n"
            write(f"mmlu/{split}/{subject}_{split}.csv", head + lines)


@pytest.mark.parametrize("form", ["authors", "named", "hub"])
def test_mmlu_is_recognised_in_all_three_forms(tmp_path: Path, write: Write, form: str) -> None:
    write_mmlu(write, form)
    suite = load_suite("mmlu", tmp_path)
    assert len(suite.questions) == 114
    assert len({q.subject for q in suite.questions}) == 57
    assert {q.id for q in suite.questions} >= {"abstract_algebra-000", "world_religions-001"}
    assert [q.answer_index for q in suite.questions[:4]] == [0, 1, 3, 0]
    assert len(load_pool("mmlu", tmp_path)) == 114
    medical = load_suite("mmlu-medical", tmp_path)
    assert {q.id for q in medical.questions} < {q.id for q in suite.questions}
    assert len(medical.questions) == 12


def pro_row(number: int, category: str, *, n: int = 10, worked: str = "") -> dict[str, Any]:
    options = [f"{k} of {number}" for k in range(n)] + ["N/A"] * (10 - n)
    return {
        "question_id": number,
        "question": f"How much is question {number}?\n",
        "options": options,
        "answer": "ABCDEFGHIJ"[number % n],
        "answer_index": 0,  # the letter is right
        "cot_content": worked,
        "category": category,
        "src": "invented",
    }


@pytest.mark.parametrize("form", ["data/test-00000-of-00001.parquet", "mmlu_pro/test.jsonl"])
def test_mmlu_pro_has_three_to_ten_options(tmp_path: Path, write: Write, form: str) -> None:
    write(form, [pro_row(1, "health", n=3), pro_row(12, "computer science"), pro_row(5, "health", n=7)])
    suite = load_suite("mmlu-pro", tmp_path)
    assert [len(q.choices) for q in suite.questions] == [3, 10, 7]
    assert [q.answer_index for q in suite.questions] == [1, 2, 5]
    if form.endswith("parquet"):
        assert [q.id for q in load_suite("mmlu-pro-health", tmp_path).questions] == ["1", "5"]


def test_mmlu_pro_shows_worked_examples_as_its_authors_do(tmp_path: Path, write: Write) -> None:
    worked = "A: Let's think step by step. One and one is two. The answer is (C)."
    write("mmlu_pro/test.jsonl", [pro_row(3, "computer science", n=4)])
    write("mmlu_pro/validation.jsonl", [pro_row(2, "computer science", n=4, worked=worked)])
    suite = load_suite("mmlu-pro", tmp_path)
    prompt = build_prompt(suite, suite.questions[0], Scorer.GENERATE, shots=load_pool("mmlu-pro", tmp_path))
    listed = "".join("{}. {} of {{}}\n".format("ABCD"[k], k) for k in range(4))
    assert prompt.context == (
        "The following are multiple choice questions (with answers) about computer science. Think step by "
        'step and then finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
        f"Question:\nHow much is question 2?\n\nOptions:\n{listed.format(2, 2, 2, 2)}"
        "Answer: Let's think step by step. One and one is two. The answer is (C).\n\n"
        f"Question:\nHow much is question 3?\n\nOptions:\n{listed.format(3, 3, 3, 3)}"
        "Answer: Let's think step by step."
    )


# Medical exams ----------------------------------------------------------------------------------


def test_medqa_with_five_options(tmp_path: Path, write: Write) -> None:
    row = {
        "question": "Which box?",
        "answer": "box E",
        "options": {letter: f"box {letter}" for letter in "ABCDE"},
        "meta_info": "step1",
        "answer_idx": "E",
    }
    write("medqa/data_clean/questions/US/test.jsonl", [row, row | {"question": "And then?"}])
    suite = load_suite("medqa-5", tmp_path)
    assert [(len(q.choices), q.answer_index) for q in suite.questions] == [(5, 4), (5, 4)]
    prompt = build_prompt(suite, suite.questions[0], Scorer.LETTER)
    assert prompt.context == "Question: Which box?\nA. box A\nB. box B\nC. box C\nD. box D\nE. box E\nAnswer:"
    assert prompt.continuations[-1] == " E"


def mcq_row(number: int, cop: int) -> dict[str, Any]:
    options = {f"op{letter}": f"{letter} {number}" for letter in "abcd"}
    return {
        "question": f"Which is {number}?",
        "exp": None,
        "cop": cop,
        **options,
        "subject_name": ["Anatomy", "Surgery"][number % 2],
        "topic_name": None,
        "id": f"id-{number}",
        "choice_type": "single",
    }


def test_medmcqa_counts_from_one_in_the_authors_file_and_from_zero_on_the_hub(
    tmp_path: Path, write: Write
) -> None:
    write("medmcqa/dev.json", [mcq_row(n, n % 4 + 1) for n in range(8)])
    authors = load_suite("medmcqa", tmp_path)
    (tmp_path / "medmcqa" / "dev.json").unlink()
    write("data/validation-00000-of-00001.parquet", [mcq_row(n, n % 4) for n in range(8)])
    hub = load_suite("medmcqa", tmp_path)
    assert [q.answer_index for q in authors.questions] == [0, 1, 2, 3] * 2
    assert hub.questions == authors.questions
    assert hub.sha256 == authors.sha256
    prompt = build_prompt(hub, hub.questions[0], Scorer.LETTER)
    assert prompt.context == "Question: Which is 0?\nChoices:\nA. a 0\nB. b 0\nC. c 0\nD. d 0\nAnswer:"


def test_files_of_another_suite_with_the_same_name_are_not_taken_for_it(tmp_path: Path, write: Write) -> None:
    """Hubs call everything `data/validation-…`: what can't be read as MedMCQA is told, not scored."""
    write("data/validation-00000-of-00001.parquet", [pro_row(1, "health")])
    with pytest.raises(SuiteError, match=r"parquet:1: no column 'subject_name'"):
        load_suite("medmcqa", tmp_path)
