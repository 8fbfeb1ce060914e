"""The published files themselves: counts, keys and oddities as they are known."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.types import Scorer, Suite
from edgebench.suites.definition import find_definition
from edgebench.suites.fewshot import Shots, content_key
from edgebench.suites.groups import limited, ordered_groups
from edgebench.suites.loader import load_dev, load_pool, load_suite
from edgebench.suites.prompts import LETTERS, build_prompt
from edgebench.suites.verify import verify

COUNTS = {
    "mmlu-medical": 1089,
    "mmlu-pro-health": 818,
    "medqa": 1273,
    "medmcqa": 4183,
    "pubmedqa": 500,
    "pubmedqa-closed": 500,
    "mirage": 7663,
}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def key_letters(suite: Suite, subject: str | None = None) -> dict[str, int]:
    """How often each letter is the key."""
    return Counter(
        LETTERS[q.answer_index]
        for q in suite.questions
        if q.answer_index is not None and subject in (None, q.subject)
    )


@pytest.mark.parametrize("name", COUNTS)
def test_suite_is_the_published_one(shared_data: Path, name: str) -> None:
    suite = load_suite(name, shared_data)
    assert len(suite.questions) == COUNTS[name] == find_definition(name).n_questions
    assert suite.verified
    assert suite.id == f"{name}@1"
    assert suite.medical
    assert all(row["ok"] for row in verify(find_definition(name), shared_data))


def test_mmlu_medical(shared_data: Path) -> None:
    suite = load_suite("mmlu-medical", shared_data)
    assert Counter(q.subject for q in suite.questions) == {
        file.subject: file.n_questions for file in find_definition("mmlu-medical").forms[0].files
    }
    assert {len(q.choices) for q in suite.questions} == {4}
    assert key_letters(suite) == {"A": 235, "B": 254, "C": 248, "D": 352}
    assert key_letters(suite, "professional_medicine")["D"] == 122


def test_a_part_of_mmlu_medical_holds_each_subject_in_proportion(shared_data: Path) -> None:
    suite = load_suite("mmlu-medical", shared_data)
    part = Counter(q.subject for group in limited(ordered_groups(suite), 200) for q in group)
    whole = Counter(q.subject for q in suite.questions)
    assert part.keys() == whole.keys()
    assert all(abs(part[subject] - 200 / 1089 * n) <= 16 for subject, n in whole.items())


def test_the_folder_of_the_subject_files_will_do_too(shared_data: Path) -> None:
    assert load_suite("mmlu-medical", shared_data / "mmlu" / "test").verified


def test_dev_questions_are_none_of_those_scored(shared_data: Path) -> None:
    dev = load_dev("mmlu-medical", shared_data)
    scored = {(q.text, q.choices) for q in load_suite("mmlu-medical", shared_data).questions}
    assert 20 < len(dev) < 30  # of five a subject; the published files share some with the test set
    assert not scored & {(q.text, q.choices) for q in dev}
    assert len(load_pool("mmlu-medical", shared_data)) == 30


def test_mmlu_pro_health(shared_data: Path) -> None:
    suite = load_suite("mmlu-pro-health", shared_data)
    sizes = Counter(len(q.choices) for q in suite.questions)
    assert sizes == {10: 598, 4: 72, 9: 67, 8: 42, 7: 20, 5: 8, 6: 8, 3: 3}
    assert len({content_key(q) for q in suite.questions}) == 723
    rows = json_lines(shared_data / "mmlu_pro/test_health.jsonl")
    assert [q.answer_index for q in suite.questions] == [row["answer_index"] for row in rows]
    pool = load_pool("mmlu-pro-health", shared_data)
    assert [q.id for q in pool] == ["5", "6", "7", "8", "9"]
    assert all(q.worked and not q.worked.startswith(("A:", "Let's think")) for q in pool)
    shots = Shots(suite, pool, 5).of(suite.questions[0])
    context = build_prompt(suite, suite.questions[0], Scorer.GENERATE, shots=shots).context
    assert context.count("Answer: Let's think step by step.") == 6


def test_medqa(shared_data: Path) -> None:
    suite = load_suite("medqa", shared_data)
    assert {len(q.choices) for q in suite.questions} == {4}
    assert key_letters(suite) == {"A": 353, "B": 309, "C": 346, "D": 265}
    rows = json_lines(shared_data / "medqa/phrases_no_exclude_test.jsonl")
    right = [q.choices[q.answer_index or 0] for q in suite.questions]
    assert right == [row["answer"] for row in rows]  # the letter and the words agree


def test_medmcqa(shared_data: Path) -> None:
    suite = load_suite("medmcqa", shared_data)
    assert key_letters(suite) == {"A": 1348, "B": 1085, "C": 925, "D": 825}
    subjects = Counter(q.subject for q in suite.questions)
    assert len(subjects) == 21
    assert (subjects["Dental"], subjects["Surgery"], subjects["Unknown"]) == (1318, 369, 2)


@pytest.mark.parametrize("name", ["pubmedqa", "pubmedqa-closed"])
def test_pubmedqa_scores_its_official_500(shared_data: Path, name: str) -> None:
    suite, pool = load_suite(name, shared_data), load_pool(name, shared_data)
    truth = json.loads((shared_data / "pubmedqa/test_ground_truth.json").read_text())
    assert {q.id: q.choices[q.answer_index or 0] for q in suite.questions} == truth
    for questions in (suite.questions, pool):
        answers = Counter(q.choices[q.answer_index or 0] for q in questions)
        assert answers == {"yes": 276, "no": 169, "maybe": 55}
    assert not {q.id for q in pool} & truth.keys()
    assert (suite.headline, suite.default_scorer) == ("macro_f1", Scorer.CLOZE)
    assert len(load_dev(name, shared_data)) == 500


def test_pubmedqa_is_asked_as_lm_eval_does(shared_data: Path) -> None:
    suite = load_suite("pubmedqa", shared_data)
    question = suite.questions[0]
    row = json.loads((shared_data / "pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))[question.id]
    prompt = build_prompt(suite, question, Scorer.CLOZE)
    assert (
        prompt.context == f"Abstract: {chr(10).join(row['CONTEXTS'])}\nQuestion: {row['QUESTION']}\nAnswer:"
    )
    assert prompt.continuations == (" yes", " no", " maybe")
    closed = load_suite("pubmedqa-closed", shared_data)
    assert build_prompt(closed, question, Scorer.CLOZE).context == f"Question: {row['QUESTION']}\nAnswer:"


def test_mirage(shared_data: Path) -> None:
    suite = load_suite("mirage", shared_data)
    parts = {"medqa": 1273, "medmcqa": 4183, "pubmedqa": 500, "bioasq": 618, "mmlu": 1089}
    assert Counter(q.subject for q in suite.questions) == parts
    assert {q.subject: len(q.choices) for q in suite.questions if q.subject != "medqa"} == {
        "medmcqa": 4,
        "pubmedqa": 3,
        "bioasq": 2,
        "mmlu": 4,
    }
    assert key_letters(suite, "medqa") == {"A": 353, "B": 309, "C": 346, "D": 265}
    assert key_letters(suite, "medmcqa") == {"A": 1348, "B": 1085, "C": 925, "D": 825}
    assert key_letters(suite, "mmlu") == {"A": 235, "B": 254, "C": 248, "D": 352}
    assert key_letters(suite, "pubmedqa") == {"A": 276, "B": 169, "C": 55}
    assert key_letters(suite, "bioasq")["A"] == 395
    assert suite.headline == "mean_of_subjects"
    context = build_prompt(suite, suite.questions[0], Scorer.GENERATE).context
    assert '{"step_by_step_thinking": Str(explanation), "answer_choice": Str{A/B/C/...}}' in context
    assert context.endswith("\nPlease think step-by-step and generate your output in json:\n")


def test_parts_of_mirage_hold_the_same_questions_as_their_own_suites(shared_data: Path) -> None:
    mirage = load_suite("mirage", shared_data)
    for part, name, ids in (
        ("medmcqa", "medmcqa", True),
        ("mmlu", "mmlu-medical", True),
        ("medqa", "medqa", False),
    ):
        ours = {
            q.id if ids else content_key(q): content_key(q) for q in load_suite(name, shared_data).questions
        }
        theirs = {
            q.id if ids else content_key(q): content_key(q) for q in mirage.questions if q.subject == part
        }
        assert len(ours) - len(ours.items() & theirs.items()) <= 0.01 * len(ours), part


def test_every_real_question_can_be_asked_by_every_scorer(shared_data: Path) -> None:
    for name in COUNTS:
        suite = load_suite(name, shared_data)
        for scorer in suite.prompts:
            for question in suite.questions[:: max(1, len(suite.questions) // 50)]:
                prompt = build_prompt(suite, question, scorer)
                assert question.text in prompt.context
                assert len(prompt.continuations) == (
                    0 if scorer is Scorer.GENERATE else len(question.choices)
                )
                assert prompt.context[-1] in ":.\n"
