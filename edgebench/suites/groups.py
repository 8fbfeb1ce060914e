"""Fixed groups of questions.

On quantized files the company a question keeps in a batch moves its log-likelihoods, while the same
batch repeats to the bit. So the group, not the question, is what is scored, resumed and limited:
its members follow from the suite and its seed alone.
"""

from collections.abc import Sequence

from edgebench.core.hashing import sha256_text
from edgebench.core.types import Question, Suite

GROUP_SIZE = 8
"""Questions to a group: few enough for a fine `--limit`, enough to share the prompt's beginning."""


def ordered_groups(suite: Suite) -> list[tuple[Question, ...]]:
    """All questions in groups, in an order that is stratified at every length.

    Questions of a subject are shuffled by hash, then all subjects are dealt together, so that any
    beginning of the order holds the same share of every subject, to within one question.
    """
    subjects: dict[str, list[Question]] = {}
    for question in suite.questions:
        subjects.setdefault(question.subject, []).append(question)
    dealt: list[tuple[float, str, Question]] = []
    for subject, questions in subjects.items():
        # A phase of its own keeps subjects of one size from coming round in lockstep.
        phase = int(sha256_text(f"{suite.seed}:{subject}")[:8], 16) / 2**32
        shuffled = sorted(questions, key=lambda q: sha256_text(f"{suite.seed}:{q.id}"))
        dealt += [((i + phase) / len(shuffled), subject, q) for i, q in enumerate(shuffled)]
    order = [question for _, _, question in sorted(dealt, key=lambda item: item[:2])]
    return [tuple(order[i : i + GROUP_SIZE]) for i in range(0, len(order), GROUP_SIZE)]


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
