"""Logits to log-likelihoods, in one way for all engines."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgebench.core.types import Score


def log_softmax(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> list[tuple[float, bool]]:
    """Of some tokens: natural-log probability, and whether it is the argmax; summed in double precision."""
    best = int(logits.argmax())
    top = float(logits[best])
    norm = top + float(np.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64)))
    return [(float(logits[token]) - norm, token == best) for token in tokens]


def score(rows: npt.NDArray[np.float32], continuation: Sequence[int]) -> Score:
    """`rows` predict the continuation's tokens, one each. Nothing is said with certainty."""
    found = [log_softmax(row, [token])[0] for row, token in zip(rows, continuation, strict=True)]
    return Score(logprob=sum(logprob for logprob, _ in found), is_greedy=all(best for _, best in found))
