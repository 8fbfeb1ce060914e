"""Differences of two levels: clusters, margins, and what can be detected."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.core import paired
from edgebench.core.stats import Estimate, mcnemar_mid_p, paired_difference

CLUSTERS = st.lists(st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=1, max_size=4), min_size=2, max_size=20)


def test_clusters_of_one_pair_are_plain_pairs() -> None:
    found = paired.clustered_difference([[-1]] * 30 + [[1]] * 12 + [[0]] * 458)
    plain = paired_difference(30, 12, 500)
    assert found is not None
    assert plain is not None
    assert found.value == pytest.approx(plain.value)
    assert (found.ci_low, found.ci_high) == pytest.approx((plain.ci_low, plain.ci_high), abs=5e-4)
    p = paired.clustered_p([[-1]] * 30 + [[1]] * 12 + [[0]] * 458)
    assert p == pytest.approx(mcnemar_mid_p(30, 12), abs=0.002)


def test_the_same_pair_many_times_is_one_pair() -> None:
    once = [[-1]] * 30 + [[1]] * 12 + [[0]] * 458
    often = [cluster * 4 for cluster in once]
    one, many = paired.clustered_difference(once), paired.clustered_difference(often)
    assert one is not None
    assert many is not None
    assert many.n == 2000
    assert (many.ci_low, many.ci_high) == pytest.approx((one.ci_low, one.ci_high), abs=3e-4)
    assert paired.clustered_p(often) == pytest.approx(paired.clustered_p(once), rel=0.05)


@settings(deadline=None, max_examples=60)
@given(CLUSTERS)
def test_a_difference_lies_in_its_interval_and_turns_with_its_sign(clusters: list[list[int]]) -> None:
    turned = [[-d for d in cluster] for cluster in clusters]
    found, mirrored = paired.clustered_difference(clusters), paired.clustered_difference(turned)
    assert found is not None
    assert mirrored is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert mirrored.ci_low is not None
    assert -1 <= found.ci_low <= found.value <= found.ci_high <= 1
    assert mirrored.value == -found.value
    assert mirrored.ci_low == pytest.approx(-found.ci_high, abs=1e-9)
    assert paired.clustered_p(turned) == pytest.approx(paired.clustered_p(clusters))


@settings(deadline=None, max_examples=60)
@given(CLUSTERS)
def test_the_test_and_the_interval_say_the_same(clusters: list[list[int]]) -> None:
    found, p = paired.clustered_difference(clusters), paired.clustered_p(clusters)
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    if abs(p - 0.05) > 1e-6:
        assert (found.ci_low > 0 or found.ci_high < 0) == (p < 0.05)


@settings(deadline=None, max_examples=15)
@given(CLUSTERS)
def test_the_bootstrap_repeats_and_holds_the_difference(clusters: list[list[int]]) -> None:
    found = paired.bootstrap_difference(clusters, seed=9)
    assert found == paired.bootstrap_difference(clusters, seed=9)
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.value == pytest.approx(np.mean(np.concatenate(clusters)))
    assert -1 <= found.ci_low < found.ci_high <= 1


def test_the_bootstrap_agrees_with_the_formula_and_doubts_no_change() -> None:
    clusters = [[-1, -1]] * 30 + [[1, 0]] * 20 + [[0, 0]] * 450
    drawn, formula = paired.bootstrap_difference(clusters), paired.clustered_difference(clusters)
    assert drawn is not None
    assert formula is not None
    assert (drawn.ci_low, drawn.ci_high) == pytest.approx((formula.ci_low, formula.ci_high), abs=0.004)
    still = paired.bootstrap_difference([[0]] * 100)
    assert still is not None
    assert still.ci_high is not None
    assert 0.01 < still.ci_high < 0.05


def test_too_little_says_nothing() -> None:
    alone = Estimate(value=0.5, ci_low=None, ci_high=None, n=2)
    assert paired.clustered_difference([[1, 0]]) == alone
    assert paired.bootstrap_difference([[1, 0]]) == alone
    assert paired.clustered_difference([]) is None
    assert paired.bootstrap_difference([[]]) is None
    assert paired.clustered_p([[1, 1]]) == 1
    assert paired.clustered_p([[0], [0], [0]]) == 1


def test_not_inferior_is_a_lower_limit_above_the_margin() -> None:
    found = paired_difference(20, 20, 4183)
    assert paired.non_inferior(found, 0.01) is True
    assert paired.non_inferior(found, 0.002) is False
    assert paired.non_inferior(None, 0.01) is None
    assert paired.non_inferior(Estimate(value=0.0, ci_low=None, ci_high=None, n=1), 0.01) is None


@pytest.mark.parametrize(
    ("discordance", "difference", "n"),
    [
        *((0.03, 0.03, 260), (0.03, 0.02, 587), (0.03, 0.01, 2353)),
        *((0.08, 0.05, 249), (0.08, 0.03, 696), (0.08, 0.02, 1568), (0.08, 0.01, 6277)),
        *((0.15, 0.05, 469), (0.15, 0.03, 1306), (0.15, 0.02, 2941), (0.15, 0.01, 11_771)),
    ],
)
def test_pairs_needed_for_a_difference(discordance: float, difference: float, n: int) -> None:
    assert paired.n_for_difference(difference, discordance) == n
    assert paired.n_for_difference(-difference, discordance) == n


@pytest.mark.parametrize(
    ("n", "in_points"),
    [
        *((500, (2.2, 3.5, 4.9)), (1273, (1.4, 2.2, 3.0))),
        *((4183, (0.75, 1.2, 1.7)), (14_042, (0.41, 0.67, 0.92))),
    ],
)
def test_differences_that_real_suites_can_find(n: int, in_points: tuple[float, ...]) -> None:
    for discordance, points in zip((0.03, 0.08, 0.15), in_points, strict=True):
        found = paired.minimal_detectable_difference(n, discordance)
        assert found == pytest.approx(points / 100, abs=0.0006 if points > 1 else 0.00006)


@given(st.integers(1, 20_000), st.floats(0, 1))
def test_what_is_detectable_needs_that_many_pairs(n: int, discordance: float) -> None:
    found = paired.minimal_detectable_difference(n, discordance)
    assert found is not None
    assert 0 < found <= 1
    if found < 1:
        assert paired.n_for_difference(found * (1 + 1e-9), discordance) <= n + 1
        assert paired.n_for_difference(found * 0.999, discordance) >= n


def test_a_level_that_flips_nothing_still_has_a_detectable_difference() -> None:
    found = paired.minimal_detectable_difference(1089, 0.0)
    assert found == pytest.approx((1.96 + 0.8416 * math.sqrt(1 - 0.0071)) ** 2 / 1089, rel=1e-3)
    assert paired.minimal_detectable_difference(2, 0.5) == 1
    assert paired.minimal_detectable_difference(0, 0.5) is None
