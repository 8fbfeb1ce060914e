"""Shares: lm-eval's standard errors, clusters, parts, macro-F1."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgebench.core import shares
from edgebench.core.stats import Estimate, wilson

BITS = st.lists(st.sampled_from([0, 1]), min_size=2, max_size=60)
CLUSTERS = st.lists(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=5), min_size=2, max_size=20)
PROBABILITY = st.floats(min_value=0, max_value=1)


@given(BITS)
def test_acc_stderr_is_that_of_a_mean(answers: list[int]) -> None:
    expected = np.std(answers, ddof=1) / math.sqrt(len(answers))
    assert shares.acc_stderr(sum(answers), len(answers)) == pytest.approx(expected, abs=1e-15)


def test_one_answer_has_no_stderr() -> None:
    assert shares.acc_stderr(1, 1) is None
    assert shares.acc_stderr(0, 0) is None


@given(st.lists(BITS, min_size=1, max_size=6))
def test_pooled_stderr_is_that_of_the_variance_within_tasks(tasks: list[list[int]]) -> None:
    stderrs = [shares.acc_stderr(sum(task), len(task)) or 0.0 for task in tasks]
    found = shares.pooled_stderr(stderrs, [len(task) for task in tasks])
    n = sum(map(len, tasks))
    within = sum(((np.array(task) - np.mean(task)) ** 2).sum() for task in tasks) / (n - len(tasks))
    assert found == pytest.approx(math.sqrt(within / n), abs=1e-15)


def test_pooled_stderr_of_one_task_is_its_own_and_of_single_answers_none() -> None:
    assert shares.pooled_stderr([0.05], [100]) == pytest.approx(0.05)
    assert shares.pooled_stderr([0.0, 0.0], [1, 1]) is None
    assert shares.pooled_stderr([], []) is None


def test_clusters_of_one_answer_are_independent_answers() -> None:
    answers = [1] * 30 + [0] * 70
    singles = [[answer] for answer in answers]
    assert shares.clustered_stderr(singles) == pytest.approx(shares.acc_stderr(30, 100))
    found, plain = shares.clustered_share(singles), wilson(30, 100)
    assert found is not None
    assert plain is not None
    assert found.value == 0.3
    assert found.ci_low == pytest.approx(plain.ci_low, abs=0.003)
    assert found.ci_high == pytest.approx(plain.ci_high, abs=0.003)


def test_the_same_answer_many_times_is_one_answer() -> None:
    once = shares.clustered_share([[1]] * 30 + [[0]] * 70)
    often = shares.clustered_share([[1] * 8] * 30 + [[0] * 8] * 70)
    assert once is not None
    assert often is not None
    assert often.n == 800
    assert (often.ci_low, often.ci_high) == pytest.approx((once.ci_low, once.ci_high), abs=2e-3)


def test_all_right_is_not_sure_and_the_clusters_count() -> None:
    found = shares.clustered_share([[1] * 4] * 20)
    assert found is not None
    assert found.ci_high == 1
    assert found.ci_low == pytest.approx(20 / (20 + 2.093**2), abs=1e-3)  # n / (n + t^2), of 20 not of 80


@settings(deadline=None)
@given(CLUSTERS)
def test_a_share_lies_in_its_interval_within_0_and_1(clusters: list[list[int]]) -> None:
    found = shares.clustered_share(clusters)
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0 <= found.ci_low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.ci_high <= 1
    assert shares.clustered_share(clusters[::-1]) == found
    n = sum(map(len, clusters))
    plain = binomtest(sum(map(sum, clusters)), n).proportion_ci(method="wilson")
    assert found.ci_high - found.ci_low >= plain.high - plain.low - 1e-9


def test_one_cluster_carries_no_interval_and_none_no_share() -> None:
    found = shares.clustered_share([[1, 0, 1, 1], []])
    assert found == Estimate(value=0.75, ci_low=None, ci_high=None, n=4)
    assert shares.clustered_share([]) is None
    assert shares.clustered_stderr([[1, 0]]) is None


def test_a_mean_of_parts_is_unweighted() -> None:
    parts = [found for found in (wilson(80, 100), wilson(100, 1000)) if found]
    found = shares.mean_of_parts(parts)
    assert found is not None
    assert found.value == pytest.approx(0.45)
    assert found.n == 1100
    assert shares.mean_of_parts_stderr([0.04, 0.03]) == pytest.approx(0.025)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100 + 0.1 * 0.9 / 1000) / 2
    assert found.ci_high == pytest.approx(0.45 + half, abs=0.006)
    assert found.ci_low == pytest.approx(0.45 - half, abs=0.006)


def test_a_mean_of_parts_is_as_good_as_its_parts() -> None:
    sure = Estimate(value=0.5, ci_low=0.4, ci_high=0.6, n=90)
    unsure = Estimate(value=0.7, ci_low=None, ci_high=None, n=4)
    assert shares.mean_of_parts([sure]) == sure
    found = shares.mean_of_parts([sure, unsure])
    assert found is not None
    assert (found.value, found.ci_low, found.ci_high) == (pytest.approx(0.6), None, None)
    assert shares.mean_of_parts([]) is None
    assert shares.mean_of_parts_stderr([]) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=6))
def test_a_mean_of_parts_stays_in_0_and_1(counts: list[tuple[int, int]]) -> None:
    parts = [found for hits, more in counts if (found := wilson(hits, hits + more))]
    found = shares.mean_of_parts(parts)
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert -1e-12 <= found.ci_low <= found.value <= found.ci_high <= 1 + 1e-12


def test_macro_f1_of_a_worked_example() -> None:
    gold = [0, 0, 0, 1, 1, 2]
    chosen = [0, 0, 1, 1, None, 0]
    # yes: 2 hits, 3 keys, 3 chosen; no: 1 hit, 2 keys, 2 chosen; maybe: no hit
    assert shares.macro_f1(gold, chosen) == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)


def test_always_yes_has_the_macro_f1_of_one_class_in_three() -> None:
    gold = [0] * 276 + [1] * 169 + [2] * 55
    assert shares.macro_f1(gold, [0] * 500) == pytest.approx(2 * 276 / 776 / 3)


def test_macro_f1_of_few_answers() -> None:
    assert shares.macro_f1([], []) is None
    assert shares.macro_f1([1], [None]) == 0
    assert shares.macro_f1([1], [1]) == 1  # a class that is neither key nor choice is no class
    assert shares.macro_f1_estimate([], []) is None
    assert shares.macro_f1_estimate([1], [1]) == Estimate(value=1.0, ci_low=None, ci_high=None, n=1)


def test_macro_f1_has_an_interval_and_clusters_widen_it() -> None:
    rng = np.random.default_rng(7)
    gold = np.repeat(rng.integers(3, size=60), 5)
    right = np.repeat(rng.random(60) < 0.6, 5)
    chosen = np.where(right, gold, (gold + 1) % 3).tolist()
    alone = shares.macro_f1_estimate(gold.tolist(), chosen, seed=1)
    together = shares.macro_f1_estimate(gold.tolist(), chosen, clusters=np.repeat(range(60), 5).tolist())
    assert alone == shares.macro_f1_estimate(gold.tolist(), chosen, seed=1)
    assert alone is not None
    assert together is not None
    assert _width(together) > 1.8 * _width(alone)  # sqrt(5)
    for found in (alone, together):
        assert found.ci_low is not None
        assert found.ci_high is not None
        assert found.ci_low < found.value < found.ci_high


def _width(estimate: Estimate) -> float:
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return estimate.ci_high - estimate.ci_low
