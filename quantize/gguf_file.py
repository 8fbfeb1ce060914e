"""What is really inside a GGUF file, read back from the file itself."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.quantize.gguf_header import DamagedError, TensorInfo, read_header
from edgebench.quantize.levels import SUPER_BLOCK, level_of, needs_super_blocks

MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Facts read from one file."""

    level: str
    """The level `general.file_type` claims, or `unknown`."""
    family: str
    n_params: int
    bits_per_weight: float
    tensor_types: dict[str, int]
    kv_bytes_per_token: int | None
    n_fallback: int
    """Layer tensors stored in another kind of type than the level's, because 256 does not divide a row."""


def inspect_gguf(path: Path) -> Inspection:
    """Read metadata and every tensor's type and size. ModelError when the file is not whole."""
    check_magic(path)
    try:
        header = read_header(path)
    except DamagedError as error:
        raise ModelError(
            f"{path} is damaged or cut short: {error}", "fetch or convert the file again"
        ) from error
    n_parts = header.fields.get("split.count", 1)
    if isinstance(n_parts, int) and n_parts > 1:
        raise ModelError(
            f"{path} is one of {n_parts} parts of a split model", "join them: llama-gguf-split --merge"
        )
    n_params = sum(tensor.n_elements for tensor in header.tensors)
    if not n_params:
        raise ModelError(f"{path} holds no tensors", "a vocabulary-only file can't be measured")
    ftype = header.fields.get("general.file_type")
    level = level_of(ftype) if isinstance(ftype, int) else None
    return Inspection(
        level=level or "unknown",
        family=str(header.fields.get("general.architecture") or "unknown"),
        n_params=n_params,
        bits_per_weight=8 * sum(tensor.size_bytes for tensor in header.tensors) / n_params,
        tensor_types=dict(Counter(tensor.kind for tensor in header.tensors).most_common()),
        kv_bytes_per_token=_kv_bytes_per_token(header.fields),
        n_fallback=sum(_fell_back(t) for t in header.tensors) if level and needs_super_blocks(level) else 0,
    )


def check_magic(path: Path) -> None:
    """ModelError with a clear line unless the path is a readable file that begins like a GGUF."""
    if not path.exists():
        raise ModelError(f"no model file at {path}")
    if not path.is_file():
        raise ModelError(f"{path} is not a file", "GGUF files only, for now")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from error
    if head != MAGIC:
        raise ModelError(f"{path} is not a GGUF file (it begins with {head!r}, not b'GGUF')")


def _fell_back(tensor: TensorInfo) -> bool:
    """A layer's tensor in a type with blocks of 32 (Q4_0, IQ4_NL, …) because 256 does not divide its rows."""
    plain = tensor.kind == "IQ4_NL" or (tensor.kind.startswith("Q") and tensor.kind[-2:] in ("_0", "_1"))
    return plain and tensor.name.startswith("blk.") and tensor.n_per_row % SUPER_BLOCK != 0


def _kv_bytes_per_token(fields: Mapping[str, Any]) -> int | None:
    """2 (K and V) x layers x KV heads x head's width x 2 bytes; None when a number is missing."""
    arch = fields.get("general.architecture")

    if fields.get(f"{arch}.attention.head_count_kv", 0) is None:
        return None  # an array: layers differ, and arrays are not read

    def number(key: str) -> int | None:
        value = fields.get(f"{arch}.{key}")
        return value if isinstance(value, int) and value > 0 else None

    n_layers, n_heads, width = (
        number("block_count"),
        number("attention.head_count"),
        number("embedding_length"),
    )
    if n_layers is None or n_heads is None or width is None:
        return None
    n_kv = number("attention.head_count_kv") or n_heads
    return 4 * n_layers * n_kv * (number("attention.key_length") or width // n_heads)
