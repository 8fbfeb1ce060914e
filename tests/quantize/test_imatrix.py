"""Importance matrices: read strictly, and never used on another model."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgebench.core.errors import ModelError
from edgebench.quantize.gguf_header import read_header
from edgebench.quantize.imatrix import check_fits, read_imatrix

WriteMatrix = Callable[..., Path]
WIDTHS = {"blk.0.attn_q.weight": 64, "blk.0.ffn_down.weight": 256}


@pytest.fixture
def write_matrix(tmp_path: Path) -> WriteMatrix:
    """A matrix file: each tensor's sums of squares, and how many tokens they are of."""

    def write(
        widths: dict[str, int] | None = None,
        counts: tuple[float, ...] = (4.0,),
        value: float = 8.0,
        with_counts: bool = True,
    ) -> Path:
        path = tmp_path / "x.imatrix.gguf"
        writer = gguf.GGUFWriter(path, "imatrix")
        writer.add_uint32("imatrix.chunk_count", 7)
        for name, width in (WIDTHS if widths is None else widths).items():
            sums = np.full((len(counts), width), value, dtype=np.float32)
            writer.add_tensor(f"{name}.in_sum2", sums)
            if with_counts:
                writer.add_tensor(f"{name}.counts", np.array([counts], dtype=np.float32).T)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def fits(matrix: Path, model: Path) -> None:
    check_fits(read_imatrix(matrix), matrix, read_header(model), model)


def test_sums_become_means(write_matrix: WriteMatrix) -> None:
    matrix = read_imatrix(write_matrix())
    assert {name: len(row) for name, row in matrix.rows.items()} == WIDTHS
    assert set(matrix.rows["blk.0.attn_q.weight"]) == {2.0}
    assert matrix.n_chunks == 7
    assert len(matrix.sha256) == 64


def test_each_expert_has_a_mean_of_its_own_and_an_unseen_one_ones(write_matrix: WriteMatrix) -> None:
    matrix = read_imatrix(write_matrix({"blk.0.ffn_up_exps.weight": 4}, counts=(4.0, 0.0, 2.0)))
    assert matrix.rows["blk.0.ffn_up_exps.weight"].tolist() == [2.0] * 4 + [1.0] * 4 + [4.0] * 4


def test_matrix_of_this_model_fits(write_matrix: WriteMatrix, tiny: Path) -> None:
    fits(write_matrix(), tiny)


@pytest.mark.parametrize(
    ("widths", "told"),
    [
        ({"blk.0.attn_q.weight": 48}, "blk.0.attn_q.weight has 48 columns there, 64 here"),
        ({**WIDTHS, "blk.9.attn_q.weight": 64}, "tiny.gguf has no blk.9.attn_q.weight"),
        ({"output_norm.weight": 64}, "it lacks 2 of 2 tensors, blk.0.attn_q.weight first"),
    ],
)
def test_matrix_of_another_model_is_refused(
    write_matrix: WriteMatrix, tiny: Path, widths: dict[str, int], told: str
) -> None:
    with pytest.raises(ModelError, match="is of another model: ") as caught:
        fits(write_matrix(widths), tiny)
    assert told in caught.value.message
    assert "--calibration" in (caught.value.hint or "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(write_matrix: WriteMatrix, value: float) -> None:
    with pytest.raises(ModelError, match="not finite, in blk"):
        read_imatrix(write_matrix(value=value))


def test_sums_without_counts_are_refused(write_matrix: WriteMatrix) -> None:
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight has sums without counts"):
        read_imatrix(write_matrix(with_counts=False))


def test_a_model_is_no_matrix(tiny: Path) -> None:
    with pytest.raises(ModelError, match="is a GGUF file, but not an importance matrix"):
        read_imatrix(tiny)


@pytest.mark.parametrize("n_bytes", [0, 3, 30, 200, -40])
def test_damaged_matrix_is_refused(write_matrix: WriteMatrix, n_bytes: int) -> None:
    path = write_matrix()
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ModelError):
        read_imatrix(path)
