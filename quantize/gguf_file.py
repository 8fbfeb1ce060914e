"""What is really inside a GGUF file, read back from the file itself."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_text
from edgebench.quantize.gguf_header import DamagedError, Header, TensorInfo, read_header
from edgebench.quantize.levels import CLASSES, SUPER_BLOCK, level_of, needs_super_blocks, tensor_class

MAGIC = b"GGUF"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


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
    fallback_share: float
    """Of the layers' weights, those in such tensors."""
    bits_per_class: dict[str, float]
    """Bits per weight of each class of tensors that is there (`levels.CLASSES`)."""
    chat_template_sha256: str | None


def inspect_gguf(path: Path) -> Inspection:
    """Read metadata and every tensor's type and size. ModelError when the file is not whole.

    Of a split model, `path` is the first part; the others must lie beside it.
    """
    check_magic(path)
    first = _read(path)
    headers = [first, *map(_read, _parts(path, first)[1:])]
    header = Header(fields=first.fields, tensors=[t for part in headers for t in part.tensors])
    n_params = sum(tensor.n_elements for tensor in header.tensors)
    if not n_params:
        raise ModelError(f"{path} holds no tensors", "a vocabulary-only file can't be measured")
    ftype = header.fields.get("general.file_type")
    level = level_of(ftype) if isinstance(ftype, int) else None
    fell_back = [t for t in header.tensors if level and needs_super_blocks(level) and _fell_back(t)]
    n_layer_weights = sum(t.n_elements for t in header.tensors if t.name.startswith("blk."))
    template = header.fields.get("tokenizer.chat_template")
    return Inspection(
        level=level or "unknown",
        family=str(header.fields.get("general.architecture") or "unknown"),
        n_params=n_params,
        bits_per_weight=8 * sum(tensor.size_bytes for tensor in header.tensors) / n_params,
        tensor_types=dict(Counter(tensor.kind for tensor in header.tensors).most_common()),
        kv_bytes_per_token=_kv_bytes_per_token(header.fields),
        n_fallback=len(fell_back),
        fallback_share=sum(t.n_elements for t in fell_back) / max(n_layer_weights, 1),
        bits_per_class=_bits_per_class(header.tensors),
        chat_template_sha256=sha256_text(template) if isinstance(template, str) else None,
    )


def gguf_parts(path: Path) -> list[Path]:
    """The file, or all parts of a split model; ModelError when `path` is not the first, or one is missing."""
    return _parts(path, _read(path))


def _parts(path: Path, first: Header) -> list[Path]:
    n_parts = first.fields.get("split.count", 1)
    if not isinstance(n_parts, int) or n_parts <= 1:
        return [path]
    name = _PART.fullmatch(path.name)
    if name is None or int(name[2]) != 1 or int(name[3]) != n_parts:
        raise ModelError(
            f"{path} is one of {n_parts} parts of a split model",
            f"name the first one, NAME-00001-of-{n_parts:05}.gguf; all of them in one folder",
        )
    parts = [path.with_name(f"{name[1]}-{i:05}-of-{n_parts:05}.gguf") for i in range(1, n_parts + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ModelError(f"{path}: {len(missing)} of {n_parts} parts are missing: {', '.join(missing[:3])}")
    return parts


def _read(path: Path) -> Header:
    try:
        return read_header(path)
    except DamagedError as error:
        raise ModelError(
            f"{path} is damaged or cut short: {error}", "fetch or convert the file again"
        ) from error


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


def _bits_per_class(tensors: Sequence[TensorInfo]) -> dict[str, float]:
    filled = [t for t in tensors if t.n_elements]
    members = {name: [t for t in filled if tensor_class(t.name) == name] for name in CLASSES}
    return {
        name: 8 * sum(t.size_bytes for t in found) / sum(t.n_elements for t in found)
        for name, found in members.items()
        if found
    }


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
