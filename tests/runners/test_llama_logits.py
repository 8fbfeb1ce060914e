"""All logits of a text: the same bits every time, and the same numbers that scoring and greedy see."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgebench.core.types import Settings
from edgebench.runners.llama_cpp import LlamaCpp, LlamaSession

pytestmark = pytest.mark.engine

# One thread: llama.cpp's threads wait for each other by spinning, which takes minutes on shared cores.
PARITY = Settings(n_threads=1, n_batch=64, n_ubatch=64, flash_attn="off", type_k="f32", type_v="f32")
TEXT = "The ferry leaves at six, and the captain counts the passengers twice before he lets go of the rope."


@pytest.fixture(scope="module")
def session(smollm2: Path) -> Iterator[LlamaSession]:
    with LlamaCpp().load(smollm2, PARITY) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(session: LlamaSession) -> list[int]:
    return session.tokenize(TEXT * 4)


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def test_logits_repeat_to_the_bit_and_are_a_copy(session: LlamaSession, tokens: list[int]) -> None:
    assert len(tokens) > 64  # more than one batch
    session.open(n_ctx=256)
    first = session.logits(tokens, 0)
    assert first.shape == (len(tokens), session.n_vocab)
    assert first.dtype == np.float32
    kept = first.copy()
    session.logits(tokens[:10], 0)
    assert np.array_equal(first, kept)
    assert np.array_equal(session.logits(tokens, 0), first)
    session.open(n_ctx=256, n_seq_max=4)
    assert np.array_equal(session.logits(tokens, 0), first)


def test_start_leaves_out_the_beginning_and_changes_nothing(session: LlamaSession, tokens: list[int]) -> None:
    session.open(n_ctx=256)
    whole = session.logits(tokens, 0)
    for start in (1, 63, 64, len(tokens) - 1):
        part = session.logits(tokens, start)
        assert part.shape == (len(tokens) - start, session.n_vocab)
        # Rows nobody asks for are left out of the last layers: another shape, the same numbers.
        assert np.abs(part - whole[start:]).max() < 1e-3


def test_what_was_cached_before_has_no_say(session: LlamaSession, tokens: list[int]) -> None:
    session.open(n_ctx=256)
    fresh = session.logits(tokens, 5)
    session.prefill(tokens[3:40])
    assert np.array_equal(session.logits(tokens, 5), fresh)


def test_logits_are_what_scoring_sees(session: LlamaSession, tokens: list[int]) -> None:
    session.open(n_ctx=256, n_seq_max=2)
    context, continuation = tokens[:20], tokens[20:24]
    rows = log_softmax(session.logits([*context, *continuation[:-1]], len(context) - 1))
    expected = sum(rows[i, token] for i, token in enumerate(continuation))
    score = session.loglikelihoods([(context, [continuation])], n_cells=0)[0][0]
    assert score.logprob == pytest.approx(expected, abs=0.05)  # other batch shapes round q8 activations anew


def test_the_last_row_says_what_greedy_says(session: LlamaSession, tokens: list[int]) -> None:
    session.open(n_ctx=256)
    row = session.logits(tokens[:30], 29)[0]
    session.reset()
    session.prefill(tokens[:30])
    assert session.greedy() == int(row.argmax())
