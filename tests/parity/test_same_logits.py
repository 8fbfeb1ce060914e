"""edgebench and lm-eval on invented questions and the same logits: nothing may differ but the program."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.calibration import calibration
from edgebench.core.shares import acc_stderr, pooled_stderr
from edgebench.core.types import PromptTemplate, Question
from edgebench.suites.scoring import grade

ASK_BOTH = Path(__file__).with_name("ask_both.py")
TOLERANCE = 1e-12
SUBJECTS = {"first_aid": 13, "kitchen_safety": 9, "weather": 5, "keys_and_locks": 3}
SEEN = "weather-002"
"""A question that is a worked example as well: edgebench leaves it out there, lm-eval shows it."""
WORDS = (
    *("A bandage", "of the ankle", "is wet", "in an hour", "5 µg", "the thin end", "{question}", "{{ x }}"),
    *(
        "naïve",
        "日本語",
        "a dry cloth",
        "-12.5",
        "another thing",
        "Answer: B",
        "all of the above ",
        " 7",
        "ring",
    ),
)
OPTIONS = "{% for c in choices %}{{'ABCDE'[loop.index0]}}. {{c}}\n{% endfor %}"

PROMPTS: dict[str, tuple[str, PromptTemplate, dict[str, Any]]] = {
    # name: scorer, edgebench's prompt, lm-eval's
    "letter": (
        "letter",
        PromptTemplate(
            description="The following are multiple choice questions (with answers) about {subject}.\n\n",
            context="{question}\n{options}\nAnswer:",
        ),
        {
            "description": "The following are multiple choice questions (with answers) about %s.\n\n",
            "doc_to_text": "{{question.strip()}}\n" + OPTIONS + "Answer:",
            "doc_to_choice": list("ABCD"),
            "metric_list": [
                {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False}
            ],
        },
    ),
    "cloze": (
        "cloze",
        PromptTemplate(context="Question: {question}\nAnswer:"),
        {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "choices"},
    ),
    "blank": (  # the context ends with the blank, and not all questions have as many options
        "letter",
        PromptTemplate(context="{question}\n{options}\nAnswer: ", delimiter="", shot_delimiter="\n--\n"),
        {
            "doc_to_text": "{{question}}\n" + OPTIONS + "Answer: ",
            "doc_to_choice": "{{ ['A', 'B', 'C', 'D', 'E'][:choices|length] }}",
            "target_delimiter": "",
            "fewshot_delimiter": "\n--\n",
        },
    ),
}
CASES = list(itertools.product(PROMPTS, (0, 5), (False, True)))
CUT = ("letter", 5, False)
"""Asked once more of a model with a short context."""
N_CTX_SHORT = 400

Case = tuple[str, int, bool]


def rows(subject: str, n: int, prompt: str) -> list[dict[str, Any]]:
    """Questions with texts that are odd in the ways that matter; the key is spread evenly."""
    found = []
    for i in range(n):
        at, k = 7 * i + len(subject), 4 if prompt == "letter" else 3 + i % 3
        found.append(
            {
                "id": f"{subject}-{i:03d}",
                "question": f"{WORDS[at % len(WORDS)].strip()} and {WORDS[(3 * at + 1) % len(WORDS)]} {i}?",
                "choices": [f"{WORDS[(at + 5 * j + 2) % len(WORDS)]} {'x' * j}" for j in range(k)],
                "answer": i % k,
            }
        )
    return found


@pytest.fixture(scope="module")
def both(
    lm_eval: Any, lm_eval_env: Any, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[Case | str, Any]:
    """Case -> what both programs say; `cut` is of the model with a short context."""
    jobs = []
    for (prompt, num_fewshot, chat), n_ctx in [*((case, 10**6) for case in CASES), (CUT, N_CTX_SHORT)]:
        scorer, ours, theirs = PROMPTS[prompt]
        asked = {subject: rows(subject, n, prompt) for subject, n in SUBJECTS.items()}
        shots = {subject: rows(f"{subject} worked", 6, prompt) for subject in SUBJECTS}
        shots["weather"][1] = {**asked["weather"][2], "id": "seen"}
        folder = tmp_path_factory.mktemp("tasks")
        tasks = {
            subject: {"doc_to_target": "answer", **theirs}
            | {"description": theirs.get("description", "").replace("%s", subject.replace("_", " "))}
            for subject in SUBJECTS
        }
        lm_eval.write_tasks(folder, tasks, asked, shots)
        told = {"tasks": str(folder), "rows": asked, "shots": shots, "prompt": asdict(ours), "scorer": scorer}
        jobs.append({**told, "num_fewshot": num_fewshot, "chat": chat, "n_ctx_train": n_ctx})
    found = lm_eval.ask(lm_eval_env, {"script": str(lm_eval.SCRIPT), "cases": jobs}, script=ASK_BOTH)
    keys: list[Case | str] = [*CASES, "cut"]
    return {key: {**told, **job} for key, told, job in zip(keys, found, jobs, strict=True)}


def same(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=TOLERANCE)


def n_leaks(case: Case) -> int:
    return int(case[1] > 0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contexts_are_the_same_bytes(both: Mapping[Any, Any], case: Case) -> None:
    theirs, ours = both[case]["theirs"]["questions"], both[case]["ours"]
    assert ours.keys() == theirs.keys()
    assert len(ours) == sum(SUBJECTS.values())
    differing = set()
    for id_, answer in ours.items():
        assert answer["continuations"] == theirs[id_]["continuations"]
        if {answer["context"]} != set(theirs[id_]["contexts"]):
            differing.add(id_)
    assert differing == ({SEEN} if n_leaks(case) else set())
    assert ours[SEEN]["n_shots"] == case[1] - n_leaks(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_log_likelihoods_are_the_same(both: Mapping[Any, Any], case: Case) -> None:
    theirs, ours = both[case]["theirs"]["questions"], both[case]["ours"]
    for id_, answer in ours.items():
        if answer["n_shots"] == case[1]:
            assert answer["logprobs"] == same(theirs[id_]["logprobs"])
    # And they are what the logits say, computed in double precision throughout.
    assert both[case]["first"] == pytest.approx(both[case]["first_exact"], rel=0, abs=1e-7)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracies_and_their_errors_are_the_same(both: Mapping[Any, Any], case: Case) -> None:
    told = both[case]
    theirs, results = told["theirs"]["questions"], told["theirs"]["results"]
    fields = {"acc": "correct", "acc_norm": "correct_norm", "acc_bytes": "correct_bytes"}
    hits: dict[str, dict[str, int]] = {metric: {} for metric in fields}
    for subject, asked in told["rows"].items():
        for row in asked:
            # The question that lm-eval asks differently goes by lm-eval's log-likelihoods.
            from_ = told["ours"] if told["ours"][row["id"]]["n_shots"] == case[1] else theirs
            question = Question(
                id=row["id"], text="?", choices=tuple(row["choices"]), answer_index=row["answer"]
            )
            graded = grade(question, from_[row["id"]]["logprobs"], letters=told["scorer"] == "letter")
            for metric, field in fields.items():
                right = getattr(graded, field)
                assert right == theirs[row["id"]][metric]
                hits[metric][subject] = hits[metric].get(subject, 0) + right
    for metric, by_subject in hits.items():
        stderrs = []
        for subject, n in SUBJECTS.items():
            found = results[f"parity_{subject}"]
            assert by_subject[subject] / n == same(found[f"{metric},none"])
            stderr = acc_stderr(by_subject[subject], n)
            assert stderr == same(found[f"{metric}_stderr,none"])
            stderrs.append(stderr or 0.0)
        whole, n_all = results["parity"], sum(SUBJECTS.values())
        assert sum(by_subject.values()) / n_all == same(whole[f"{metric},none"])
        assert pooled_stderr(stderrs, list(SUBJECTS.values())) == same(whole[f"{metric}_stderr,none"])


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "letter"], ids=str)
def test_brier_scores_are_the_same(both: Mapping[Any, Any], case: Case) -> None:
    theirs, results = both[case]["theirs"]["questions"], both[case]["theirs"]["results"]
    for subject, asked in both[case]["rows"].items():
        logprobs = [theirs[row["id"]]["logprobs"] for row in asked]
        found = calibration(logprobs, [row["answer"] for row in asked])
        assert found is not None
        assert found.brier.value == same(results[f"parity_{subject}"]["brier_score,none"])


def test_a_prompt_that_is_too_long_is_cut_where_lm_eval_cuts_it(both: Mapping[Any, Any]) -> None:
    theirs, ours = both["cut"]["theirs"]["questions"], both["cut"]["ours"]
    cut = [id_ for id_, answer in ours.items() if answer["n_cut"]]
    assert len(cut) > 20
    for id_ in cut:
        if ours[id_]["n_shots"] == CUT[1]:
            assert ours[id_]["logprobs"] == same(theirs[id_]["logprobs"])
            assert ours[id_]["logprobs"] != both[CUT]["ours"][id_]["logprobs"]
