"""llama.cpp's quantizer on the embedded model."""

from pathlib import Path

import pytest

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.quantize.gguf_file import inspect_gguf
from edgebench.quantize.gguf_quantize import GgufQuantizer
from edgebench.quantize.levels import LEVELS, NEEDS_IMATRIX

pytestmark = pytest.mark.engine


def make(source: Path, target: Path, level: str, n_threads: int = 2) -> list[float]:
    shares: list[float] = []
    GgufQuantizer().quantize(source, target, level, n_threads=n_threads, progress=shares.append)
    return shares


def test_q4_0_is_what_it_says(smollm2: Path, tmp_path: Path) -> None:
    shares = make(smollm2, tmp_path / "new" / "q4_0.gguf", "q4_0")
    facts = inspect_gguf(tmp_path / "new" / "q4_0.gguf")
    assert (facts.level, facts.family) == ("q4_0", "llama")
    assert facts.tensor_types == {"Q4_0": 210, "F32": 61, "Q8_0": 1}
    assert facts.n_fallback == 0
    assert facts.n_params == inspect_gguf(smollm2).n_params
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_rows_that_256_does_not_divide_fall_back(smollm2: Path, tmp_path: Path) -> None:
    make(smollm2, tmp_path / "q2_k.gguf", "q2_k")
    facts = inspect_gguf(tmp_path / "q2_k.gguf")
    assert facts.level == "q2_k"
    assert facts.tensor_types == {"Q4_0": 180, "F32": 61, "Q3_K": 30, "Q8_0": 1}
    assert facts.n_fallback == 180  # 576 is no multiple of 256; 1,536 is
    assert facts.bits_per_weight > 5


def test_same_input_gives_the_same_bytes(smollm2: Path, tmp_path: Path) -> None:
    hashes = set()
    for n_threads in (1, 2, 2):
        make(smollm2, tmp_path / "q4_0.gguf", "q4_0", n_threads)
        hashes.add(sha256_file(tmp_path / "q4_0.gguf"))
    assert len(hashes) == 1


@pytest.mark.parametrize("level", sorted(NEEDS_IMATRIX))
def test_level_that_needs_an_importance_matrix_is_refused(smollm2: Path, tmp_path: Path, level: str) -> None:
    with pytest.raises(ModelError, match=f"level {level} needs an importance matrix") as caught:
        make(smollm2, tmp_path / "x.gguf", level)
    assert "q2_k" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_unknown_level_names_the_nearest(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown level 'q4_k'"):
        make(smollm2, tmp_path / "x.gguf", "q4_k")


@pytest.mark.parametrize("n_bytes", [4, 5000, 3_000_000, 50_000_000])
def test_damaged_source_leaves_no_file(smollm2: Path, tmp_path: Path, n_bytes: int) -> None:
    source = tmp_path / "cut.gguf"
    with smollm2.open("rb") as whole:
        source.write_bytes(whole.read(n_bytes))
    with pytest.raises(ModelError, match=r"could not make q4_0 of cut\.gguf: ") as caught:
        make(source, tmp_path / "out" / "q4_0.gguf", "q4_0")
    assert "\n" not in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_target_that_is_there_stays_when_quantizing_fails(smollm2: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "cut.gguf", tmp_path / "q4_0.gguf"
    with smollm2.open("rb") as whole:
        source.write_bytes(whole.read(5000))
    target.write_text("the old one")
    with pytest.raises(ModelError):
        make(source, target, "q4_0")
    assert target.read_text() == "the old one"


def test_disk_without_room_is_told(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebench.quantize.gguf_quantize.free_bytes", lambda _: 1000)
    with pytest.raises(ModelError, match="has no room for q4_0"):
        make(smollm2, tmp_path / "x.gguf", "q4_0")


def test_quantizer_offers_every_level_and_names_its_library() -> None:
    assert tuple(LEVELS) == GgufQuantizer().levels()
    assert GgufQuantizer().version().startswith("llama-cpp-python 0.")
