"""Fixed groups of questions.

On quantized files the company a question keeps in a batch moves its log-likelihoods, while the same
batch repeats to the bit. So the group, not the question, is what is scored, resumed and limited:
its members follow from the questions' content and the suite's seed alone, not from the order of a file.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from edgebench.core.hashing import sha256_text
from edgebench.core.types import Question, Suite

T = TypeVar("T")

GROUP_SIZE = 8
"""Questions to a group: few enough for a fine `--limit`, enough to share the prompt's beginning."""


OWN_GROUPS_FROM = 1 / 16
"""A subject with this share of the suite fills groups of its own; smaller ones are dealt together."""


def ordered_groups(suite: Suite, *, by_subject: bool = False) -> list[tuple[Question, ...]]:
    """All questions in groups, in an order that is stratified at every length.

    Large subjects fill groups of their own, whose prompts begin alike, so that the beginning is
    evaluated once a group. Small subjects are pooled and dealt question by question: with many of them
    a short sample would miss most otherwise. Any beginning of the list holds every large subject, and
    the pool, in proportion, to within one group. `by_subject` gives every subject groups of its own:
    where each has its own worked examples, a mixed group would evaluate them all.
    """
    subjects: dict[str, list[Question]] = {}
    for question in suite.questions:
        subjects.setdefault(question.subject, []).append(question)
    least = 0 if by_subject else OWN_GROUPS_FROM * len(suite.questions)
    own = {name: _shuffled(suite, members) for name, members in subjects.items() if len(members) >= least}
    small = {name: _shuffled(suite, members) for name, members in subjects.items() if name not in own}
    strata = {**own, "": _dealt(suite, small)} if small else own
    return _dealt(suite, {name: _cut(members) for name, members in strata.items()})


def first_groups(suite: Suite, n: int) -> list[tuple[Question, ...]]:
    """The first `n` questions of the files, as lm-eval's `--limit` takes them, in groups."""
    return _cut(suite.questions[:n])


def _cut(questions: Sequence[Question]) -> list[tuple[Question, ...]]:
    return [tuple(questions[i : i + GROUP_SIZE]) for i in range(0, len(questions), GROUP_SIZE)]


def _shuffled(suite: Suite, questions: Sequence[Question]) -> list[Question]:
    """By hash of the content: the same everywhere, whatever the order of the file."""

    def key(question: Question) -> tuple[str, str]:
        content = "\n".join([str(suite.seed), question.text, *question.choices])
        return sha256_text(content), sha256_text(f"{suite.seed}:{question.id}")

    return sorted(questions, key=key)


def _dealt(suite: Suite, piles: Mapping[str, Sequence[T]]) -> list[T]:
    """Items of all piles in one list, every beginning of which holds the same share of each pile."""
    placed: list[tuple[float, str, T]] = []
    for name, items in piles.items():
        # A phase of its own keeps piles of one size from coming round in lockstep.
        phase = int(sha256_text(f"{suite.seed}:{name}")[:8], 16) / 2**32
        placed += [((i + phase) / len(items), name, item) for i, item in enumerate(items)]
    return [item for _, _, item in sorted(placed, key=lambda place: place[:2])]


def limited(groups: Sequence[tuple[Question, ...]], limit: int | None) -> list[tuple[Question, ...]]:
    """The first groups that together hold at least `limit` questions; whole groups only."""
    if limit is None:
        return list(groups)
    kept: list[tuple[Question, ...]] = []
    n = 0
    for group in groups:
        if n >= limit:
            break
        kept.append(group)
        n += len(group)
    return kept
