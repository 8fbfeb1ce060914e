"""What is really inside a GGUF file, read back from the file itself."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.quantize.levels import level_of, needs_super_blocks

MAGIC = b"GGUF"
_BROKEN = (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, MemoryError, TypeError)
"""What the reader raises on damaged files; it validates little itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Facts read from one file."""

    level: str
    """The level `general.file_type` claims, or `unknown`."""
    family: str
    n_params: int
    bits_per_weight: float
    tensor_types: dict[str, int]
    n_fallback: int
    """Layer tensors stored in another kind of type than the level's, because 256 does not divide a row."""


def inspect_gguf(path: Path) -> Inspection:
    """Read metadata and every tensor's type and size. ModelError when the file is not whole.

    Costs seconds on large vocabularies; callers keep the result under the file's sha256.
    """
    check_magic(path)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        tensors = [(t.name, t.tensor_type.name, int(t.n_elements), int(t.n_bytes)) for t in reader.tensors]
        ftype = _field(reader, "general.file_type")
        family = str(_field(reader, "general.architecture") or "unknown")
    except _BROKEN as error:
        raise ModelError(
            f"{path} is damaged or cut short: its tensors can't be read back ({error})",
            "fetch or convert the file again",
        ) from error
    n_params = sum(n for _, _, n, _ in tensors)
    if not n_params:
        raise ModelError(f"{path} holds no tensors", "a vocabulary-only file can't be measured")
    level = level_of(int(ftype)) if ftype is not None else None
    return Inspection(
        level=level or "unknown",
        family=family,
        n_params=n_params,
        bits_per_weight=8 * sum(b for _, _, _, b in tensors) / n_params,
        tensor_types=dict(Counter(kind for _, kind, _, _ in tensors).most_common()),
        n_fallback=sum(
            name.startswith("blk.") and _is_plain_block(kind) for name, kind, _, _ in tensors
        )
        if level and needs_super_blocks(level)
        else 0,
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


def _is_plain_block(kind: str) -> bool:
    """Quantized types with blocks of 32: Q4_0, Q5_1, Q8_0, IQ4_NL, …"""
    return kind == "IQ4_NL" or (kind.startswith("Q") and kind[-2:] in ("_0", "_1"))


def _field(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()
