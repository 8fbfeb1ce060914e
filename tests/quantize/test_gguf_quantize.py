"""llama.cpp's quantizer on the embedded model."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.quantize.gguf_file import inspect_gguf
from edgebench.quantize.gguf_header import read_header
from edgebench.quantize.gguf_quantize import GgufQuantizer
from edgebench.quantize.levels import LEVELS, NEEDS_IMATRIX

pytestmark = pytest.mark.engine


def make(source: Path, target: Path, level: str, n_threads: int = 2, **options: Any) -> dict[str, Any]:
    """What `quantize` told, and the `shares` it reported on the way."""
    shares: list[float] = []
    job = {"source": str(source), "target": str(target), "level": level, "n_threads": n_threads, **options}
    return {**GgufQuantizer().make(job, shares.append), "shares": shares}


def test_q4_0_is_what_it_says(smollm2: Path, tmp_path: Path) -> None:
    told = make(smollm2, tmp_path / "new" / "q4_0.gguf", "q4_0")
    shares = told["shares"]
    facts = inspect_gguf(tmp_path / "new" / "q4_0.gguf")
    assert (facts.level, facts.family) == ("q4_0", "llama")
    assert facts.tensor_types == {"Q4_0": 210, "F32": 61, "Q8_0": 1}
    assert facts.n_fallback == 0
    assert facts.n_params == inspect_gguf(smollm2).n_params
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_rows_that_256_does_not_divide_fall_back(smollm2: Path, tmp_path: Path) -> None:
    told = make(smollm2, tmp_path / "q2_k.gguf", "q2_k")
    facts = inspect_gguf(tmp_path / "q2_k.gguf")
    assert facts.level == "q2_k"
    assert facts.tensor_types == {"Q4_0": 180, "F32": 61, "Q3_K": 30, "Q8_0": 1}
    assert facts.n_fallback == 180  # 576 is no multiple of 256; 1,536 is
    assert facts.bits_per_weight > 5
    assert facts.bits_per_class["ffn"] > 4  # the name promises 2 to 3
    assert 0.9 < facts.fallback_share < 1.0 or facts.fallback_share > 0.5
    assert len(told["fallbacks"]) == 180
    assert ["blk.0.attn_k.weight", "q2_k", "q4_0"] in told["fallbacks"]


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


def test_tensor_types_are_overridden_by_pattern_and_by_role(smollm2: Path, tmp_path: Path) -> None:
    options = {"tensor_types": [["blk.*ffn_down", "q6_k"]], "output_type": "q5_0", "embedding_type": "q8_0"}
    make(smollm2, tmp_path / "x.gguf", "q4_0", **options)
    kinds = {t.name: t.kind for t in read_header(tmp_path / "x.gguf").tensors}
    assert {kind for name, kind in kinds.items() if "ffn_down" in name} == {"Q6_K"}
    assert {kind for name, kind in kinds.items() if "ffn_up" in name} == {"Q4_0"}
    assert kinds["token_embd.weight"] == "Q8_0"  # tied: an embedding that was named wins over the head


def test_dry_run_tells_what_the_real_run_does_and_writes_nothing(smollm2: Path, tmp_path: Path) -> None:
    told = make(smollm2, tmp_path / "x.gguf", "q3_k_m", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    real = make(smollm2, tmp_path / "x.gguf", "q3_k_m")
    assert told["fallbacks"] == real["fallbacks"]
    assert told["bits_per_weight"] == real["bits_per_weight"]
    assert inspect_gguf(tmp_path / "x.gguf").bits_per_weight == pytest.approx(
        told["bits_per_weight"], abs=0.01
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tensor_types": [["ffn", "q9_k"]]}, "unknown tensor type 'q9_k'"),
        ({"tensor_types": [["ffn(", "q6_k"]]}, r"--tensor-type 'ffn\(' is no regular expression"),
        ({"output_type": "int8"}, "unknown tensor type 'int8'"),
    ],
)
def test_override_that_cannot_be_used_is_told_before_anything_is_written(
    smollm2: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        make(smollm2, tmp_path / "x.gguf", "q4_0", **options)
    assert list(tmp_path.iterdir()) == []


def test_level_whose_blocks_do_not_fit_is_told_in_llama_cpps_words(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"could not make q1_0 .*: no tensor type fallback is defined"):
        make(smollm2, tmp_path / "x.gguf", "q1_0")


def test_importance_matrix_is_used_and_named_in_the_file(smollm2: Path, tmp_path: Path) -> None:
    matrix = flat_matrix(smollm2, tmp_path / "m.gguf")
    told = make(smollm2, tmp_path / "x.gguf", "iq2_xxs", imatrix=str(matrix))
    header = read_header(tmp_path / "x.gguf")
    assert header.fields["quantize.imatrix.file"] == f"sha256:{sha256_file(matrix)}"
    assert header.fields["quantize.imatrix.entries_count"] == 210
    assert inspect_gguf(tmp_path / "x.gguf").level == "iq2_xxs"
    assert len(told["fallbacks"]) == 180


def test_importance_matrix_of_another_model_is_refused(smollm2: Path, tmp_path: Path) -> None:
    matrix = flat_matrix(smollm2, tmp_path / "m.gguf", wider=64)
    with pytest.raises(ModelError, match="is of another model"):
        make(smollm2, tmp_path / "x.gguf", "q4_k_m", imatrix=str(matrix))
    assert not (tmp_path / "x.gguf").exists()


def flat_matrix(model: Path, path: Path, wider: int = 0) -> Path:
    """A matrix that finds every column of every layer equally important."""
    writer = gguf.GGUFWriter(path, "imatrix")
    for tensor in read_header(model).tensors:
        if tensor.name.startswith("blk.") and tensor.n_elements > tensor.n_per_row:
            sums = np.ones((1, tensor.n_per_row + wider), dtype=np.float32)
            writer.add_tensor(f"{tensor.name}.in_sum2", sums)
            writer.add_tensor(f"{tensor.name}.counts", np.ones((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
