"""Scoring and writing for the engines whose cache is held here: onnx and torch.

Such an engine evaluates rows of tokens after a cache and gives their logits and the cache that follows.
What has been handed out stays as it is, so the way back to any earlier point costs nothing.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from edgebench.core.engine import Item
from edgebench.core.errors import ModelError
from edgebench.core.types import Score
from edgebench.runners.log_softmax import score

PASS_TOKENS = 8
"""What a pass costs beyond its tokens, in tokens: SmolLM2-135M in fp32 on one thread takes 30 ms for one
token and 3.4 ms for each of a hundred. A common beginning shorter than this is evaluated again, and a row
is padded by no more than this to share a pass."""
MAX_WIDENED_BYTES = 256 * 2**20
"""Rows of one pass each need the cache they go on from. The engines copy it for each, so their number is
held down where it is long: 600 tokens of SmolLM2-135M in f32 are 27 MB."""
N_TYPICAL_CTX = 512
"""Cells of the cache where nobody asked for a number."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    enders: tuple[int, ...]
    bos: int | None

    def encode(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """The text as a user's turn, and whether there is a template."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens have none."""


@dataclass(frozen=True, slots=True)
class State:
    """A cache of one row, and how many tokens are in it."""

    cache: Any
    n_seen: int


@dataclass(slots=True)
class Leaf:
    """A text to evaluate once: a context and all but the last token of a continuation."""

    tokens: tuple[int, ...]
    n_before: int
    """Tokens before the first one whose logits are read: all of the context but its last."""
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """(item, continuation, where the first token's logits are): one-token continuations share a leaf."""


class CachedSession(ABC):
    """See `edgebench.core.engine.Session`."""

    facts: Mapping[str, Any]

    def __init__(self, tokenizer: Tokenizer, *, n_vocab: int, n_step: int) -> None:
        self._tokenizer = tokenizer
        self._enders = [token for token in tokenizer.enders if token < n_vocab]
        self.n_vocab = n_vocab
        self.n_ctx_train = 0
        self.bos = tokenizer.bos
        self._n_step = n_step
        self._no_logits = np.empty((0, n_vocab), np.float32)
        self._last_only = False
        """Whether a pass gives the logits of its last token only, as graphs made for writing may."""
        self.n_ctx = 0
        self._state = State(None, 0)
        self._last: npt.NDArray[np.float32] | None = None
        self._kept: tuple[tuple[int, ...], State] | None = None

    @abstractmethod
    def _empty(self) -> State:
        """The state before any token."""

    @abstractmethod
    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        """Evaluate rows of equal length, each after `state`: their logits from `start` on, and the cache.

        The logits are the caller's: nothing writes there again.

        Of several rows only the logits are of use.
        """

    @abstractmethod
    def _n_bytes(self, cache: Any) -> int:
        """What a cache of one row takes."""

    @property
    def kv_cache_bytes(self) -> int | None:
        """What the cache takes, where the engine says it."""
        return None

    @property
    def _takes_rows(self) -> bool:
        """Whether several rows may go on from one cache."""
        return True

    @property
    def enders(self) -> list[int]:
        """Tokens that end a text, which writing for a number of tokens passes over."""
        return list(self._enders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._state, self._last, self._kept = State(None, 0), None, None

    def open(self, *, n_ctx: int, n_seq_max: int = 1) -> None:
        """An empty cache that may grow to `n_ctx` tokens; rows beside it are made as they are needed."""
        self.n_ctx = n_ctx
        self.reset()

    def reset(self) -> None:
        """Drop every cached token."""
        self._state, self._last, self._kept = self._empty(), None, None

    def tokenize(self, text: str) -> list[int]:
        """Ids with the tokenizer's own BOS, and special tokens in the text recognised."""
        return self._tokenizer.encode(text)

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        """One user turn through the model's chat template."""
        return self._tokenizer.chat_prompt(text)

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens have none."""
        return self._tokenizer.piece(token)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after what is cached, one step's worth at a time."""
        if len(tokens):
            self._kept = None  # a buffer that is written in place holds one text only
            rows, self._state = self._advance(self._state, tokens, len(tokens) - 1)
            self._last = rows[-1]

    def greedy(self) -> int:
        """Argmax of the last logits, tokens that end a text excluded."""
        if self._last is None:
            raise ModelError("nothing was evaluated yet: there is no next token")
        token = int(self._last.argmax())
        if token not in self._enders:
            return token
        logits = self._last.copy()
        logits[self._enders] = -np.inf
        return int(logits.argmax())

    def logits(self, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        """Evaluate `tokens` from an empty cache; a copy of the logits from `start` on."""
        if not self.n_ctx:
            self.open(n_ctx=max(len(tokens), N_TYPICAL_CTX))
        self.reset()
        return self._advance(self._state, tokens, start)[0]

    def loglikelihoods(
        self, group: Sequence[Item], *, n_cells: int, shared: Sequence[int] = ()
    ) -> list[list[Score]]:
        """Score a group: what texts begin alike with is evaluated once, and short rows share passes.

        Without cells (`n_cells` 0) nothing is taken from a cache: every text is evaluated in one piece,
        which is another shape and moves what is quantized as it runs.
        """
        leaves = _leaves(group, shared)
        if n_cells:
            found = self._walk(leaves, self._begun(shared), min(n_cells, self._n_step))
        else:
            found = ((leaf, self.logits(leaf.tokens, leaf.n_before)) for leaf in leaves)
        scores: dict[tuple[int, int], Score] = {}
        for leaf, rows in found:
            for i, k, first in leaf.asked:
                continuation = group[i][1][k]
                scores[i, k] = score(rows[first - leaf.n_before :][: len(continuation)], continuation)
        return [[scores[i, k] for k in range(len(asked))] for i, (_, asked) in enumerate(group)]

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        n_gen: int,
        n_cells: int,
        shared: Sequence[int] = (),
        ended: Callable[[Sequence[int]], bool] = lambda _: False,
    ) -> list[list[int]]:
        """Write greedily, one context after the other, each from the kept beginning."""
        made = []
        for context in contexts:
            _check(context, shared)
            state = self._begun(shared if n_cells else ())
            fed, text = context[state.n_seen :], list[int]()
            while len(text) < n_gen:
                token, state = self._following(state, fed)
                if token in self._enders:
                    break
                text.append(token)
                if ended(text):
                    break
                fed = [token]
            made.append(text)
        return made

    def _begun(self, shared: Sequence[int]) -> State:
        """The state after `shared`: evaluated in steps of its own, and kept until another is named."""
        if self._kept is None or self._kept[0] != tuple(shared):
            self.reset()
            _, state = self._advance(self._state, shared, len(shared))
            self._kept = tuple(shared), state
        self._state, self._last = self._empty(), None
        return self._kept[1]

    def _advance(
        self, state: State, tokens: Sequence[int], start: int
    ) -> tuple[npt.NDArray[np.float32], State]:
        """Evaluate tokens after a state, step by step: their logits from `start` on, and the new state."""
        pieces: list[npt.NDArray[np.float32]] = []
        for begin, end in itertools.pairwise(self._ends(len(tokens), start)):
            part = np.array([tokens[begin:end]], np.int64)
            n_kept = min(max(end - start, 1), part.size)
            logits, cache = self._pass(part, state, part.size - n_kept)
            if end > start:
                pieces.append(logits[0])
            state = State(cache, state.n_seen + part.size)
        # A copy costs a small model more than choosing a token does: one piece is handed on as it is.
        return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, self._no_logits]), state

    def _following(self, state: State, tokens: Sequence[int]) -> tuple[int, State]:
        """Evaluate tokens after a state: the likeliest token after them, and the new state."""
        rows, state = self._advance(state, tokens, len(tokens) - 1)
        return int(rows[-1].argmax()), state

    def _ends(self, n_tokens: int, start: int) -> list[int]:
        """Where the steps of a text begin and end: token by token where each gives its logits alone."""
        n_together = min(start + 1, n_tokens) if self._last_only else n_tokens
        return [*range(0, n_together, self._n_step), *range(n_together, n_tokens + 1)]

    def _room_for(self, n_new: int, state: State) -> int:
        """Tokens there will be with `n_new` more; ModelError when they don't fit."""
        n_all = state.n_seen + n_new
        if n_all > self.n_ctx:
            raise ModelError(f"the context of {self.n_ctx} tokens is full ({n_all} needed)")
        return n_all

    def _walk(
        self, leaves: Sequence[Leaf], state: State, n_cells: int
    ) -> Iterator[tuple[Leaf, npt.NDArray[np.float32]]]:
        """Every leaf and its logits from its `n_before` on: those that begin alike first, then the others.

        Deeper states are left before another begins: that is what a buffer written in place can do.
        """
        alone: list[Leaf] = []
        for run, n_common in runs(leaves, state.n_seen):
            if len(run) == 1:
                alone += run
                continue
            begin = run[0].tokens[state.n_seen : n_common]
            _, deeper = self._advance(state, begin, len(begin))
            yield from self._walk(run, deeper, n_cells)
        n_rows = max(MAX_WIDENED_BYTES // max(self._n_bytes(state.cache), 1), 1)
        for batch in batches(alone, state.n_seen, n_cells, n_rows if self._takes_rows else 1):
            yield from self._read(batch, state)

    def _read(self, batch: Sequence[Leaf], state: State) -> Iterator[tuple[Leaf, npt.NDArray[np.float32]]]:
        """Evaluate leaves as rows after a state.

        Rows are padded on the right, and later tokens move nothing before them: no mask is needed. The
        padding is the row's own last token, which keeps a layer's largest activation what it is.
        """
        n = state.n_seen
        if len(batch) == 1:
            leaf = batch[0]
            yield leaf, self._advance(state, leaf.tokens[n:], leaf.n_before - n)[0]
            return
        width, start = max(len(leaf.tokens) for leaf in batch), min(leaf.n_before for leaf in batch)
        padded = [leaf.tokens[n:] + leaf.tokens[-1:] * (width - len(leaf.tokens)) for leaf in batch]
        logits, _ = self._pass(np.array(padded, np.int64), state, start - n)
        for row, leaf in zip(logits, batch, strict=True):
            yield leaf, row[leaf.n_before - start : len(leaf.tokens) - start]


def _leaves(group: Sequence[Item], shared: Sequence[int]) -> list[Leaf]:
    """The different texts of a group, sorted, so that those that begin alike are neighbours."""
    leaves: dict[tuple[int, ...], Leaf] = {}
    for i, (context, continuations) in enumerate(group):
        _check(context, shared)
        first = len(context) - 1
        for k, continuation in enumerate(continuations):
            tokens = (*context, *continuation[:-1])
            leaf = leaves.setdefault(tokens, Leaf(tokens, first))
            leaf.n_before = min(leaf.n_before, first)
            leaf.asked.append((i, k, first))
    return [leaves[tokens] for tokens in sorted(leaves)]


def _check(context: Sequence[int], shared: Sequence[int]) -> None:
    if not len(context):
        raise ModelError("a question without a context can't be scored")
    if len(context) <= len(shared) or tuple(context[: len(shared)]) != tuple(shared):
        raise ModelError("a context does not go on after what is shared")


def runs(leaves: Sequence[Leaf], n_seen: int) -> list[tuple[list[Leaf], int]]:
    """Sorted leaves cut where neighbours share less than a pass is worth; how far each run is common.

    It ends before the first logits that are read: those are the leaves' own.
    """
    found: list[tuple[list[Leaf], int]] = []
    for leaf in leaves:
        if found:
            run, n_common = found[-1]
            n = min(_n_common(run[-1].tokens, leaf.tokens), run[-1].n_before, leaf.n_before)
            if n >= n_seen + PASS_TOKENS:
                found[-1] = [*run, leaf], min(n, n_common)
                continue
        found.append(([leaf], len(leaf.tokens)))
    return found


def batches(leaves: Sequence[Leaf], n_seen: int, n_cells: int, n_rows: int) -> list[list[Leaf]]:
    """Leaves of nearly one length together, as long as `n_cells` tokens and `n_rows` rows hold them."""
    found: list[list[Leaf]] = []
    for leaf in sorted(leaves, key=lambda leaf: -len(leaf.tokens)):
        if found:
            batch = found[-1]
            width = len(batch[0].tokens) - n_seen
            n_padding = len(batch[0].tokens) - len(leaf.tokens)
            fits = len(batch) < n_rows and (len(batch) + 1) * width <= n_cells
            if fits and n_padding <= PASS_TOKENS:
                batch.append(leaf)
                continue
        found.append([leaf])
    return found


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin alike with."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
