"""Scoring inside the measuring process: prompts to tokens, groups to log-likelihoods.

Contexts and continuations are split as lm-eval splits them: the whole text is tokenized, and what
follows the context's own tokens is the continuation.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from edgebench.core.engine import Session
from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import Shape

CTX_STEP = 256
"""llama.cpp rounds caches up to this many cells."""


def score_groups(
    session: Session,
    groups: Sequence[Sequence[Mapping[str, Any]]],
    *,
    wanted: Collection[int],
    shape: Shape,
    n_cells: int,
) -> Iterator[Mapping[str, Any]]:
    """Score the `wanted` groups (by index), one result a group.

    The cache is sized from *all* groups, so a resumed run works in the very same context as an
    uninterrupted one.
    """
    tokenized = [[_tokens(session, question) for question in group] for group in groups]
    costs = [[len(c) + sum(len(x) for x in conts) for c, conts in group] for group in tokenized]
    n_needed = 2 * max(n_cells, max((cost for group in costs for cost in group), default=0))
    n_seq = 1 + max((sum(max(len(conts), 1) for _, conts in group) for group in tokenized), default=1)
    session.open(n_ctx=-(-n_needed // CTX_STEP) * CTX_STEP, n_seq_max=max(n_seq, 2))
    for index in sorted(wanted):
        start = time.perf_counter_ns()
        group = tokenized[index]
        if shape is Shape.ALONE:
            scores = [session.loglikelihoods([item], n_cells=0)[0] for item in group]
        else:
            scores = session.loglikelihoods(group, n_cells=n_cells)
        yield {
            "group": index,
            "group_s": (time.perf_counter_ns() - start) * 1e-9,
            "group_sha256": sha256_json([shape.value, n_cells, group]),
            "answers": [
                {
                    "question_id": question["id"],
                    "logprobs": [score.logprob for score in row],
                    "n_prompt": len(context),
                }
                for question, (context, _), row in zip(groups[index], group, scores, strict=True)
            ],
        }


def _tokens(session: Session, question: Mapping[str, Any]) -> tuple[list[int], list[list[int]]]:
    """lm-eval's split of a question into context and continuations.

    Blanks that end the context belong to the continuation; the whole is tokenized, and what follows the
    context's own tokens is the continuation. Too long a context loses its beginning.
    """
    stripped = question["context"].rstrip()
    blanks = question["context"][len(stripped) :]
    context = session.tokenize(stripped)
    continuations = [
        session.tokenize(stripped + blanks + text)[len(context) :] for text in question["continuations"]
    ]
    if not all(continuations):
        raise ModelError(f"question {question['id']}: an option adds no token to the prompt")
    longest = max(len(c) for c in continuations)
    return context[-(session.n_ctx_train - longest + 1) :], continuations
