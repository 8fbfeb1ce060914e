"""The prompts of whole suites, from real files, are lm-eval's to the byte: its own tasks make them again."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.types import Question, Scorer
from edgebench.suites.fewshot import Shots
from edgebench.suites.loader import load_pool, load_suite
from edgebench.suites.prompts import build_prompt

pytestmark = pytest.mark.slow

Rows = dict[str, Sequence[Mapping[str, Any]]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def medmcqa(data: Path) -> Rows:
    return {"medmcqa": [{**row, "cop": row["cop"] - 1} for row in lines(data / "medmcqa" / "dev.json")]}


def medqa(data: Path) -> Rows:
    """In the form of the dataset that lm-eval names."""
    found = lines(data / "medqa" / "phrases_no_exclude_test.jsonl")
    return {
        "medqa": [
            {
                "id": f"q-{n:03d}",
                "sent1": row["question"],
                "label": "ABCD".index(row["answer_idx"]),
                **{f"ending{i}": row["options"][letter] for i, letter in enumerate("ABCD")},
            }
            for n, row in enumerate(found)
        ]
    }


def pubmedqa(data: Path) -> Rows:
    found = json.loads((data / "pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    asked = json.loads((data / "pubmedqa" / "test_ground_truth.json").read_text(encoding="utf-8"))
    names = ("QUESTION", "CONTEXTS", "final_decision")
    return {"pubmedqa": [{"id": id_, **{name: found[id_][name] for name in names}} for id_ in asked]}


def mmlu_pro(data: Path, file: str = "test_health.jsonl") -> Rows:
    """Without the options that say there is none: the authors' script drops them, lm-eval shows them."""
    return {
        "health": [
            {
                **row,
                "id": str(row["question_id"]),
                "options": [option for option in row["options"] if option != "N/A"],
            }
            for row in lines(data / "mmlu_pro" / file)
        ]
    }


def mmlu_pro_shots(data: Path) -> Rows:
    return mmlu_pro(data, "validation_health_reconstructed.jsonl")


def none(_: Path) -> Rows:
    return {}


SUITES: dict[str, tuple[str, Scorer, int, dict[str, Any], Callable[[Path], Rows], Callable[[Path], Rows]]] = {
    # suite: lm-eval's task, scorer, worked examples, what the task does otherwise, questions, examples
    "medmcqa": ("medmcqa/medmcqa", Scorer.LETTER, 0, {}, medmcqa, none),
    "medqa": ("medqa/medqa", Scorer.LETTER, 0, {}, medqa, none),
    "pubmedqa": ("pubmedqa/pubmedqa", Scorer.CLOZE, 0, {}, pubmedqa, none),
    "mmlu-pro-health": (
        *("mmlu_pro/mmlu_pro_health", Scorer.GENERATE, 5),
        {"output_type": "generate_until"},
        *(mmlu_pro, mmlu_pro_shots),
    ),
}


def compare(
    name: str,
    questions: Sequence[Question],
    scorer: Scorer,
    data: Path,
    n_shots: int,
    theirs: Mapping[str, Any],
) -> None:
    suite = load_suite(name, data)
    shots = Shots(suite, load_pool(name, data), n_shots) if n_shots else None
    assert {question.id for question in questions} == theirs.keys()
    differing = []
    for question in questions:
        prompt = build_prompt(suite, question, scorer, shots=shots.of(question) if shots else ())
        assert prompt.n_shots == n_shots, "no question of these is a worked example as well"
        same = set(theirs[question.id]["contexts"]) == {prompt.context}
        if scorer is not Scorer.GENERATE:
            same &= list(prompt.continuations) == theirs[question.id]["continuations"]
        differing += [] if same else [question.id]
    assert differing == []


@pytest.mark.parametrize("name", SUITES)
def test_prompts_are_those_of_lm_evals_own_task(
    lm_eval: Any, lm_eval_env: Any, shared_data: Path, name: str
) -> None:
    path, scorer, n_shots, more, rows, examples = SUITES[name]
    asked = rows(shared_data)
    tasks = {subject: {**lm_eval.task_file(lm_eval_env, path), **more} for subject in asked}
    theirs = lm_eval.ask_prompts(lm_eval_env, tasks, asked, examples(shared_data), num_fewshot=n_shots)
    compare(name, load_suite(name, shared_data).questions, scorer, shared_data, n_shots, theirs)


@pytest.mark.parametrize("n_shots", [0, 5])
def test_mmlus_prompts_are_those_of_lm_evals_own_tasks(
    lm_eval: Any, lm_eval_env: Any, shared_data: Path, n_shots: int
) -> None:
    questions = load_suite("mmlu-medical", shared_data).questions
    assert len(questions) == 1_089
    if n_shots:  # lm-eval compiles a template for each example of each question: a part will do
        questions = questions[::8]
    wanted = {question.id for question in questions}
    subjects = sorted({question.subject for question in questions})
    tasks = {s: lm_eval.task_file(lm_eval_env, f"mmlu/default/mmlu_{s}") for s in subjects}
    asked = {
        s: [row for row in lm_eval.mmlu_rows(shared_data, "test", s) if row["id"] in wanted] for s in subjects
    }
    shots = {s: lm_eval.mmlu_rows(shared_data, "dev", s) for s in subjects}
    theirs = lm_eval.ask_prompts(lm_eval_env, tasks, asked, shots, num_fewshot=n_shots)
    compare("mmlu-medical", questions, Scorer.LETTER, shared_data, n_shots, theirs)
