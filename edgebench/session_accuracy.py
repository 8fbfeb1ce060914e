"""Scoring inside the measuring process: prompts to tokens, groups to log-likelihoods or texts.

Contexts and continuations are split as lm-eval splits them: the whole text is tokenized, and what
follows the context's own tokens is the continuation.
"""

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgebench.core.engine import Item, Session
from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import Shape

CTX_STEP = 256
"""llama.cpp rounds caches up to this many cells."""
MIN_SHARED = 8
"""Shorter common beginnings are cheaper to evaluate again than to keep."""


def score_groups(session: Session, job: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Score the job's `wanted` groups (by index, in that order), one result a group.

    Groups of one deck (a subject) begin alike; what they share is evaluated once for as long as they
    follow each other. It is taken from *all* groups of the deck, and the cache is sized from all groups,
    so a resumed run works in the very same shapes as an uninterrupted one.
    """
    shape, n_cells, n_gen = Shape(job["shape"]), int(job["n_cells"]), int(job.get("n_gen", 0))
    groups = [[_tokens(session, prompt, job) for prompt in group] for group in job["groups"]]
    shared = _shared(groups, job.get("decks") or [""] * len(groups))
    _open(session, groups, shared, n_cells, n_gen)
    for index in job["wanted"]:
        prompts, items, common = job["groups"][index], [item for item, _ in groups[index]], shared[index]
        start = time.perf_counter_ns()
        if n_gen:
            found = _written(session, items, common, job)
        else:
            found = _scored(session, items, common, shape, n_cells)
        yield {
            "group": index,
            "group_s": (time.perf_counter_ns() - start) * 1e-9,
            "group_sha256": sha256_json([shape.value, n_cells, n_gen, list(common), _listed(items)]),
            "answers": [
                {
                    "question_id": prompt["id"],
                    "rotation": prompt["rotation"],
                    "n_shots": prompt["n_shots"],
                    "n_prompt": len(item[0]),
                    "n_cut": n_cut,
                    **answer,
                }
                for prompt, (item, n_cut), answer in zip(prompts, groups[index], found, strict=True)
            ],
        }


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


def _open(
    session: Session,
    groups: Sequence[Sequence[tuple[Item, int]]],
    shared: Sequence[Sequence[int]],
    n_cells: int,
    n_gen: int,
) -> None:
    """A cache for the largest group: its shared beginning, one batch of what branches off it, its texts."""
    n_needed, n_seqs = n_cells, 1
    for group, common in zip(groups, shared, strict=True):
        own = [len(c) + sum(len(x) for x in conts) for (c, conts), _ in group]
        longest = max(max(own), n_cells + len(common))
        n_needed = max(n_needed, longest + n_gen * len(group))
        n_seqs = max(n_seqs, sum(max(len(conts), 1) for (_, conts), _ in group))
    session.open(n_ctx=-(-n_needed // CTX_STEP) * CTX_STEP, n_seq_max=1 + n_seqs)


def _shared(groups: Sequence[Sequence[tuple[Item, int]]], decks: Sequence[str]) -> list[Sequence[int]]:
    """Group -> the tokens that it begins with as all of its deck do; nothing where a prompt was cut."""
    common: dict[str, Sequence[int]] = {}
    for group, deck in zip(groups, decks, strict=True):
        for (context, _), n_cut in group if deck else ():
            if not n_cut:
                # At least one token of each context stays its own.
                common[deck] = _common(common.get(deck, context[:-1]), context[:-1])
    found: list[Sequence[int]] = []
    for group, deck in zip(groups, decks, strict=True):
        begins = common.get(deck, ()) if deck and not any(n_cut for _, n_cut in group) else ()
        found.append(begins if len(begins) >= MIN_SHARED else ())
    return found


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
    text = session.chat_prompt(prompt["context"])[0] if job.get("chat") else prompt["context"]
    context, continuations = split_tokens(session, text, prompt["continuations"])
    if not all(continuations):
        raise ModelError(f"question {prompt['id']}: an option adds no token to the prompt")
    longest = max((len(c) for c in continuations), default=0)
    room = session.n_ctx_train - (longest - 1 if continuations else job.get("n_gen", 0))
    n_cut = max(len(context) - room, 0)
    if n_cut and not job.get("truncate", True):
        raise ModelError(
            f"question {prompt['id']}: {len(context)} tokens are {n_cut} more than fit the model's context",
            "fewer worked examples, or let it be cut from the left: leave out --no-truncate",
        )
    return (array("i", context[n_cut:]), [array("i", c) for c in continuations]), n_cut


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
