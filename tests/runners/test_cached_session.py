"""Sharing and batching on a pretend model whose logits are a hash of everything before: nothing may move."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.engine import Item
from edgebench.core.errors import ModelError
from edgebench.runners import cached_session
from edgebench.runners.cached_session import CachedSession, State

N_VOCAB = 12


class Tokens:
    """A tokenizer with one token that ends texts."""

    enders = (N_VOCAB - 1, N_VOCAB)
    bos = None

    def encode(self, text: str) -> list[int]:
        return [ord(sign) % N_VOCAB for sign in text]

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        return text, False

    def piece(self, token: int) -> bytes:
        return bytes([token])


class Pretend(CachedSession):
    """Its cache is the text itself; every pass is written down as (rows, width, tokens before)."""

    def __init__(self, *, n_step: int = 64, takes_rows: bool = True, last_only: bool = False) -> None:
        super().__init__(Tokens(), n_vocab=N_VOCAB, n_step=n_step)
        self._last_only = last_only
        self.passes: list[tuple[int, int, int]] = []
        self._rows = takes_rows
        self.open(n_ctx=4096)

    def _empty(self) -> State:
        return State((), 0)

    def _n_bytes(self, cache: Any) -> int:
        return len(cache)

    @property
    def _takes_rows(self) -> bool:
        return self._rows

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        self._room_for(rows.shape[1], state)
        assert state.n_seen == len(state.cache)
        assert 0 <= start < rows.shape[1]
        assert start == rows.shape[1] - 1 or not self._last_only
        self.passes.append((*rows.shape, state.n_seen))
        out = [
            [_logits((*state.cache, *row[: i + 1])) for i in range(start, len(row))] for row in rows.tolist()
        ]
        return np.array(out, np.float32), (*state.cache, *rows[0].tolist())


def _logits(text: Sequence[int]) -> npt.NDArray[np.float32]:
    digest = hashlib.sha256(repr(tuple(text)).encode()).digest()
    return np.frombuffer(digest[:N_VOCAB], np.uint8).astype(np.float32) / 40


tokens = st.lists(st.integers(0, 3), max_size=30)
some = tokens.filter(len)


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[int], list[Item]]:
    """What is shared, and items that begin with it, many of them alike for longer."""
    shared, stems = draw(tokens), draw(st.lists(tokens, min_size=1, max_size=3))
    items: list[Item] = []
    for _ in range(draw(st.integers(1, 7))):
        own = [*draw(st.sampled_from(stems)), *draw(some)]
        items.append(([*shared, *own], draw(st.lists(tokens, min_size=1, max_size=4))))
    return shared, items


@given(groups(), st.integers(1, 80), st.integers(1, 40), st.booleans())
def test_sharing_and_batching_change_no_score_and_stay_in_their_bounds(
    made: tuple[list[int], list[Item]], n_cells: int, n_step: int, takes_rows: bool
) -> None:
    shared, items = made
    alone = Pretend(n_step=n_step).loglikelihoods(items, n_cells=0)
    session = Pretend(n_step=n_step, takes_rows=takes_rows)
    assert session.loglikelihoods(items, n_cells=n_cells, shared=shared) == alone
    for n_rows, width, _ in session.passes:
        assert n_rows * width <= (min(n_cells, n_step) if n_rows > 1 else n_step)
        assert n_rows == 1 or takes_rows


@given(groups(), st.sampled_from([0, 50]), st.integers(1, 40))
def test_where_only_the_last_logits_are_given_the_scores_are_the_same(
    made: tuple[list[int], list[Item]], n_cells: int, n_step: int
) -> None:
    shared, items = made
    session = Pretend(n_step=n_step, takes_rows=False, last_only=True)
    expected = Pretend().loglikelihoods(items, n_cells=0)
    assert session.loglikelihoods(items, n_cells=n_cells, shared=shared) == expected


def test_what_begins_alike_is_evaluated_once_and_the_shared_beginning_is_kept() -> None:
    shared = [1] * 50
    questions = [[*shared, *[2 + i] * 20] for i in range(3)]
    group: list[Item] = [(q, [[5], [6], [7, 8, 9], [7, 8, 1, 1]]) for q in questions]
    session = Pretend()
    first = session.loglikelihoods(group, n_cells=512, shared=shared)
    # The beginning; each question but its last token; its three branches, each from that token on.
    assert session.passes == [(1, 50, 0)] + [(1, 19, 50), (3, 4, 69)] * 3
    session.passes.clear()
    assert session.loglikelihoods(group, n_cells=512, shared=shared) == first
    assert session.passes == [(1, 19, 50), (3, 4, 69)] * 3
    session.loglikelihoods(group[:1], n_cells=512, shared=shared[:40])
    assert session.passes[6] == (1, 40, 0)


def test_questions_of_nearly_one_length_share_a_pass() -> None:
    group: list[Item] = [([i, *[3] * n], [[5], [6]]) for i, n in enumerate((30, 10, 28, 29, 11))]
    session = Pretend(n_step=128)
    session.loglikelihoods(group, n_cells=100)
    assert session.passes == [(3, 31, 0), (2, 12, 0)]
    session.passes.clear()
    session.loglikelihoods(group, n_cells=70)
    assert session.passes == [(2, 31, 0), (1, 29, 0), (2, 12, 0)]


def test_copies_of_a_long_cache_are_held_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_session, "MAX_WIDENED_BYTES", 100)  # a token of the pretend cache is one
    shared = [1] * 40
    group: list[Item] = [([*shared, i, 3], [[5]]) for i in range(5)]
    session = Pretend()
    session.loglikelihoods(group, n_cells=512, shared=shared)
    assert session.passes == [(1, 40, 0), (2, 2, 40), (2, 2, 40), (1, 2, 40)]


@given(groups(), st.integers(1, 6), st.sampled_from([0, 512]))
def test_what_is_written_is_the_argmax_again_and_again(
    made: tuple[list[int], list[Item]], n_gen: int, n_cells: int
) -> None:
    shared, items = made
    contexts = [context for context, _ in items]
    session = Pretend()
    expected = []
    for context in contexts:
        text: list[int] = []
        while len(text) < n_gen and not (text and text[-1] == 4):
            token = int(_logits((*context, *text)).argmax())
            if token in Tokens.enders:
                break
            text.append(token)
        expected.append(text)
    found = session.generate(
        contexts, n_gen=n_gen, n_cells=n_cells, shared=shared, ended=lambda text: text[-1] == 4
    )
    assert found == expected


def test_what_can_not_be_scored_is_refused() -> None:
    session = Pretend()
    with pytest.raises(ModelError, match="without a context"):
        session.loglikelihoods([([], [[1]])], n_cells=512)
    for context in ([1, 2], [2, 2, 2]):
        with pytest.raises(ModelError, match="does not go on after"):
            session.loglikelihoods([(context, [[1]])], n_cells=512, shared=[1, 2])
    session.open(n_ctx=8)
    with pytest.raises(ModelError, match=r"context of 8 tokens is full \(9 needed\)"):
        session.loglikelihoods([([1] * 9, [[1]])], n_cells=512)
