"""An engine whose logits are a function of the text so far and of nothing else, in whatever batch.

edgebench's prefix tree and lm-eval's one request after the other so get the same logits to the bit, and
what may differ is what either program makes of them. Its tokens are bytes and a few longer pieces, some of
them across the place where a context ends and an answer begins.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.runners.cached_session import CachedSession, State

PIECES = (
    *(
        " A",
        " B",
        " C",
        " D",
        " E",
        "Answer",
        ":",
        "Question",
        "\n\n",
        "\nA",
        ". ",
        ": th",
        " th",
        "e ",
        "ing",
    ),
    *(" the", " a", "an", "in", " of", "is", "  ", " \n", "ä", "µg", "日"),
)
N_VOCAB = 256 + len(PIECES)
EACH = np.arange(N_VOCAB, dtype=np.int64)
M = 2**31 - 1


class Pieces:
    """The longest known piece wins."""

    enders: tuple[int, ...] = ()
    bos: int | None = None

    def __init__(self) -> None:
        self._ids = {piece.encode(): 256 + i for i, piece in enumerate(PIECES)}
        self._sizes = sorted({len(piece) for piece in self._ids}, reverse=True)

    @functools.cache  # noqa: B019 - one tokenizer a process; each text is asked for often
    def encode(self, text: str) -> list[int]:
        raw, at, ids = text.encode(), 0, list[int]()
        while at < len(raw):
            size = next((n for n in self._sizes if raw[at : at + n] in self._ids), 1)
            piece = raw[at : at + size]
            ids.append(self._ids.get(piece, piece[0]))
            at += size
        return ids

    def chat_prompt(self, text: str) -> tuple[str, bool]:
        return f"<user>\n{text}<end>\n<assistant>\n", True

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else PIECES[token - 256].encode()


class FakeSession(CachedSession):
    """The cache is a hash of what was read."""

    def __init__(self, *, n_ctx_train: int = 100_000) -> None:
        super().__init__(Pieces(), n_vocab=N_VOCAB, n_step=512)
        self.facts = {}
        self.n_ctx_train = n_ctx_train

    def _empty(self) -> State:
        return State(1, 0)

    def _n_bytes(self, cache: Any) -> int:
        return 8

    def _pass(
        self, rows: npt.NDArray[np.int64], state: State, start: int
    ) -> tuple[npt.NDArray[np.float32], Any]:
        out = np.empty((len(rows), rows.shape[1] - start, N_VOCAB), np.float32)
        seen = 0
        for i, row in enumerate(rows.tolist()):
            seen = int(state.cache)
            for j, token in enumerate(row):
                seen = (seen * 48_271 + token + 1) % M
                if j >= start:
                    out[i, j - start] = _logits(seen)
        return out, seen


def _logits(seen: int) -> npt.NDArray[np.float32]:
    """Whole numbers until the last step, so that no library's rounding has a say."""
    mixed = (seen % 65_521 + 1) * (EACH * 7_919 + 13) % 65_537
    return (mixed % 4_096 - 2_048).astype(np.float32) / np.float32(256)
