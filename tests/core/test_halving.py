"""Successive halving: what it spends, what it forgives, and whether it finds the best."""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.halving import (
    ANCHOR,
    Schedule,
    Visit,
    anchored,
    halving,
    last_visits,
    n_anchors,
    schedule,
)

ROUNDS, REPETITIONS = 2, 5
"""What every candidate gets in a sweep."""
SPEED = {"n_pairs": 3, "least_repetitions": 2, "wanted_repetitions": 4}
PAIRS = (SPEED, {"n_pairs": 6})
sizes = st.integers(min_value=2, max_value=120)
Measure = Callable[[Visit], list[float]]


def third_of_a_sweep(n: int, **pairs: int) -> Schedule:
    return schedule(n, n_rounds=ROUNDS, n_repetitions=REPETITIONS, **(pairs or SPEED))


def search(found: Schedule, measure: Measure, seed: int = 0) -> tuple[list[int], list[tuple[Visit, ...]]]:
    """The ranking, and every rung's visits; scores are medians of anchored log ratios."""
    steps, rungs = halving(found, seed=seed), []
    ratios: dict[int, list[float]] = {}
    try:
        visits = next(steps)
        while True:
            rungs.append(visits)
            for candidate, logs in anchored([(v.candidate_index, measure(v)) for v in visits]).items():
                ratios.setdefault(candidate, []).extend(logs)
            visits = steps.send({c: median(logs) for c, logs in ratios.items()})
    except StopIteration as end:
        return end.value, rungs


def exact(costs: Sequence[float]) -> Measure:
    return lambda visit: [costs[visit.candidate_index]] * visit.n_repetitions


# What it spends.


@given(n=sizes, pairs=st.sampled_from(PAIRS))
def test_a_third_of_the_sweep_is_not_exceeded(n: int, pairs: Mapping[str, int]) -> None:
    found = third_of_a_sweep(n, **pairs)
    if n >= (11 if pairs["n_pairs"] == 3 else 14):
        assert found.n_passes <= n * ROUNDS * (REPETITIONS + 1) / 3
    if n >= 6:
        assert found.n_repetitions_at_most <= n * ROUNDS * REPETITIONS / 3
    assert found.n_repetitions_at_most <= n * ROUNDS * REPETITIONS  # never more than trying everything


@given(n=sizes, pairs=st.sampled_from(PAIRS))
def test_what_is_promised_is_what_is_done(n: int, pairs: Mapping[str, int]) -> None:
    found = third_of_a_sweep(n, **pairs)
    ranking, rungs = search(found, exact([1.0 + c for c in range(n)]))
    visits = [visit for rung in rungs for visit in rung] + list(last_visits(found, ranking[0])[0])
    assert len(visits) == found.n_search_visits + 2 * found.n_pairs
    assert sum(v.n_repetitions for v in visits) == found.n_repetitions
    assert sum(v.n_passes for v in visits) == found.n_passes
    assert sorted(ranking) == list(range(1, n))


@given(n=sizes)
def test_rungs_grow_narrower_and_longer(n: int) -> None:
    rungs = third_of_a_sweep(n).rungs
    assert rungs[:1] == (((n - 1, 1),) if n > 2 else ())
    for (wide, short), (narrow, long) in pairwise(rungs):
        assert 2 <= narrow < wide
        assert short <= long


@given(n=sizes, seed=st.integers(0, 5))
def test_every_rung_begins_and_ends_with_the_anchor(n: int, seed: int) -> None:
    _, rungs = search(third_of_a_sweep(n), exact([1.0] * n), seed)
    for rung in rungs:
        order = [visit.candidate_index for visit in rung]
        counts = Counter(order)
        assert (order[0], order[-1]) == (ANCHOR, ANCHOR)
        assert counts.pop(ANCHOR) == n_anchors(len(counts))
        assert set(counts.values()) == {1}


def test_the_order_follows_from_the_seed() -> None:
    found = third_of_a_sweep(24)
    orders = [search(found, exact([1.0] * 24), seed)[1] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_the_last_comparison_puts_neither_side_always_first() -> None:
    found = third_of_a_sweep(24)
    first, second = last_visits(found, 7)
    assert (len(first), len(second)) == (2 * found.n_pairs, 2 * found.n_more_pairs)
    order = [v.candidate_index for v in (*first, *second)]
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert all(set(pair) == {ANCHOR, 7} for pair in pairs)
    assert {first for first, _ in pairs} == {ANCHOR, 7}


# What it forgives.


@given(
    costs=st.lists(st.floats(0.01, 100), min_size=3, max_size=40),
    slope=st.floats(-0.05, 0.05),
    seed=st.integers(0, 9),
)
def test_a_steady_drift_is_taken_out(costs: list[float], slope: float, seed: int) -> None:
    order = [ANCHOR, *random.Random(seed).sample(range(1, len(costs)), len(costs) - 1), ANCHOR]
    seen = [(c, [costs[c] * math.exp(slope * i)]) for i, c in enumerate(order)]
    for candidate, (ratio,) in anchored(seen).items():
        assert ratio == pytest.approx(math.log(costs[candidate] / costs[ANCHOR]), abs=1e-9)


def test_visits_without_values_are_passed_over() -> None:
    assert anchored([(0, [1.0]), (1, []), (2, [2.0]), (0, [])]) == {2: [math.log(2)]}
    assert anchored([(0, []), (1, [3.0])]) == {}
    assert anchored([]) == {}


def test_who_could_not_be_measured_is_out() -> None:
    found = third_of_a_sweep(24)
    steps = halving(found)
    visits = next(steps)
    scores = {c: float(c) for c in range(2, 24)}
    following = steps.send(scores)
    assert 1 in {v.candidate_index for v in visits}
    assert 1 not in {v.candidate_index for v in following}


# Whether it finds the best.


@given(costs=st.lists(st.floats(0.5, 2), min_size=3, max_size=80, unique=True), seed=st.integers(0, 99))
def test_without_noise_it_finds_the_best(costs: list[float], seed: int) -> None:
    ranking, _ = search(third_of_a_sweep(len(costs)), exact(costs), seed)
    assert ranking[0] == min(range(1, len(costs)), key=lambda c: costs[c])


def noisy(
    costs: Sequence[float], rng: random.Random, process: float, repetition: float, drift: float
) -> Measure:
    """Processes differ, repetitions scatter, and the host drifts from visit to visit."""
    level = 0.0

    def measure(visit: Visit) -> list[float]:
        nonlocal level
        level += rng.gauss(0, drift)
        centre = math.log(costs[visit.candidate_index]) + level + rng.gauss(0, process)
        return [math.exp(centre + rng.gauss(0, repetition)) for _ in range(visit.n_repetitions)]

    return measure


@pytest.mark.parametrize("n", [8, 12, 24, 36, 96])
def test_with_a_hosts_noise_it_is_within_five_percent_in_nearly_all_sittings(n: int) -> None:
    good, n_sittings = 0, 200
    for seed in range(n_sittings):
        rng = random.Random(seed)
        costs = [1.0, *(rng.uniform(0.7, 1.5) for _ in range(n - 1))]
        ranking, _ = search(third_of_a_sweep(n), noisy(costs, rng, 0.02, 0.02, 0.01), seed)
        good += costs[ranking[0]] <= 1.05 * min(costs[1:])
    assert good >= 0.95 * n_sittings
