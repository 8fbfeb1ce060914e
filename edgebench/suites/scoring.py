"""Log-likelihoods to an answer, by lm-eval's rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.core.types import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """The option a model prefers, by sum and by sum per character, and whether that is the key."""

    choice_index: int
    choice_norm_index: int
    correct: bool
    correct_norm: bool


def grade(question: Question, logprobs: Sequence[float], *, letters: bool) -> Graded:
    """Argmax of the log-likelihoods (`acc`) and of those divided by the option's length (`acc_norm`).

    The length is lm-eval's: characters of the option without the blank before it; letters are all
    one long. Ties go to the first option. Raises ValueError when a log-likelihood is not finite.
    """
    if not all(math.isfinite(value) for value in logprobs):
        raise ValueError(f"question {question.id}: a log-likelihood is not finite")
    lengths = [1 if letters else len(choice) for choice in question.choices]
    plain = max(range(len(logprobs)), key=lambda i: logprobs[i])
    norm = max(range(len(logprobs)), key=lambda i: logprobs[i] / lengths[i])
    return Graded(
        choice_index=plain,
        choice_norm_index=norm,
        correct=plain == question.answer_index,
        correct_norm=norm == question.answer_index,
    )
