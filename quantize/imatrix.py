"""Importance matrices: llama.cpp's file of mean squared activations, read strictly and checked for fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_file
from edgebench.quantize.gguf_file import check_magic
from edgebench.quantize.gguf_header import DamagedError, Header, TensorInfo, read_header

_SUMS, _COUNTS = ".in_sum2", ".counts"
_HINT = "make one for this very model: --calibration FILE, or llama-imatrix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imatrix:
    """Tensor -> the mean square of what enters each of its columns (one run of them per expert)."""

    rows: Mapping[str, npt.NDArray[np.float32]]
    sha256: str
    n_chunks: int | None


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix in GGUF form. ModelError when it is absent, damaged or of another kind."""
    check_magic(path)
    try:
        header = read_header(path)
    except DamagedError as error:
        raise ModelError(f"importance matrix {path} is damaged: {error}", _HINT) from error
    tensors = {tensor.name: tensor for tensor in header.tensors}
    data = np.memmap(path, dtype=np.uint8, mode="r")
    rows = {}
    for name, tensor in tensors.items():
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        counts = tensors.get(base + _COUNTS)
        if counts is None or {tensor.kind, counts.kind} != {"F32"} or tensor.n_elements % counts.n_elements:
            raise ModelError(f"importance matrix {path} is damaged: {base} has sums without counts", _HINT)
        sums, n = _floats(data, tensor), _floats(data, counts)
        # An expert that no token reached has no opinion: ones, as llama-quantize does.
        seen = np.maximum(n, 1)[:, None]
        means = np.where(n[:, None] > 0, sums.reshape(len(n), -1) / seen, np.float32(1))
        rows[base] = np.ascontiguousarray(means, dtype=np.float32).ravel()
        if not np.isfinite(rows[base]).all():
            raise ModelError(f"importance matrix {path} holds a number that is not finite, in {base}", _HINT)
    if not rows:
        raise ModelError(f"{path} is a GGUF file, but not an importance matrix", _HINT)
    n_chunks = header.fields.get("imatrix.chunk_count")
    return Imatrix(
        rows=rows, sha256=sha256_file(path), n_chunks=n_chunks if isinstance(n_chunks, int) else None
    )


def check_fits(imatrix: Imatrix, path: Path, model: Header, source: Path) -> None:
    """ModelError unless the matrix is one of this model: names and widths are held against its tensors."""
    widths = {t.name: t.n_per_row for t in model.tensors}
    unknown = [name for name in imatrix.rows if name not in widths]
    misfits = [n for n, row in imatrix.rows.items() if n in widths and len(row) % widths[n]]
    if unknown or misfits:
        example = (misfits or unknown)[0]
        told = (
            f"{example} has {len(imatrix.rows[example])} columns there, {widths[example]} here"
            if misfits
            else f"{source.name} has no {example}"
        )
        raise ModelError(f"importance matrix {path} is of another model: {told}", _HINT)
    layers = [t.name for t in model.tensors if t.name.startswith("blk.") and _is_matrix(t)]
    missing = [name for name in layers if name not in imatrix.rows]
    if len(missing) > len(layers) // 2:
        raise ModelError(
            f"importance matrix {path} is of another model: it lacks {len(missing)} of {len(layers)} "
            f"tensors, {missing[0]} first",
            _HINT,
        )


def _is_matrix(tensor: TensorInfo) -> bool:
    return tensor.name.endswith(".weight") and tensor.n_elements > tensor.n_per_row


def _floats(data: npt.NDArray[np.uint8], tensor: TensorInfo) -> npt.NDArray[np.float32]:
    raw = data[tensor.start_bytes : tensor.start_bytes + tensor.size_bytes]
    return np.frombuffer(raw.tobytes(), dtype="<f4")
