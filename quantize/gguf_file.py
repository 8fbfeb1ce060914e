"""What is really inside a GGUF file, read back from the file itself."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import ModelError
from edgebench.quantize.gguf_header import DamagedError, read_header
from edgebench.quantize.levels import level_of, needs_super_blocks

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
        n_fallback=sum(t.name.startswith("blk.") and _is_plain_block(t.kind) for t in header.tensors)
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
    """Whether a quantized type has blocks of 32, as Q4_0, Q5_1, Q8_0 and IQ4_NL do."""
    return kind == "IQ4_NL" or (kind.startswith("Q") and kind[-2:] in ("_0", "_1"))
