"""Where a file's weights have been is never lost: not by copying it, not by way of an f16."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgebench.core.types import Artifact
from edgebench.quantize.manifest import describe


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))


def _parent(path: Path, level: str, parent_quant: str | None = None) -> Artifact:
    own = describe(path)
    return replace(own, sha256="2" * 64, quant=replace(own.quant, name=level), parent_quant=parent_quant)


def test_a_copy_under_another_name_keeps_its_parent(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    made = write_gguf("Q8_0", name="made.gguf")
    copy = tmp_path / "mine-q8_0.gguf"
    copy.write_bytes(made.read_bytes())
    original = write_gguf("Q4_1", name="parent.gguf")
    assert describe(made, parent=_parent(original, "q4_1")).label == "q8_0 (from q4_1)"
    found = describe(copy)
    assert (found.label, found.model) == ("q8_0 (from q4_1)", "mine")
    assert describe(made).model == "made"


@pytest.mark.parametrize(
    ("parent_level", "grandparent_level", "label"),
    [
        ("f16", "q4_1", "q8_0 (from q4_1)"),  # an f16 made from 4 bits is 4 bits
        ("f16", None, "q8_0"),
        ("q5_0", "q4_1", "q8_0 (from q5_0)"),
    ],
)
def test_a_whole_level_passes_on_what_it_was_made_from(
    write_gguf: Callable[..., Path], parent_level: str, grandparent_level: str | None, label: str
) -> None:
    made = write_gguf("Q8_0", name="made.gguf")
    original = write_gguf("F16", name="parent.gguf")
    assert describe(made, parent=_parent(original, parent_level, grandparent_level)).label == label
