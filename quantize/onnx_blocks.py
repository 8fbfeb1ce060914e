"""Weights in blocks of a few bits, packed as onnxruntime's MatMulNBits and GatherBlockQuantized read them.

A block of weights along a row shares a scale and, unless symmetric, a whole-numbered zero point:
`weight = scale x (q - zero)`. Two weights of 4 bits share a byte, the first in its lower half.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BITS = (4, 8)
BLOCKS = (16, 32, 64, 128, 256)
METHODS = ("round", "fit")
FITTED = np.linspace(1.0, 0.7, 13, dtype=np.float32)
"""Scales that `fit` tries for each block, as shares of the one that covers its whole range."""
N_AT_ONCE = 1 << 22
"""Weights in work at a time: memory stays small however large the matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A quantized matrix of n rows."""

    weights: Bytes
    """[n, blocks, bytes of a block]."""
    scales: Floats
    """[n, blocks]."""
    zeros: Bytes | None
    """[n, bytes of a row's zero points]; None where symmetric: the middle, 2^(bits - 1)."""


def pack_rows(rows: Floats, *, n_bits: int, n_block: int, symmetric: bool, method: str = "round") -> Packed:
    """Quantize each row on its own; its last block is filled up with zeros.

    `round` covers each block's whole range. `fit` also tries narrower ranges, refits the scale by least
    squares, and keeps what leaves the smallest squared error.
    """
    n_rows, n_columns = rows.shape
    n_blocks = -(-n_columns // n_block)
    padded = n_blocks * n_block
    weights = np.empty((n_rows, n_blocks, n_block * n_bits // 8), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    zeros = None if symmetric else np.empty((n_rows, -(-n_blocks * n_bits // 8)), np.uint8)
    step = max(1, N_AT_ONCE // padded)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        n = part.stop - part.start
        blocks = np.zeros((n, padded), np.float32)
        blocks[:, :n_columns] = rows[part]
        codes, scale, zero = _quantize(blocks.reshape(-1, n_block), n_bits, symmetric, method)
        weights[part] = _squeeze(codes.reshape(n * n_blocks, n_block), n_bits).reshape(n, n_blocks, -1)
        scales[part] = scale.reshape(n, n_blocks)
        if zeros is not None:
            zeros[part] = _squeeze(zero.astype(np.uint8).reshape(n, n_blocks), n_bits)
    return Packed(weights=weights, scales=scales, zeros=zeros)


def pack_with_offsets(rows: Floats, *, n_bits: int, n_block: int) -> tuple[Packed, Floats]:
    """Quantize each block from its lowest weight to its highest, wherever zero is.

    `weight = scale x (q - middle) + offset`; gives the symmetric part and the offsets [n, blocks]. Weights
    that lie on such a grid (a dequantized Q4_1) come back as they were.
    """
    n_rows, n_columns = rows.shape
    if n_columns % n_block:
        raise ValueError(f"{n_block} does not divide {n_columns}")
    n_blocks, top, middle = n_columns // n_block, (1 << n_bits) - 1, 1 << (n_bits - 1)
    weights = np.empty((n_rows, n_blocks, n_block * n_bits // 8), np.uint8)
    scales, offsets = (np.empty((n_rows, n_blocks), np.float32) for _ in range(2))
    step = max(1, N_AT_ONCE // n_columns)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        blocks = np.ascontiguousarray(rows[part], np.float32).reshape(-1, n_blocks, n_block)
        low, high = blocks.min(axis=2), blocks.max(axis=2)
        scale = (high - low) / np.float32(top)
        codes = (blocks - low[:, :, None]) / np.where(scale == 0, np.float32(1), scale)[:, :, None]
        codes = np.clip(np.rint(codes), 0, top).astype(np.uint8)
        weights[part] = _squeeze(codes.reshape(-1, n_block), n_bits).reshape(len(blocks), n_blocks, -1)
        scales[part], offsets[part] = scale, low + np.float32(middle) * scale
    return Packed(weights=weights, scales=scales, zeros=None), offsets


def unpack_rows(packed: Packed, *, n_bits: int, n_columns: int) -> Floats:
    """The weights a packed matrix stands for."""
    n_rows, n_blocks, _ = packed.weights.shape
    codes = _spread(packed.weights.reshape(n_rows * n_blocks, -1), n_bits).reshape(n_rows, n_blocks, -1)
    if packed.zeros is None:
        zeros = np.full((n_rows, n_blocks), 1 << (n_bits - 1), np.uint8)
    else:
        zeros = _spread(packed.zeros, n_bits)[:, :n_blocks]
    steps = codes.astype(np.float32) - zeros[:, :, None].astype(np.float32)
    rows: Floats = (steps * packed.scales[:, :, None]).reshape(n_rows, -1)[:, :n_columns]
    return rows


def _quantize(blocks: Floats, n_bits: int, symmetric: bool, method: str) -> tuple[Bytes, Floats, Floats]:
    """Codes [n, block], scales [n] and zero points [n] of blocks [n, block]."""
    top = float((1 << n_bits) - 1)
    middle = float(1 << (n_bits - 1))
    # Zero stays within the range, so that it can be told exactly.
    low = np.minimum(blocks.min(axis=1), 0)
    high = np.maximum(blocks.max(axis=1), 0)
    # Symmetric: there is a code more below zero than above, and the larger side gets it.
    full = np.where(high > -low, high, low) / -middle if symmetric else (high - low) / top
    flat = full == 0
    best_scale = np.where(flat, np.float32(1), full).astype(np.float32)
    best_zero = _zero(low, best_scale, middle, top, symmetric)
    best = _codes(blocks, best_scale, best_zero, top)
    if method == "round":
        return best.astype(np.uint8), np.where(flat, np.float32(0), best_scale), best_zero
    best_error = np.full(len(blocks), np.inf, np.float32)
    covering = best_scale
    for share in FITTED:
        scale = covering * share
        # A narrower range is cut at both ends alike.
        zero = _zero(low + (high - low) * (1 - share) / 2, scale, middle, top, symmetric)
        codes = _codes(blocks, scale, zero, top)
        steps = codes - zero[:, None]
        norm = np.einsum("ij,ij->i", steps, steps)
        along = np.einsum("ij,ij->i", steps, blocks)
        fitted = np.where(norm > 0, along / np.maximum(norm, 1), scale).astype(np.float32)
        # |w - s q|² is |w|² - (w·q)²/|q|² at the best s; |w|² is the same for all.
        error = -np.where(norm > 0, along * along / np.maximum(norm, 1), 0)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, fitted, best_scale)
        best_zero = np.where(better, zero, best_zero)
        best[better] = codes[better]
    return best.astype(np.uint8), np.where(flat, np.float32(0), best_scale), best_zero


def _zero(low: Floats, scale: Floats, middle: float, top: float, symmetric: bool) -> Floats:
    if symmetric:
        return np.full(len(scale), middle, np.float32)
    zero: Floats = np.clip(np.rint(-low / scale), 0, top).astype(np.float32)
    return zero


def _codes(blocks: Floats, scale: Floats, zero: Floats, top: float) -> Floats:
    codes: Floats = blocks / scale[:, None]
    np.rint(codes, out=codes)
    codes += zero[:, None]
    return np.clip(codes, 0, top, out=codes)


def _squeeze(codes: Bytes, n_bits: int) -> Bytes:
    """Bytes of rows of codes; an odd row is filled up with a zero."""
    if n_bits == 8:
        return codes
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    both: Bytes = codes[:, ::2] | (codes[:, 1::2] << 4).astype(np.uint8)
    return both


def _spread(packed: Bytes, n_bits: int) -> Bytes:
    if n_bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
