"""Costs from measurements: least squares against scipy, known costs found again, intervals that cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls as scipy_nnls

from edgebench.core.prediction import Prediction, Prior, absent, fit_costs, nnls, quotient, rate

PRIORS = {
    "bytes": Prior(cost_s=1e-10, sd_share=0.5),
    "Q4_0": Prior(cost_s=2e-11, sd_share=1.0),
    "layers": Prior(cost_s=5e-5, sd_share=1.0),
}
TRUE_S = {"bytes": 1.3e-10, "Q4_0": 1e-11, "layers": 9e-5}


def work(n_bytes: float, n_weights: float, n_layers: float) -> dict[str, float]:
    return {"bytes": n_bytes, "Q4_0": n_weights, "layers": n_layers}


def true_s(amounts: dict[str, float]) -> float:
    return sum(amounts[name] * TRUE_S[name] for name in amounts)


WORKS = [work(1e8, 5e7, 30), work(3e8, 1e8, 18), work(2e8, 4e8, 12), work(5e8, 1e8, 60), work(8e7, 1e8, 90)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 6))
def test_least_squares_above_zero_are_scipys(seed: int, n: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n + more, n)), rng.normal(size=n + more)
    found, (expected, residual) = nnls(a, b), scipy_nnls(a, b)
    assert (found >= 0).all()
    assert np.linalg.norm(a @ found - b) == pytest.approx(residual, rel=1e-9, abs=1e-9)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_nothing_to_explain_costs_nothing() -> None:
    assert nnls(np.eye(3), np.zeros(3)).tolist() == [0, 0, 0]
    assert nnls(np.eye(2), np.array([-1.0, 2.0])).tolist() == [0, 2]


def test_without_measurements_costs_are_the_expected_ones() -> None:
    costs = fit_costs([], PRIORS)
    value, sd = costs.seconds(work(1e8, 0, 0))
    assert value == pytest.approx(1e-2)
    assert sd == pytest.approx(np.hypot(0.5, 0.06) * 1e-2)


def test_measurements_outweigh_the_expectation() -> None:
    costs = fit_costs([(w, true_s(w)) for w in WORKS * 3], PRIORS)
    unseen = work(6e8, 3e8, 40)
    value, sd = costs.seconds(unseen)
    assert value == pytest.approx(true_s(unseen), rel=0.03)
    assert sd < 0.1 * value


def test_a_part_that_no_measurement_had_keeps_the_interval_wide() -> None:
    seen = [work(1e8, 0, 30), work(3e8, 0, 18), work(2e8, 0, 12)]
    costs = fit_costs([(w, true_s(w)) for w in seen], PRIORS)
    (known, known_sd), (new, new_sd) = costs.seconds(work(2e8, 0, 20)), costs.seconds(work(2e8, 1e9, 20))
    assert new > known
    assert known_sd / known < 0.15
    assert new_sd / new > 0.3


def test_no_cost_is_below_zero() -> None:
    """Measurements that more weights made faster: the part is free, not refunded."""
    rows = [(work(1e8, 0, 0), 2e-2), (work(1e8, 1e9, 0), 1e-2)] * 5
    costs = fit_costs(rows, PRIORS)
    assert min(costs.cost_s) >= 0
    assert costs.cost_s[costs.names.index("Q4_0")] == 0


def test_intervals_cover_as_often_as_they_say() -> None:
    """Costs drawn as expected, measurements off by as much as is allowed for."""
    rng = np.random.default_rng(0)
    unseen, n_inside, n = work(4e8, 3e8, 24), 0, 300
    for _ in range(n):
        drawn = {k: p.cost_s * max(0.0, 1 + p.sd_share / 2 * rng.normal()) for k, p in PRIORS.items()}
        noisy = [(w, sum(w[k] * drawn[k] for k in w) * float(np.exp(0.06 * rng.normal()))) for w in WORKS[:4]]
        value, sd = fit_costs(noisy, PRIORS).seconds(unseen)
        found = rate(1, value, sd, "")
        true_rate = 1 / sum(unseen[k] * drawn[k] for k in unseen)
        assert found.ci_low is not None
        assert found.ci_high is not None
        n_inside += found.ci_low <= true_rate <= found.ci_high
    assert n_inside >= 0.93 * n


def test_a_rate_is_between_its_bounds_and_above_zero() -> None:
    found = rate(512, 2.0, 2.0, "hardly known")
    assert found.value == 256
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert 0 < found.ci_low < 256 < found.ci_high
    assert found.ci_low * found.ci_high == pytest.approx(256**2)


def test_quotients_turn_the_interval_round() -> None:
    speed = Prediction(value=100.0, ci_low=50.0, ci_high=200.0, basis="b")
    assert quotient(500, speed) == Prediction(value=5.0, ci_low=2.5, ci_high=10.0, basis="b")
    spread = quotient(500, speed, spread=(400, 700))
    assert (spread.value, spread.ci_low, spread.ci_high) == (5.0, 2.0, 14.0)
    assert quotient(500, absent("no bandwidth known")) == absent("no bandwidth known")
