"""Fixed groups of questions.

On quantized files the company a question keeps in a batch moves its log-likelihoods, while the same
batch repeats to the bit. So the group, not the question, is what is scored, resumed and limited:
its members follow from the suite and its seed alone.
"""

from collections.abc import Sequence

from edgebench.core.hashing import sha256_text
from edgebench.core.types import Question, Suite

GROUP_SIZE = 8
"""Questions to a group: few enough for a fine `--limit`, enough to share a subject's preamble."""


def ordered_groups(suite: Suite) -> list[tuple[Question, ...]]:
    """All questions in groups of one subject, in an order that is stratified at every length.

    Questions of a subject are shuffled by hash; the groups of all subjects are then dealt so that any
    beginning of the list holds each subject in proportion to its size.
    """
    subjects: dict[str, list[Question]] = {}
    for question in suite.questions:
        subjects.setdefault(question.subject, []).append(question)
    dealt: list[tuple[float, str, tuple[Question, ...]]] = []
    for subject, questions in subjects.items():
        questions = sorted(questions, key=lambda q: sha256_text(f"{suite.seed}:{q.id}"))
        groups = [tuple(questions[i : i + GROUP_SIZE]) for i in range(0, len(questions), GROUP_SIZE)]
        phase = int(sha256_text(f"{suite.seed}:{subject}")[:8], 16) / 2**32
        dealt += [((i + phase) / len(groups), subject, group) for i, group in enumerate(groups)]
    return [group for _, _, group in sorted(dealt, key=lambda item: item[:2])]


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
