import gguf
import pytest

from edgebench.quantize.levels import LEVELS, NEEDS_IMATRIX, level_of, needs_super_blocks

UNLISTED = {"nvfp4", "guessed"}
"""Not levels that llama.cpp's quantizer makes."""
NEWER = {"q2_0": 41}
"""Levels that the `gguf` package does not know yet."""


def test_levels_are_llama_cpps_own_numbers() -> None:
    known = {
        kind.name.removeprefix("ALL_").removeprefix("MOSTLY_").lower(): kind for kind in gguf.LlamaFileType
    }
    assert {name: known[name].value for name in LEVELS if name in known} | NEWER == LEVELS
    assert set(known) - set(LEVELS) <= UNLISTED


def test_every_level_is_found_by_its_number() -> None:
    assert [level_of(number) for number in LEVELS.values()] == list(LEVELS)
    assert level_of(1024) is None


def test_levels_without_an_importance_matrix_are_levels() -> None:
    assert set(LEVELS) >= NEEDS_IMATRIX


@pytest.mark.parametrize(
    ("level", "needs"),
    [("q4_k_m", True), ("q2_k", True), ("iq4_xs", True), ("tq1_0", True)]
    + [(level, False) for level in ("q4_0", "q8_0", "f16", "bf16", "iq4_nl")],
)
def test_which_levels_need_rows_of_256(level: str, needs: bool) -> None:
    assert needs_super_blocks(level) is needs
