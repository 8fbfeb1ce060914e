"""Scoring inside the measuring process: prompts to tokens, groups to log-likelihoods or texts.

Contexts and continuations are split as lm-eval splits them: the whole text is tokenized, and what
follows the context's own tokens is the continuation.
"""

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.core.engine import Item, Session
from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import Shape

CTX_STEP = 256
"""llama.cpp rounds caches up to this many cells."""
MIN_SHARED = 8
"""Shorter common beginnings are cheaper to evaluate again than to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """A group as the engine is asked it: tokens, and what all of its prompts begin with."""

    i: int
    """Which of the job's groups it is."""
    prompts: Sequence[Mapping[str, Any]]
    items: Sequence[Item]
    n_cut: Sequence[int]
    """Of each item, tokens cut from the left to fit the model's context."""
    shared: Sequence[int]
    n_ctx: int
    """Cells it takes, rounded up as the engine does."""

    def told(self, job: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is to be stored of the group, with what the engine found for each item."""
        shape = [job["shape"], int(job["n_cells"]), int(job.get("n_gen", 0))]
        return {
            "group": self.i,
            "group_sha256": sha256_json([*shape, list(self.shared), _listed(self.items)]),
            "answers": [
                {
                    "question_id": prompt["id"],
                    "rotation": prompt["rotation"],
                    "n_shots": prompt["n_shots"],
                    "n_prompt": len(item[0]),
                    "n_cut": n_cut,
                    **answer,
                }
                for prompt, item, n_cut, answer in zip(
                    self.prompts, self.items, self.n_cut, found, strict=True
                )
            ],
        }


class Layout:
    """A job's prompts as tokens, group by group, in shapes that do not depend on which of them are done.

    Groups of one deck (a subject) begin alike; what they share is evaluated once for as long as they
    follow each other. It follows from *all* prompts of the deck, so a resumed run works in the very same
    shapes as an uninterrupted one. Prompts are tokenized when their turn comes.
    """

    def __init__(self, session: Session, job: Mapping[str, Any]) -> None:
        self._session, self._job = session, job
        self._decks = _decks(job)
        self._beginnings = _beginnings(session, job)
        self.n_ctx = _n_cells(_n_likely(session, job, self._beginnings))
        """Cells for what is probably the largest group. A cache's size moves no score."""
        counts = [sum(max(len(p["continuations"]), 1) for p in group) for group in job["groups"]]
        self.n_seq_max = 1 + max(counts)

    def of(self, index: int) -> Laid:
        """One of the job's groups."""
        prompts = self._job["groups"][index]
        tokenized = [_tokens(self._session, prompt, self._job) for prompt in prompts]
        items = [item for item, _ in tokenized]
        shared = _shared(self._beginnings.get(self._decks[index], ()), items)
        return Laid(
            i=index,
            prompts=prompts,
            items=items,
            n_cut=[n_cut for _, n_cut in tokenized],
            shared=shared,
            n_ctx=_n_cells(_n_needed(items, shared, self._job)),
        )


def score_groups(session: Session, job: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Score the job's `wanted` groups (by index, in that order), one result a group."""
    shape, n_cells, n_gen = Shape(job["shape"]), int(job["n_cells"]), int(job.get("n_gen", 0))
    layout = Layout(session, job)
    n_ctx = layout.n_ctx
    session.open(n_ctx=n_ctx, n_seq_max=layout.n_seq_max)
    for index in job["wanted"]:
        start = time.perf_counter_ns()
        laid = layout.of(index)
        if laid.n_ctx > n_ctx:
            n_ctx = laid.n_ctx
            session.open(n_ctx=n_ctx, n_seq_max=layout.n_seq_max)
        if n_gen:
            found = _written(session, laid.items, laid.shared, job)
        else:
            found = _scored(session, laid.items, laid.shared, shape, n_cells)
        yield {**laid.told(job, found), "group_s": (time.perf_counter_ns() - start) * 1e-9}


def _scored(
    session: Session, items: Sequence[Item], shared: Sequence[int], shape: Shape, n_cells: int
) -> list[dict[str, Any]]:
    if shape is Shape.ALONE:
        scores = [session.loglikelihoods([item], n_cells=0)[0] for item in items]
    else:
        scores = session.loglikelihoods(items, n_cells=n_cells, shared=shared)
    return [{"logprobs": [score.logprob for score in row]} for row in scores]


def _written(
    session: Session, items: Sequence[Item], shared: Sequence[int], job: Mapping[str, Any]
) -> list[dict[str, Any]]:
    stops = [stop.encode() for stop in job.get("stop", ())]

    def text_of(tokens: Sequence[int]) -> bytes:
        return b"".join(session.piece(token) for token in tokens)

    def ended(tokens: Sequence[int]) -> bool:
        text = text_of(tokens)
        return any(stop in text for stop in stops)

    contexts = [context for context, _ in items]
    made = session.generate(contexts, n_gen=job["n_gen"], n_cells=job["n_cells"], shared=shared, ended=ended)
    found = []
    for tokens in made:
        text = text_of(tokens)
        cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
        found.append({"text": text[:cut].decode("utf-8", "replace"), "n_gen": len(tokens)})
    return found


def _n_likely(session: Session, job: Mapping[str, Any], beginnings: Mapping[str, Sequence[int]]) -> int:
    """What the largest group probably takes: only the longest text of each deck is tokenized for it."""
    longest: dict[str, Mapping[str, Any]] = {}
    for deck, prompt in _with_deck(job):
        if deck not in longest or len(prompt["context"]) > len(longest[deck]["context"]):
            longest[deck] = prompt
    n_needed = 0
    for deck, prompt in longest.items():
        items = [_tokens(session, prompt, {**job, "truncate": True})[0]]
        shared = _shared(beginnings.get(deck, ()), items)
        n_needed = max(n_needed, _n_needed(items, shared, job))
    return n_needed


def _n_cells(n_needed: int) -> int:
    return -(-n_needed // CTX_STEP) * CTX_STEP


def _n_needed(items: Sequence[Item], shared: Sequence[int], job: Mapping[str, Any]) -> int:
    """Cells that a group takes at most: what is shared, one batch behind it, its texts; or a long prompt."""
    longest = max(len(context) + sum(map(len, continuations)) for context, continuations in items)
    n_written = job.get("n_gen", 0) * max(map(len, job["groups"]))
    return int(max(longest, len(shared) + job["n_cells"]) + n_written)


def _decks(job: Mapping[str, Any]) -> Sequence[str]:
    return job.get("decks") or [""] * len(job["groups"])


def _with_deck(job: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group, deck in zip(job["groups"], _decks(job), strict=True):
        for prompt in group:
            yield deck, prompt


def _beginnings(session: Session, job: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Deck -> the tokens that its prompts begin with, up to the end of a line where there is one.

    What the first and the last of the sorted texts share, all texts between them share.
    """
    ends: dict[str, tuple[str, str]] = {}
    for deck, prompt in _with_deck(job):
        if deck:
            text = prompt["context"]
            low, high = ends.get(deck, (text, text))
            ends[deck] = (min(low, text), max(high, text))
    found: dict[str, Sequence[int]] = {}
    for deck, pair in ends.items():
        low_tokens, high_tokens = (session.tokenize(_text(session, text, job)) for text in pair)
        tokens = _common(low_tokens, high_tokens)
        lines = [i for i, token in enumerate(tokens, 1) if session.piece(token).endswith(b"\n")]
        found[deck] = array("i", tokens[: lines[-1]] if lines else tokens)
    return found


def _shared(beginning: Sequence[int], items: Sequence[Item]) -> Sequence[int]:
    """A deck's beginning, where all these prompts go on after it: not where one was cut from the left."""
    n = len(beginning)
    fits = all(len(context) > n and context[:n] == beginning for context, _ in items)
    return beginning if n >= MIN_SHARED and fits else ()


def _common(a: Sequence[int], b: Sequence[int]) -> Sequence[int]:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return a[:n]


def _tokens(session: Session, prompt: Mapping[str, Any], job: Mapping[str, Any]) -> tuple[Item, int]:
    """A prompt's tokens, and how many were cut from its left to fit the model's context.

    The same number of tokens as lm-eval cuts; with `truncate` off, ModelError.
    """
    text = _text(session, prompt["context"], job)
    context, continuations = split_tokens(session, text, prompt["continuations"])
    if not all(continuations):
        raise ModelError(f"question {prompt['id']}: an option adds no token to the prompt")
    longest = max((len(c) for c in continuations), default=0)
    room = session.n_ctx_train - (longest - 1 if continuations else job.get("n_gen", 0))
    if room < 1:
        raise ModelError(
            f"question {prompt['id']}: its answer alone fills the model's context of {session.n_ctx_train}"
            " tokens",
            "ask by --scorer letter, or take a model with a longer context",
        )
    n_cut = max(len(context) - room, 0)
    if n_cut and not job.get("truncate", True):
        raise ModelError(
            f"question {prompt['id']}: {len(context)} tokens are {n_cut} more than fit the model's context",
            "fewer worked examples, or let it be cut from the left: leave out --no-truncate",
        )
    return (array("i", context[n_cut:]), [array("i", c) for c in continuations]), n_cut


def _text(session: Session, context: str, job: Mapping[str, Any]) -> str:
    return session.chat_prompt(context)[0] if job.get("chat") else context


def split_tokens(
    session: Session, context: str, continuations: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """lm-eval's split of a prompt into context and continuations.

    Blanks that end the context belong to the continuation; the whole is tokenized, and what follows the
    context's own tokens is the continuation. Without continuations the text is taken as it is.
    """
    if not continuations:
        return session.tokenize(context), []
    stripped = context.rstrip()
    blanks = context[len(stripped) :]
    tokens = session.tokenize(stripped)
    return tokens, [session.tokenize(stripped + blanks + text)[len(tokens) :] for text in continuations]


def _listed(items: Sequence[Item]) -> list[Any]:
    return [[list(context), [list(c) for c in continuations]] for context, continuations in items]
