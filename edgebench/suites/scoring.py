"""Log-likelihoods to an answer, by lm-eval's rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.core.types import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """The option a model prefers, by sum, per character and per byte, and whether that is the key.

    Options are counted as the suite stores them, whatever order they were shown in. `correct` is None
    where the suite has no key, the other figures where the scorer does not give them; without a choice
    (an answer nobody could parse) `correct` is False.
    """

    choice_index: int | None
    correct: bool | None
    choice_norm_index: int | None = None
    correct_norm: bool | None = None
    choice_bytes_index: int | None = None
    correct_bytes: bool | None = None


def grade(question: Question, logprobs: Sequence[float], *, letters: bool, rotation: int = 0) -> Graded:
    """Argmax of the log-likelihoods (`acc`), of those per character (`acc_norm`) and per byte (`acc_bytes`).

    `logprobs` stand in the order the options were shown. Lengths are lm-eval's: of the option without the
    blank before it; letters are all one long. Ties go to the option shown first. Raises ValueError when a
    log-likelihood is not finite.
    """
    if not all(math.isfinite(value) for value in logprobs):
        raise ValueError(f"question {question.id}: a log-likelihood is not finite")
    k = len(question.choices)
    shown = [question.choices[(j + rotation) % k] for j in range(k)]

    def preferred(lengths: Sequence[int]) -> int:
        place = max(range(k), key=lambda j: logprobs[j] / lengths[j])
        return (place + rotation) % k

    plain = preferred([1] * k)
    norm = plain if letters else preferred([len(choice) for choice in shown])
    by_bytes = plain if letters else preferred([len(choice.encode()) for choice in shown])
    return Graded(
        choice_index=plain,
        correct=is_right(question, plain),
        choice_norm_index=norm,
        correct_norm=is_right(question, norm),
        choice_bytes_index=by_bytes,
        correct_bytes=is_right(question, by_bytes),
    )


def is_right(question: Question, choice_index: int | None) -> bool | None:
    """Whether a choice is the key; None where there is none; no choice is never right."""
    return None if question.answer_index is None else choice_index == question.answer_index


def in_stored_order(logprobs: Sequence[float], rotation: int) -> list[float]:
    """What stands in the order shown, in the order the suite stores."""
    k = len(logprobs)
    return [logprobs[(i - rotation) % k] for i in range(k)]
