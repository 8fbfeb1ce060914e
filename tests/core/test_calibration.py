"""Calibration by its definitions, written out once more and slowly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.stats import ttest_1samp

from edgebench.core.calibration import accuracy_at_coverage, aurc, calibration, ece, softmax
from edgebench.core.stats import wilson

LOGPROBS = st.lists(st.floats(min_value=-60, max_value=0), min_size=2, max_size=10)
QUESTIONS = st.lists(LOGPROBS.flatmap(lambda row: st.tuples(st.just(row), st.integers(0, len(row) - 1))))
CONFIDENT = st.lists(st.tuples(st.floats(0.1, 1), st.booleans()), min_size=1, max_size=200)


@given(LOGPROBS)
def test_probabilities_are_scipys_softmax(logprobs: list[float]) -> None:
    assert softmax(logprobs) == pytest.approx(special.softmax(logprobs))


def test_an_option_that_cannot_be_has_probability_0() -> None:
    assert softmax([-math.inf, -1.0, -1.0]) == [0, 0.5, 0.5]
    assert softmax([-2000.0, -1000.0]) == [0, 1]


@settings(deadline=None, max_examples=60)
@given(QUESTIONS)
def test_brier_nll_and_accuracy_follow_their_definitions(questions: list[tuple[list[float], int]]) -> None:
    found = calibration([row for row, _ in questions], [key for _, key in questions])
    if not questions:
        assert found is None
        return
    assert found is not None
    assert found.n == len(questions) == sum(b.n for b in found.bins)
    rows = [(special.softmax(row), key) for row, key in questions]
    brier = [((p - np.eye(len(p))[key]) ** 2).sum() for p, key in rows]
    assert found.brier.value == pytest.approx(np.mean(brier), abs=1e-12)
    nll = [-special.log_softmax(row)[key] for row, key in questions]
    assert found.nll.value == pytest.approx(np.mean(nll), abs=1e-9)
    confidences = [max(softmax(row)) for row, _ in questions]
    hits = [softmax(row).index(max(softmax(row))) == key for row, key in questions]
    assert found.ece_plain_share == pytest.approx(ece(confidences, hits))
    assert found.covered == accuracy_at_coverage(confidences, hits, 0.8)
    assert found.aurc_share == pytest.approx(aurc(confidences, hits))
    assert sum(b.n * b.correct_share for b in found.bins) == pytest.approx(sum(hits))


def test_lm_evals_brier_score_of_an_even_guess() -> None:
    found = calibration([[-1.0] * 4] * 3, [0, 1, 3])
    assert found is not None
    assert found.brier.value == pytest.approx(0.75)
    assert found.nll.value == pytest.approx(math.log(4))


def test_means_have_students_interval() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 4))
    gold = rng.integers(4, size=40)
    found = calibration(rows.tolist(), gold.tolist())
    assert found is not None
    nll = [-special.log_softmax(row)[key] for row, key in zip(rows, gold, strict=True)]
    expected = ttest_1samp(nll, 0).confidence_interval()
    assert (found.nll.ci_low, found.nll.ci_high) == pytest.approx((expected.low, expected.high))


def test_a_key_of_probability_0_is_infinitely_unexpected() -> None:
    found = calibration([[-math.inf, 0.0], [0.0, -math.inf]], [0, 0])
    assert found is not None
    assert found.nll.value == math.inf
    assert (found.nll.ci_low, found.nll.ci_high) == (None, None)


@given(CONFIDENT)
def test_ece_is_the_gap_of_equally_filled_bins(answers: list[tuple[float, bool]]) -> None:
    ordered = sorted(answers, key=lambda answer: answer[0])
    n, n_bins = len(ordered), max(1, min(15, len(ordered) // 5))
    total, start = 0.0, 0
    for b in range(n_bins):
        size = n // n_bins + (b < n % n_bins)
        part = ordered[start : start + size]
        total += abs(sum(c for c, _ in part) - sum(hit for _, hit in part)) / n
        start += size
    assert ece([c for c, _ in answers], [hit for _, hit in answers]) == pytest.approx(total, abs=1e-12)


@given(CONFIDENT)
def test_aurc_is_the_mean_risk_over_all_coverages(answers: list[tuple[float, bool]]) -> None:
    ordered = sorted(answers, key=lambda answer: -answer[0])
    risks = [sum(not hit for _, hit in ordered[: i + 1]) / (i + 1) for i in range(len(ordered))]
    assert aurc([c for c, _ in answers], [hit for _, hit in answers]) == pytest.approx(np.mean(risks))


def test_coverage_keeps_the_most_confident() -> None:
    confidences, hits = [0.9, 0.3, 0.8, 0.5, 0.7], [True, False, True, False, True]
    assert accuracy_at_coverage(confidences, hits, 0.6) == wilson(3, 3)
    assert accuracy_at_coverage(confidences, hits, 0.8) == wilson(3, 4)
    assert accuracy_at_coverage(confidences, hits, 1) == wilson(3, 5)
    assert accuracy_at_coverage(confidences, hits, 0.61) == wilson(3, 4)
    assert accuracy_at_coverage([], [], 0.8) is None


def test_a_calibrated_model_has_nearly_no_error_once_the_bias_is_gone() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, 1089)
    rows = [[math.log(c), math.log1p(-c)] for c in confidence]
    gold = (rng.random(1089) > confidence).astype(int).tolist()
    found = calibration(rows, gold)
    assert found is not None
    assert found.ece_plain_share > 0.02
    assert found.ece.value < found.ece_plain_share
    assert found.ece.ci_low == 0
    assert found == calibration(rows, gold)
    overconfident = calibration([[4 * x for x in row] for row in rows], gold)
    assert overconfident is not None
    assert overconfident.ece.ci_low is not None
    assert overconfident.ece.ci_low > 0.08


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(LOGPROBS, st.just(0)), min_size=1, max_size=3))
def test_a_handful_of_questions_is_no_error(questions: list[tuple[list[float], int]]) -> None:
    found = calibration([row for row, _ in questions], [key for _, key in questions])
    assert found is not None
    assert found.ece.ci_low is not None
    assert found.ece.ci_low <= found.ece.value
