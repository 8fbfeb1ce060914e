import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.types import Question
from edgebench.suites.scoring import grade


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
