"""The parity gate: what passes, what fails, and with which reasons."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.results.answers import Answer
from edgebench.results.parity import F32_LIMIT_NATS, Gate, judge


def answer(
    i: int, logprobs: Sequence[float] | None, *, n_prompt: int = 9, choice: int | None = None
) -> Answer:
    best = max(range(4), key=logprobs.__getitem__) if logprobs else choice
    return Answer(
        question_id=f"q{i}",
        subject="",
        repeat=0,
        choice_index=best,
        answer_index=0,
        n_choices=4,
        correct=int(best == 0),
        correct_norm=None,
        correct_bytes=None,
        logprobs=tuple(logprobs) if logprobs else None,
        n_prompt=n_prompt,
        n_cut=0,
    )


def pairs(n: int, *odd: tuple[Sequence[float], Sequence[float]]) -> list[tuple[Answer, Answer]]:
    """`n` questions answered alike, and these."""
    same = [0.0, -1.0, -2.0, -3.0]
    rows = [(same, same)] * n + list(odd)
    return [(answer(i, one), answer(i, other)) for i, (one, other) in enumerate(rows)]


CLOSE = ([-1.0, -1.004, -3.0, -3.0], [-1.003, -1.001, -3.0, -3.0])
WIDE = ([-1.0, -1.3, -3.0, -3.0], [-1.3, -1.0, -3.0, -3.0])


def test_a_disagreement_between_choices_that_are_as_good_is_explained() -> None:
    found = judge(pairs(199, CLOSE), in_f32=True)
    assert (found.gate, found.reasons) == (Gate.PASS, ())
    assert found.agree is not None
    assert (found.agree.n, found.agree.value) == (200, 0.995)
    (one,) = found.disagreements
    assert (one.question_id, one.gap_nats) == ("q199", pytest.approx(0.004))
    assert found.largest_nats == pytest.approx(0.003)
    assert found.median_nats == 0


def test_a_disagreement_although_an_engine_was_sure_fails() -> None:
    found = judge(pairs(199, WIDE), in_f32=True)
    assert found.gate is Gate.FAIL
    assert found.reasons == (
        "1 disagree by up to 0.3 nat (limit 0.01)",
        "log-probs differ by up to 0.3 nat (limit 0.01)",
    )
    rounded = judge(pairs(199, WIDE), in_f32=False)  # where a batch's shape alone does as much
    assert (rounded.gate, rounded.logprob_limit_nats) == (Gate.PASS, None)
    assert rounded.largest_nats == pytest.approx(0.3)


def test_too_many_disagreements_fail_however_close() -> None:
    found = judge(pairs(97, *[CLOSE] * 3), in_f32=True)
    assert found.reasons == ("97.0 % agree (limit 99 %)",)


def test_prompts_of_other_lengths_fail_even_where_answers_agree() -> None:
    same = [0.0, -1.0, -2.0, -3.0]
    found = judge([(answer(0, same), answer(0, same, n_prompt=10))], in_f32=True)
    assert (found.gate, found.reasons) == (Gate.FAIL, ("1 prompts of another length",))


def test_without_log_probabilities_nothing_is_shown() -> None:
    found = judge([(answer(i, None, choice=1), answer(i, None, choice=1)) for i in range(4)], in_f32=False)
    assert (found.gate, found.largest_nats) == (Gate.UNKNOWN, None)
    assert found.reasons == ("no log-probs: ask by letter or cloze",)
    apart = judge([(answer(0, None, choice=1), answer(0, None, choice=2))], in_f32=False)
    assert apart.gate is Gate.FAIL
    assert [one.gap_nats for one in apart.disagreements] == [None]


LOGPROBS = st.lists(st.floats(-30, 0), min_size=4, max_size=4)


@given(st.lists(st.tuples(LOGPROBS, LOGPROBS), min_size=1, max_size=8), st.booleans())
def test_who_is_compared_with_whom_does_not_matter(rows: list[Any], in_f32: bool) -> None:
    found = [
        judge([(answer(i, a), answer(i, b)) for i, (a, b) in enumerate(turned)], in_f32=in_f32)
        for turned in (rows, [(b, a) for a, b in rows])
    ]
    assert found[0] == found[1]
    passed = found[0].gate is Gate.PASS
    assert not (passed and in_f32 and (found[0].largest_nats or 0) > F32_LIMIT_NATS)


@given(st.lists(LOGPROBS, min_size=1, max_size=8))
def test_an_engine_agrees_with_itself(rows: list[list[float]]) -> None:
    found = judge([(answer(i, row), answer(i, row)) for i, row in enumerate(rows)], in_f32=True)
    assert (found.gate, found.largest_nats, found.disagreements) == (Gate.PASS, 0, ())
