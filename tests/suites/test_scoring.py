import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.types import Question
from edgebench.suites.prompts import rotated
from edgebench.suites.scoring import grade, in_stored_order, is_right


def question(*choices: str, answer: int = 0) -> Question:
    return Question(id="q1", text="?", choices=choices, answer_index=answer)


def test_likeliest_option_wins() -> None:
    graded = grade(question("x", "y", answer=1), [-2.0, -1.0], letters=True)
    assert (graded.choice_index, graded.correct) == (1, True)


def test_length_norm_divides_by_the_options_characters() -> None:
    # Sums prefer the short option, sums per character the long one: -4/1 < -6/6.
    graded = grade(question("a", "bcdefg", answer=1), [-4.0, -6.0], letters=False)
    assert (graded.choice_index, graded.choice_norm_index) == (0, 1)
    assert (graded.correct, graded.correct_norm) == (False, True)


def test_length_is_of_characters_not_bytes_and_without_the_blank() -> None:
    # "ééé" is 3 characters and 6 bytes; by bytes it would win: -3.1/6 > -3/3.
    assert grade(question("aaa", "ééé"), [-3.0, -3.1], letters=False).choice_norm_index == 0


def test_letters_are_all_one_long() -> None:
    graded = grade(question("a", "a very long option"), [-1.0, -2.0], letters=True)
    assert graded.choice_norm_index == graded.choice_index == 0


def test_first_of_equals_wins() -> None:
    graded = grade(question("aa", "bb", "cc"), [-3.0, -1.0, -1.0], letters=False)
    assert (graded.choice_index, graded.choice_norm_index) == (1, 1)


def test_length_in_bytes_is_a_third_way_to_choose() -> None:
    # By characters -3.0/3 beats -3.1/3; by bytes -3.1/6 beats -3.0/3.
    graded = grade(question("aaa", "ééé", answer=1), [-3.0, -3.1], letters=False)
    assert (graded.choice_bytes_index, graded.correct_bytes) == (1, True)


def test_without_a_key_nothing_is_right_or_wrong() -> None:
    keyless = Question(id="q1", text="?", choices=("x", "y"), answer_index=None)
    graded = grade(keyless, [-2.0, -1.0], letters=True)
    assert (graded.choice_index, graded.correct, graded.correct_norm) == (1, None, None)


def test_no_choice_is_never_right() -> None:
    assert is_right(question("x", "y"), None) is False


@given(st.lists(st.floats(-100, 0), min_size=2, max_size=10, unique=True), st.data())
def test_a_rotation_is_undone(logprobs: list[float], data: st.DataObject) -> None:
    """Whatever order the options are shown in, the same option is meant."""
    k = len(logprobs)
    rotation = data.draw(st.integers(0, k - 1))
    asked = question(*[chr(97 + i) * (1 + i % 3) for i in range(k)])
    stored = dict(zip(asked.choices, logprobs, strict=True))
    shown = [stored[choice] for choice in rotated(asked.choices, rotation)]
    assert in_stored_order(shown, rotation) == logprobs
    plain, turned = (
        grade(asked, values, letters=False, rotation=r) for values, r in ((logprobs, 0), (shown, rotation))
    )
    assert turned == plain


@given(st.lists(st.floats(-100, 0), min_size=2, max_size=10))
def test_choice_is_numpys_argmax(logprobs: list[float]) -> None:
    choices = [chr(97 + i) * (1 + i % 4) for i in range(len(logprobs))]
    graded = grade(question(*choices), logprobs, letters=False)
    assert graded.choice_index == int(np.argmax(logprobs))
    assert graded.choice_norm_index == int(np.argmax(np.array(logprobs) / [len(c) for c in choices]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_log_likelihood_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="question q1: a log-likelihood is not finite"):
        grade(question("x", "y"), [-1.0, bad], letters=True)
