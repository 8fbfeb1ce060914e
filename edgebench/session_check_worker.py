"""The check job inside the measuring process: how far a model's predictions are from its parent's.

Every chunk of text is evaluated from an empty cache, and the predictions of its second half are compared
with the parent's token by token: llama.cpp's rule for perplexity and KL divergence. The parent's
log-probabilities stand in a file that the pass over the parent itself (`write_base`) wrote before.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.core.engine import Session
from edgebench.core.errors import ModelError
from edgebench.core.types import Shape
from edgebench.session_accuracy import score_groups

N_ROWS = 16
"""Positions compared at a time: in double precision a whole chunk's would outweigh a small model."""

Message = Mapping[str, Any]


def check(session: Session, job: Mapping[str, Any]) -> Iterator[Message]:
    """What the job asks for, a message a piece; `part` is tokens, chunk, greedy, continuation or answers.

    `text` and `prompt_texts` ask for token ids, `chunks` for predictions, `prompts` for greedy
    continuations, `groups` for answers in both shapes. What is absent is not done.
    """
    if "text" in job:
        yield _tokens(session, job)
    if chunks := job.get("chunks"):
        yield from _chunks(session, job, chunks)
    if prompts := job.get("prompts"):
        if (expected := job.get("continuations")) is None:
            yield from _continue(session, prompts, job["n_greedy"])
        else:
            yield from _agreement(session, prompts, expected, job["silent"])
    if groups := job.get("groups"):
        for shape, n_cells in ((Shape.GROUPED, job["n_cells"]), (Shape.ALONE, 0)):
            asked = {"groups": groups, "wanted": range(len(groups)), "shape": shape, "n_cells": n_cells}
            for result in score_groups(session, asked):
                yield {"part": "answers", "shape": shape.value, **result}


def _tokens(session: Session, job: Mapping[str, Any]) -> Message:
    return {
        "part": "tokens",
        "text": session.tokenize(job["text"]),
        "prompts": [session.tokenize(text) for text in job["prompt_texts"]],
        "bos": session.bos,
        "n_vocab": session.n_vocab,
        # Tokens that write nothing: greedy continuations are of text.
        "silent": [token for token in range(session.n_vocab) if not session.piece(token)],
    }


def _chunks(session: Session, job: Mapping[str, Any], chunks: Sequence[Sequence[int]]) -> Iterator[Message]:
    n_ctx, first = len(chunks[0]), len(chunks[0]) // 2
    shape = (job["n_base_chunks"], n_ctx - 1 - first, job["n_vocab"])
    if session.n_vocab != job["n_vocab"]:
        raise ModelError(
            f"its vocabulary has {session.n_vocab} tokens, the reference's {job['n_vocab']}",
            "only files of one model can be compared",
        )
    base: npt.NDArray[np.float32] = np.memmap(
        job["base"], dtype=np.float32, mode="r+" if job["write_base"] else "r", shape=shape
    )
    session.open(n_ctx=n_ctx)
    for index, tokens in enumerate(chunks):
        logits = session.logits(tokens, first)[:-1]  # nothing in the chunk follows its last token
        if job["write_base"]:
            _write(base[index], logits)
        yield {"part": "chunk", "index": index, **_compare(base[index], logits, tokens[first + 1 :])}


def _write(base: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> None:
    for start in range(0, len(logits), N_ROWS):
        base[start : start + N_ROWS] = _log_softmax(logits[start : start + N_ROWS])


def _compare(
    base: npt.NDArray[np.float32], logits: npt.NDArray[np.float32], targets: Sequence[int]
) -> dict[str, list[float]]:
    """Per position: both negative log-likelihoods of what came, KL divergence, same first choice, distance.

    `kld_nats` is KL(parent || model) over the whole vocabulary, `max_logprob_diff_nats` the largest
    difference of the two log-probabilities of any token.
    """
    keys = ("nll_nats", "nll_parent_nats", "kld_nats", "same_top", "max_logprob_diff_nats")
    found: dict[str, list[float]] = {key: [] for key in keys}
    for start in range(0, len(logits), N_ROWS):
        theirs = base[start : start + N_ROWS].astype(np.float64)
        ours = _log_softmax(logits[start : start + N_ROWS])
        at = np.arange(len(ours)), np.asarray(targets[start : start + N_ROWS])
        diff = theirs - ours
        found["nll_nats"] += (-ours[at]).tolist()
        found["nll_parent_nats"] += (-theirs[at]).tolist()
        found["kld_nats"] += (np.exp(theirs) * diff).sum(axis=1).tolist()
        found["same_top"] += (ours.argmax(axis=1) == theirs.argmax(axis=1)).astype(int).tolist()
        found["max_logprob_diff_nats"] += np.abs(diff).max(axis=1).tolist()
    return found


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows = logits.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ModelError("a logit is not finite", "the weights are damaged, or the engine overflowed")
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _continue(session: Session, prompts: Sequence[Sequence[int]], n_tokens: int) -> Iterator[Message]:
    """Greedy continuations, token by token; one ends early where the model says something silent."""
    session.open(n_ctx=max(map(len, prompts)) + n_tokens)
    for index, prompt in enumerate(prompts):
        session.reset()
        session.prefill(prompt)
        tokens: list[int] = []
        while len(tokens) < n_tokens and session.piece(token := session.greedy()):
            tokens.append(token)
            if len(tokens) < n_tokens:
                session.prefill([token])
        yield {"part": "continuation", "index": index, "tokens": tokens}


def _agreement(
    session: Session,
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    silent: Sequence[int],
) -> Iterator[Message]:
    """How many tokens of the reference's greedy continuation this model would say as well.

    One evaluation a prompt, with the reference's own continuation as input, is exact: up to the first
    position where the first choices differ, the model's own continuation *is* the reference's, so the
    input is what it would have generated itself; what lies behind that position is not looked at.
    """
    session.open(n_ctx=max(len(p) + len(e) for p, e in zip(prompts, expected, strict=True)))
    for index, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
        n_same = 0
        if tokens:
            logits = session.logits([*prompt, *tokens[:-1]], len(prompt) - 1)
            logits[:, silent] = -np.inf
            differs = np.flatnonzero(logits.argmax(axis=1) != np.asarray(tokens))
            n_same = int(differs[0]) if len(differs) else len(tokens)
        yield {"part": "greedy", "index": index, "n_same": n_same, "n_tokens": len(tokens)}
