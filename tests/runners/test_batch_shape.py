"""What docs/determinism.md claims: one shape, one set of bits; another shape moves f32 by next to nothing."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebench.core.types import Settings
from edgebench.quantize.gguf_quantize import GgufQuantizer
from edgebench.runners.llama_cpp import LlamaCpp
from edgebench.session_models import DEFAULT_MODEL, make_level, resolve

pytestmark = pytest.mark.engine

PARITY = Settings(n_threads=1, flash_attn="off", type_k="f32", type_v="f32")
SHIPPED = Settings(n_threads=1)
TEXT = (
    "The ferry leaves at six, and the captain counts the passengers twice before he lets go of the rope. " * 3
)
F32_LIMIT = 1e-3
"""Largest shift of a logit; about 2e-5 was seen."""
ROUNDING_LIMIT = 5.0
"""The same where weights and activations are of 8 bits; about 1 was seen. A wrong answer shifts by more."""


def shapes(path: Path, settings: Settings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits after one text: in one batch (and the same bits once more), and in batches of one token."""
    found = []
    for n_batch in (512, 1):
        with LlamaCpp().load(path, dataclasses.replace(settings, n_batch=n_batch)) as session:
            tokens = session.tokenize(TEXT)[:40]
            assert len(tokens) == 40
            for _ in range(2):
                session.open(n_ctx=256)
                found.append(session.logits(tokens, 39)[0])
    together, together_again, singly, singly_again = found
    assert np.array_equal(together, together_again)
    assert np.array_equal(singly, singly_again)
    return together, singly


def test_an_f32_file_hardly_moves(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "f32.gguf"
    job = {"source": str(smollm2), "target": str(path), "level": "f32", "n_threads": 2}
    GgufQuantizer().make(job, lambda _: None)
    together, singly = shapes(path, PARITY)
    path.unlink()
    assert np.abs(together - singly).max() < F32_LIMIT


def test_a_quantized_file_moves_by_no_more_than_its_activations_are_rounded(
    smollm2: Path, record_property: Callable[[str, object], None]
) -> None:
    assert smollm2.is_file()
    path = make_level(resolve(DEFAULT_MODEL, print), "q8_0", n_threads=1, progress=lambda *_: None).path
    together, singly = shapes(path, PARITY)
    shift = float(np.abs(together - singly).max())
    record_property("largest_shift_of_a_logit", shift)  # 0 where an engine's kernels agree to the bit
    assert shift < ROUNDING_LIMIT
    assert np.corrcoef(together, singly)[0, 1] > 0.98


def test_company_counts_by_its_shape_not_by_its_content(smollm2: Path) -> None:
    with LlamaCpp().load(smollm2, SHIPPED) as session:
        tokens = session.tokenize(TEXT)
        question = (tokens[:30], [[5], [6]])
        session.open(n_ctx=256, n_seq_max=4)
        first, other = (
            session.loglikelihoods([(tokens[at : at + 33], [[7]]), question], n_cells=512)[1]
            for at in (31, 37)
        )
        assert tokens[31] != tokens[0] != tokens[37]
        assert tokens[31:64] != tokens[37:70]
        assert first == other
