"""The confidence sequence: Robbins' mixture by scipy, and looks after every answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import betabinom, binom

from edgebench.core.sequential import narrow_enough, share_sequence
from edgebench.core.stats import Estimate, wilson

COUNTS = st.integers(min_value=0, max_value=3000)


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_the_limits_are_where_the_mixture_is_twenty_times_as_likely(n_hits: int, n_misses: int) -> None:
    n = n_hits + n_misses
    found = share_sequence(n_hits, n)
    if n == 0:
        assert found is None
        return
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0 <= found.ci_low <= found.value <= found.ci_high <= 1
    for limit in (found.ci_low, found.ci_high):
        if 0 < limit < 1:
            ratio = betabinom.logpmf(n_hits, n, 0.5, 0.5) - binom.logpmf(n_hits, n, limit)
            assert ratio == pytest.approx(np.log(20), abs=1e-5)
        else:
            assert n_hits in (0, n)


@pytest.mark.parametrize("p", [0.02, 0.25, 0.5, 0.8, 0.99])
def test_looks_after_every_answer_miss_the_truth_in_at_most_5_percent(p: float) -> None:
    hits = (np.random.default_rng(11).random((2000, 1089)) < p).cumsum(axis=1)
    n = np.arange(1, 1090)
    mixture = gammaln(hits + 0.5) + gammaln(n - hits + 0.5) - gammaln(n + 1) - np.log(np.pi)
    ratio = mixture - hits * np.log(p) - (n - hits) * np.log(1 - p)  # the one of the test above
    assert (ratio > np.log(20)).any(axis=1).mean() <= 0.05
    path = hits[0]
    for look in (1, 8, 100, 1089):
        found = share_sequence(int(path[look - 1]), look)
        assert found is not None
        assert found.ci_low is not None
        assert found.ci_high is not None
        assert (found.ci_low <= p <= found.ci_high) == (ratio[0, look - 1] <= np.log(20))


def test_peeking_at_wilsons_interval_would_miss_far_more_often() -> None:
    hits = (np.random.default_rng(12).random((300, 600)) < 0.5).cumsum(axis=1)
    missed = 0
    for path in hits:
        looks = [wilson(int(path[n - 1]), n) for n in range(8, 601, 8)]
        missed += any(look and not _holds(look, 0.5) for look in looks)
    assert missed / len(hits) > 0.15


def test_a_smaller_alpha_is_wider_and_more_answers_are_narrower() -> None:
    widths = [_half_width(share_sequence(n * 6 // 10, n)) for n in (10, 100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    assert _half_width(share_sequence(60, 100, alpha=0.01)) > widths[1]
    assert _half_width(wilson(60, 100)) < widths[1] < 2 * _half_width(wilson(60, 100))


def test_narrow_enough_is_half_the_width() -> None:
    found = Estimate(value=0.5, ci_low=0.475, ci_high=0.525, n=400)
    assert narrow_enough(found, 0.0251)
    assert not narrow_enough(found, 0.0249)
    assert not narrow_enough(None, 1)
    assert not narrow_enough(Estimate(value=0.5, ci_low=None, ci_high=None, n=2), 1)


def _holds(estimate: Estimate, p: float) -> bool:
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return estimate.ci_low <= p <= estimate.ci_high


def _half_width(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return (estimate.ci_high - estimate.ci_low) / 2
