import numpy as np
import pytest

from edgebench.quantize.onnx_blocks import Floats, pack_rows, pack_with_offsets, unpack_rows


@pytest.fixture
def rows() -> Floats:
    return np.random.default_rng(0).normal(0.1, 1, (5, 96)).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n_bits", "most"), [(4, 0.6), (8, 0.04)])
def test_a_weight_comes_back_within_a_step(rows: Floats, symmetric: bool, n_bits: int, most: float) -> None:
    packed = pack_rows(rows, n_bits=n_bits, n_block=32, symmetric=symmetric)

    assert packed.weights.shape == (5, 3, 32 * n_bits // 8)
    assert (packed.zeros is None) == symmetric
    error = np.abs(unpack_rows(packed, n_bits=n_bits, n_columns=96) - rows)
    assert error.max() < most
    assert (error <= np.repeat(np.abs(packed.scales), 32, axis=1) + 1e-6).all()


def test_fit_leaves_a_smaller_error_than_round(rows: Floats) -> None:
    def error(method: str) -> float:
        packed = pack_rows(rows, n_bits=4, n_block=32, symmetric=False, method=method)
        return float(np.square(unpack_rows(packed, n_bits=4, n_columns=96) - rows).sum())

    assert error("fit") < error("round")


def test_a_last_block_is_filled_up(rows: Floats) -> None:
    packed = pack_rows(rows, n_bits=4, n_block=64, symmetric=False)

    assert packed.weights.shape == (5, 2, 32)
    assert packed.zeros is not None
    assert packed.zeros.shape == (5, 1)
    assert np.abs(unpack_rows(packed, n_bits=4, n_columns=96) - rows).max() < 0.6


def test_zeros_stay_zeros() -> None:
    for symmetric in (True, False):
        packed = pack_rows(
            np.zeros((2, 32), np.float32), n_bits=4, n_block=32, symmetric=symmetric, method="fit"
        )
        assert not unpack_rows(packed, n_bits=4, n_columns=32).any()


def test_the_first_of_two_weights_is_in_the_lower_half() -> None:
    row = np.zeros((1, 32), np.float32)
    row[0, 0], row[0, 1] = 15, 1

    packed = pack_rows(row, n_bits=4, n_block=32, symmetric=False)

    assert packed.weights[0, 0, 0] == 15 + (1 << 4)


def test_weights_of_a_grid_with_an_offset_come_back_as_they_were() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (4, 2, 32))
    codes[:, :, :2] = 0, 15  # each block uses its whole range
    weights = (0.0625 * codes + 0.34375).astype(np.float32).reshape(4, 64)

    packed, offsets = pack_with_offsets(weights, n_bits=4, n_block=32)

    back = unpack_rows(packed, n_bits=4, n_columns=64) + np.repeat(offsets, 32, axis=1)
    assert np.abs(back - weights).max() < 1e-6
    whole = pack_rows(weights, n_bits=4, n_block=32, symmetric=False)
    assert np.abs(unpack_rows(whole, n_bits=4, n_columns=64) - weights).max() > 0.01
