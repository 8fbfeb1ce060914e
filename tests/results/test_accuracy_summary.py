"""Accuracy's figures against values computed by hand, from invented answers."""

import math
from typing import Any

import pytest

from edgebench.core.shares import (
    acc_stderr,
    clustered_share,
    macro_f1_estimate,
    mean_of_parts,
    mean_of_parts_stderr,
    pooled_stderr,
)
from edgebench.core.stats import Estimate, wilson
from edgebench.core.types import MEDICAL_NOTE, Question
from edgebench.results.answers import suite_facts
from edgebench.results.run_report import accuracy_report
from edgebench.results.summary import rebuild


def _summary(lab: Any, run_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = lab.store.rows("SELECT * FROM summary WHERE run_id = ?", (run_id,))
    return {(row["test"], row["metric"]): row for row in rows}


def _same(row: dict[str, Any], expected: Estimate | None) -> bool:
    assert expected is not None
    return [row[name] for name in ("value", "ci_low", "ci_high", "n")] == [
        pytest.approx(getattr(expected, name)) for name in ("value", "ci_low", "ci_high", "n")
    ]


def _number(question: Question) -> int:
    return int(question.id[1:])


def _right_until(n: int) -> Any:
    """Right in the first `n` questions, the next option in the others."""

    def choose(question: Question, _rotation: int) -> int:
        miss = int(_number(question) >= n)
        return ((question.answer_index or 0) + miss) % len(question.choices)

    return choose


def test_a_plain_run_has_lmevals_standard_error(lab: Any) -> None:
    run = lab.answered(lab.artifact("q8_0", 8.5), lab.asked(n=10), _right_until(7))
    found = _summary(lab, run)
    assert _same(found["exam@1", "acc"], wilson(7, 10))
    assert found["exam@1", "acc_stderr"]["value"] == acc_stderr(7, 10)
    assert ("exam@1", "acc_as_stored") not in found
    assert found["exam@1", "n_truncated"]["value"] == 0
    assert not any("/" in test for test, _ in found)  # a single subject is the whole


def test_all_rotations_are_one_cluster_a_question(lab: Any) -> None:
    # Right where the key stands at the first two places: half of the rotations of each question.
    def choose(question: Question, rotation: int) -> int:
        k, key = len(question.choices), question.answer_index or 0
        return key if (key - rotation) % k < 2 else (key + 1) % k

    suite = lab.asked(n=12)
    found = _summary(lab, lab.answered(lab.artifact("q8_0", 8.5), suite, choose, permute="cyclic"))
    row = found["exam@1", "acc"]
    expected = clustered_share([[1.0, 1.0, 0.0, 0.0]] * 12)
    assert expected is not None
    assert (row["value"], row["n"]) == (0.5, 12)
    assert (row["ci_low"], row["ci_high"]) == (expected.ci_low, expected.ci_high)
    assert ("exam@1", "acc_stderr") not in found  # lm-eval asks once
    as_stored = sum((question.answer_index or 0) < 2 for question in suite.questions)
    assert _same(found["exam@1", "acc_as_stored"], wilson(as_stored, 12))


def test_repeats_of_a_run_that_did_not_permute_do_not_count(lab: Any) -> None:
    artifact, suite = lab.artifact("q8_0", 8.5), lab.asked(n=4)
    run = lab.answered(artifact, suite, _right_until(4))
    lab.store.add_answers(
        run, [{"question_id": "q0000", "repeat": 1, "choice_index": 3, "correct": 0, "n_cut": 5}]
    )
    rebuild(lab.store)
    assert _summary(lab, run)["exam@1", "acc"]["value"] == 1.0


def test_chosen_places_are_those_shown_not_those_stored(lab: Any) -> None:
    first = lab.answered(
        lab.artifact("q8_0", 8.5),
        lab.asked(n=9, sizes=(3, 4)),
        lambda question, rotation: rotation % len(question.choices),  # what place A shows
        permute="cyclic",
    )
    found = _summary(lab, first)
    shares = [found["exam@1", f"share_choice_{place}"]["value"] for place in "ABCD"]
    assert shares == [1.0, 0.0, 0.0, 0.0]
    assert found["exam@1", "share_choice_D"]["n"] == 4  # of the questions that have it


def test_subjects_categories_and_slices_have_rows_of_their_own(lab: Any) -> None:
    suite = lab.asked(
        n=12,
        subjects=("anatomy", "virology", "law"),
        categories={"Medicine": ("anatomy", "virology"), "Other": ("law",), "Empty": ("art",)},
        slices={"anatomy": ("anatomy",)},  # named as a subject is
    )
    found = _summary(lab, lab.answered(lab.artifact("q8_0", 8.5), suite, _right_until(7)))
    hits = {"anatomy": 3, "virology": 2, "law": 2}
    for name, n_hits in hits.items():
        assert _same(found[f"exam@1/subject/{name}", "acc"], wilson(n_hits, 4))
        assert found[f"exam@1/subject/{name}", "acc_stderr"]["value"] == acc_stderr(n_hits, 4)
    assert _same(found["exam@1/category/Medicine", "acc"], wilson(5, 8))
    assert _same(found["exam@1/slice/anatomy", "acc"], wilson(3, 4))
    assert not any("Empty" in test for test, _ in found)
    stderrs = [acc_stderr(n_hits, 4) or math.nan for n_hits in hits.values()]
    assert found["exam@1", "acc_stderr_pooled"]["value"] == pytest.approx(pooled_stderr(stderrs, [4, 4, 4]))


def test_the_unweighted_mean_of_subjects_is_a_headline(lab: Any) -> None:
    suite = lab.asked(n=9, subjects=("a", "a", "b"), headline="mean_of_subjects")
    run = lab.answered(lab.artifact("q8_0", 8.5), suite, _right_until(5))
    found = _summary(lab, run)
    a, b = wilson(4, 6), wilson(1, 3)
    assert a is not None
    assert b is not None
    assert _same(found["exam@1", "acc_mean_of_subjects"], mean_of_parts([a, b]))
    stderr = mean_of_parts_stderr([acc_stderr(4, 6) or 0.0, acc_stderr(1, 3) or 0.0])
    assert found["exam@1", "acc_mean_of_subjects_stderr"]["value"] == pytest.approx(stderr)
    assert accuracy_report(lab.store, lab.store.run(run))["headline"]["metric"] == "acc_mean_of_subjects"


def test_macro_f1_counts_a_missing_answer_as_a_miss(lab: Any) -> None:
    suite = lab.asked(n=12, sizes=(3,), headline="macro_f1")
    chosen = [0, 1, 2, 0, None, 2, 1, 1, 0, 0, 1, None]
    run = lab.answered(
        lab.artifact("q8_0", 8.5), suite, lambda question, _: chosen[_number(question)], scorer="generate"
    )
    gold = [question.answer_index or 0 for question in suite.questions]
    assert _same(_summary(lab, run)["exam@1", "macro_f1"], macro_f1_estimate(gold, chosen))


def test_an_answer_nobody_could_read_is_wrong_and_counted(lab: Any) -> None:
    run = lab.answered(
        lab.artifact("q8_0", 8.5),
        lab.asked(n=8),
        lambda question, _: None if _number(question) % 4 == 3 else question.answer_index,
        scorer="generate",
    )
    found = _summary(lab, run)
    assert _same(found["exam@1", "acc"], wilson(6, 8))
    assert _same(found["exam@1", "acc_valid"], wilson(6, 6))
    assert _same(found["exam@1", "no_answer_rate"], wilson(2, 8))
    assert found["exam@1", "share_choice_A"]["n"] == 6
    assert ("exam@1", "acc_norm") not in found


def test_no_reading_at_all_leaves_no_valid_accuracy(lab: Any) -> None:
    run = lab.answered(lab.artifact("q8_0", 8.5), lab.asked(n=3), lambda *_: None, scorer="generate")
    found = _summary(lab, run)
    assert found["exam@1", "acc"]["value"] == 0
    assert found["exam@1", "no_answer_rate"]["value"] == 1
    assert ("exam@1", "acc_valid") not in found


def test_a_suite_without_a_key_has_everything_but_grades(lab: Any) -> None:
    suite = lab.asked(n=8, keyed=False, subjects=("a", "b"), headline="mean_of_subjects")
    run = lab.answered(
        lab.artifact("q8_0", 8.5), suite, lambda *_: 1, logprobs=lambda *_: [-1.0, -0.5, -2, -2]
    )
    found = _summary(lab, run)
    assert {metric for _, metric in found} == {
        "n_truncated",
        *(f"share_choice_{place}" for place in "ABCD"),
    }
    assert found["exam@1", "share_choice_B"]["value"] == 1.0
    report = accuracy_report(lab.store, lab.store.run(run))
    assert (report["headline"], report["subjects"], report["calibration"]) == (None, [], None)


def test_calibration_takes_the_order_as_stored(lab: Any) -> None:
    def logprobs(question: Question, rotation: int) -> list[float]:
        sure = math.log(0.7) if rotation == 0 else math.log(0.1)
        rest = math.log((1 - math.exp(sure)) / 3)
        return [sure if i == question.answer_index else rest for i in range(4)]

    run = lab.answered(
        lab.artifact("q8_0", 8.5), lab.asked(n=20), _right_until(20), permute="cyclic", logprobs=logprobs
    )
    found = _summary(lab, run)
    assert found["exam@1", "nll_nats"]["value"] == pytest.approx(-math.log(0.7))
    assert found["exam@1", "brier"]["value"] == pytest.approx(0.3**2 + 3 * 0.1**2)
    assert found["exam@1", "ece_plain"]["value"] == pytest.approx(0.3)
    assert _same(found["exam@1", "acc_at_coverage_0.8"], wilson(16, 16))
    assert found["exam@1", "aurc"]["value"] == 0


@pytest.mark.parametrize("text", ["[-1.0]", "[]", "3", '["a", "b", "c", "d"]', "[-1, -1, -1, -Infinity]"])
def test_log_likelihoods_that_are_none_are_left_out(lab: Any, text: str) -> None:
    run = lab.run(lab.artifact("q8_0", 8.5), "accuracy", suite_id=lab.asked(n=2).id, scorer="letter")
    row = {"question_id": "q0000", "choice_index": 0, "correct": 1, "logprobs_json": text}
    lab.store.add_answers(run, [row])
    assert ("exam@1", "ece") not in _summary(lab, lab.finish(run))


def test_prompts_that_were_cut_are_counted(lab: Any) -> None:
    run = lab.run(lab.artifact("q8_0", 8.5), "accuracy", suite_id=lab.asked(n=3).id, scorer="letter")
    rows = [
        {"question_id": f"q000{i}", "choice_index": 0, "correct": 1, "n_cut": cut}
        for i, cut in enumerate([0, 7, 1])
    ]
    lab.store.add_answers(run, rows)
    lab.finish(run)
    found = _summary(lab, run)["exam@1", "n_truncated"]
    assert (found["value"], found["n"]) == (2, 3)


def test_a_report_names_how_the_questions_were_asked(lab: Any) -> None:
    suite = lab.asked(n=8, subjects=("a", "b"), medical=True, label="non-commercial, no derivatives")
    run = lab.answered(
        lab.artifact("q8_0", 8.5),
        suite,
        _right_until(4),
        config={"num_fewshot": 5, "apply_chat_template": True},
    )
    report = accuracy_report(lab.store, lab.store.run(run))
    assert (report["num_fewshot"], report["permute"], report["apply_chat_template"]) == (5, "none", True)
    assert report["notes"] == [MEDICAL_NOTE, "exam: non-commercial, no derivatives"]
    assert [(part["name"], part["acc"]["value"]) for part in report["subjects"]] == [("a", 0.5), ("b", 0.5)]
    assert suite_facts(lab.store, "unknown@1").headline == "acc"
