"""Names that follow from content: sha256 of files and of canonical JSON, and run ids."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(folder: Path, paths: Iterable[Path]) -> str:
    """Hex sha256 of some files of a folder: of the canonical JSON of sorted [path inside it, sha256]."""
    return sha256_json(sorted([path.relative_to(folder).as_posix(), sha256_file(path)] for path in paths))


def sha256_text(text: str) -> str:
    """Hex sha256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """One spelling per value: sorted keys, no blanks, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Hex sha256 of the canonical JSON of a value."""
    return sha256_text(canonical_json(value))


def new_ulid() -> str:
    """A run id: 48 bits of milliseconds and 80 random bits, in Crockford's base 32; sorts by time."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10))
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
