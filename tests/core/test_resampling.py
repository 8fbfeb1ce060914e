"""The cluster bootstrap against the same drawn plainly."""

import numpy as np
import pytest
from scipy.stats import norm, t

from edgebench.core import resampling
from edgebench.core.resampling import percentile_interval, resampled_totals


def test_equal_rows_drawn_together_are_rows_drawn_one_by_one() -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(3, size=(40, 2)).astype(float)
    found = resampled_totals(rows)
    plain = rows[rng.integers(40, size=(10_000, 40))].sum(axis=1)
    assert found.shape == plain.shape
    assert found.mean(axis=0) == pytest.approx(plain.mean(axis=0), rel=0.01)
    assert np.cov(found.T) == pytest.approx(np.cov(plain.T), rel=0.1, abs=1)


def test_many_kinds_of_rows_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(50.0)[:, None]
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", 7 * 50)
    found = resampled_totals(rows)
    assert found.shape == (10_000, 1)
    assert found.mean() == pytest.approx(rows.sum(), rel=0.01)


def test_few_clusters_widen_the_percentiles() -> None:
    draws = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    low, high = percentile_interval(draws, 10)
    assert high == pytest.approx((10 / 9) ** 0.5 * t.ppf(0.975, 9), abs=0.01)
    assert low == pytest.approx(-high)
    assert percentile_interval(draws, 10_000)[1] == pytest.approx(1.96, abs=0.01)
