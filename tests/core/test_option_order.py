"""Option order: models whose bias is known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from edgebench.core import option_order, resampling
from edgebench.core.option_order import OrderReport, Turned, order_report

OPTION = st.integers(0, 2)


def turned(
    n: int, likes: Sequence[float], *, skill: float = 1.0, seed: int = 0, noise: float = 0.0
) -> list[Turned]:
    """Questions of a model that adds `likes[j]` to whatever stands at place j."""
    rng, k = np.random.default_rng(seed), len(likes)
    found = []
    for _ in range(n):
        gold = int(rng.integers(k))
        content = rng.normal(size=k)
        content[gold] += skill
        rows = [[content[i] + likes[(i - r) % k] for i in range(k)] for r in range(k)]
        logprobs = log_softmax(np.array(rows) + rng.normal(0, noise, (k, k)), axis=1)
        found.append(
            Turned(
                answer_index=gold,
                choices=[int(row.argmax()) for row in logprobs],
                logprobs=logprobs.tolist(),
            )
        )
    return found


def report(questions: Sequence[Turned]) -> OrderReport:
    found = order_report(questions)
    assert found is not None
    return found


def test_a_model_that_always_takes_a_is_right_once_in_every_turn() -> None:
    found = report([Turned(answer_index=q % 4, choices=[0, 1, 2, 3]) for q in range(200)])
    assert found.n == 200
    assert found.accuracy.value == 0.25
    assert found.circular.value == 0
    assert found.consistent.value == 0
    assert [place.value for place in found.gold_at] == [1, 0, 0, 0]
    assert [place.value for place in found.chosen_at] == [1, 0, 0, 0]
    assert found.fair_at == (0.25, 0.25, 0.25, 0.25)
    assert found.rstd.value == pytest.approx(math.sqrt(3) / 4)
    assert found.pride is None


def test_a_model_that_reads_the_options_is_the_same_in_every_turn() -> None:
    found = report(turned(400, [0, 0, 0, 0]))
    assert found.circular.value == found.accuracy.value
    assert found.consistent.value == 1
    assert found.rstd.value == 0
    assert found.rstd_noise_share == 0
    assert {place.value for place in found.gold_at} == {found.accuracy.value}
    assert found.accuracy.n == 1600
    assert found.accuracy.ci_high is not None
    assert found.circular.ci_high is not None
    assert found.accuracy.ci_high == pytest.approx(found.circular.ci_high, abs=0.002)  # 400 questions
    assert found.pride is not None
    assert found.pride.accuracy == found.pride.plain
    assert found.pride.priors[4] == pytest.approx([0.25] * 4)


def test_a_lean_shows_and_pride_learns_and_removes_it() -> None:
    likes = [1.2, 0.3, 0.0, -0.5]
    fair, leaning = report(turned(1000, [0] * 4)), report(turned(1000, likes))
    assert leaning.accuracy.value < fair.accuracy.value - 0.05
    assert leaning.circular.value < leaning.accuracy.value
    values = [place.value for place in leaning.chosen_at]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    assert leaning.rstd.ci_low is not None
    assert leaning.rstd.ci_low > 5 * leaning.rstd_noise_share
    pride = leaning.pride
    assert pride is not None
    assert pride.n_calibration == 50
    assert pride.accuracy.n == pride.plain.n == 950
    # The model's bias is exactly a prior: without it, it is the fair model again.
    assert pride.priors[4] == pytest.approx(softmax(likes), abs=0.02)
    assert pride.accuracy.value == pytest.approx(fair.accuracy.value, abs=0.02)
    assert pride.accuracy.value > pride.plain.value + 0.03


def test_pride_is_the_papers_formula() -> None:
    questions = turned(60, [0.6, 0.1, -0.2, 0.0], noise=0.5, seed=4)
    found = option_order.pride(questions, calibration_share=0.25, seed=8)
    assert found is not None
    order = np.random.default_rng(8).permutation(60)
    priors, hits = [], 0
    for q in order[:15]:
        observed = [
            [math.exp(row[(j + r) % 4]) for j in range(4)] for r, row in enumerate(rows(questions[q]))
        ]
        priors.append(softmax(np.log(observed).mean(axis=0)))
    for q in order[15:]:
        debiased = np.exp(rows(questions[q])[0]) / np.mean(priors, axis=0)
        hits += int(debiased.argmax()) == questions[q].answer_index
    assert found.priors[4] == pytest.approx(np.mean(priors, axis=0))
    assert found.accuracy.value == pytest.approx(hits / 45)


def rows(question: Turned) -> Sequence[Sequence[float]]:
    assert question.logprobs is not None
    return question.logprobs


def test_rstd_of_chance_is_what_chance_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits that fall anywhere in a turn: the RStd seen is the noise that is reported."""
    monkeypatch.setattr(resampling, "N_BOOTSTRAP", 200)
    rng = np.random.default_rng(3)
    seen, noise = [], []
    for _ in range(100):
        hits = rng.random((60, 4)) < rng.random((60, 1))
        found = report([Turned(answer_index=0, choices=[0 if hit else 1 for hit in q]) for q in hits])
        seen.append(found.rstd.value**2)
        noise.append(found.rstd_noise_share**2)
    assert np.mean(noise) == pytest.approx(np.mean(seen), rel=0.2)


def test_questions_with_different_numbers_of_options() -> None:
    mixed = turned(300, [0.5, 0, 0]) + turned(300, [0.5, 0, 0, 0, 0], seed=1)
    found = report(mixed)
    assert found.accuracy.n == 300 * 3 + 300 * 5
    assert [place.n for place in found.gold_at] == [600, 600, 600, 300, 300]
    assert found.fair_at == pytest.approx([0.25, 0.25, 0.25, 0.2, 0.2])
    assert found.circular_chance_acc == pytest.approx((1 / 27 + 1 / 3125) / 2)
    assert found.pride is not None
    assert found.pride.n_calibration == 30
    assert found.pride.priors[3] == pytest.approx(softmax([0.5, 0, 0]), abs=0.05)
    assert set(found.pride.priors) == {3, 5}


def test_answers_that_could_not_be_read_are_wrong_and_chose_no_place() -> None:
    found = report([Turned(answer_index=0, choices=[0, None]), Turned(answer_index=1, choices=[None, None])])
    assert found.accuracy.value == 0.25
    assert found.consistent.value == 0
    assert [place.value for place in found.chosen_at] == [0.25, 0]


def test_options_without_any_probability_do_not_break_pride() -> None:
    logprobs = [[0.0, -math.inf], [-math.inf, 0.0]]
    found = report([Turned(answer_index=0, choices=[0, 1], logprobs=logprobs)] * 30)
    assert found.pride is not None
    assert found.pride.plain.value == 1


def test_few_questions_have_no_pride_and_none_no_report() -> None:
    assert report(turned(10, [0, 0, 0])).pride is None
    assert report(turned(1, [0, 0])).rstd.ci_low is None
    assert order_report([]) is None


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=3, max_size=3)), min_size=2)
)
def test_shares_agree_with_each_other(questions: list[tuple[int, list[int]]]) -> None:
    found = report([Turned(answer_index=gold, choices=choices) for gold, choices in questions])
    assert found.circular.value <= found.accuracy.value + 1e-12
    assert found.circular.value <= found.consistent.value
    assert np.mean([place.value for place in found.gold_at]) == pytest.approx(found.accuracy.value)
    assert sum(place.value for place in found.chosen_at) == pytest.approx(1)
    assert found.rstd.value == pytest.approx(np.std([place.value for place in found.gold_at]))
