"""Worked examples before a question, and the guard that keeps the question itself out of them."""

import random
from collections.abc import Mapping, Sequence

from edgebench.core.errors import UsageError
from edgebench.core.hashing import sha256_text
from edgebench.core.types import Question, Suite


def content_key(question: Question) -> str:
    """What makes two questions the same one: text and options, whatever their order, case or blanks."""
    parts = [question.text, *sorted(question.choices, key=_plain)]
    return sha256_text("\n".join(map(_plain, parts)))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


class Shots:
    """Picks the worked examples of each question of a suite from its pool."""

    def __init__(self, suite: Suite, pool: Sequence[Question], n_shots: int) -> None:
        """UsageError when some subject of the suite can't have that many."""
        self._suite, self._n = suite, n_shots
        if not suite.first_shots:
            pool = sorted(pool, key=lambda q: q.id)  # a draw must not depend on the order of a file
        subjects: dict[str, list[Question]] = {}
        for question in pool:
            subjects.setdefault(question.subject, []).append(question)
        # A pool that knows subjects is used by subject, as MMLU's is.
        by_subject = {q.subject for q in suite.questions} <= subjects.keys()
        self._pools: Mapping[str, Sequence[Question]] = subjects if by_subject else {}
        self._whole = list(pool)
        least = min((len(self._of(q.subject)) for q in suite.questions), default=0) if n_shots else 0
        if least < n_shots:
            raise UsageError(
                f"suite {suite.name} has {least} worked examples"
                + (" for a subject" if by_subject and least else "")
                + f", not {n_shots}",
                f"--num-fewshot {least}" if least else "ask it without worked examples: --num-fewshot 0",
            )

    def of(self, question: Question) -> tuple[Question, ...]:
        """The worked examples of a question; one fewer when the pool would show the question itself."""
        pool = self._of(question.subject)
        own = content_key(question)
        picked = pool[: self._n]
        if not self._suite.first_shots:
            picked = random.Random(f"{self._suite.seed}:{own}").sample(pool, self._n)
        return tuple(shot for shot in picked if content_key(shot) != own)

    def _of(self, subject: str) -> Sequence[Question]:
        return self._pools.get(subject, self._whole)
