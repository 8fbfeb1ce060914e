"""The head of a safetensors file, read strictly: no length is believed before it is checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

_NAMES = {8: "F64 I64 U64", 4: "F32 I32 U32", 2: "F16 BF16 I16 U16", 1: "I8 U8 BOOL F8_E4M3 F8_E5M2 F8_E8M0"}
BYTES_PER_VALUE = {name: n_bytes for n_bytes, names in _NAMES.items() for name in names.split()}
_LENGTH_BYTES = 8
_MAX_HEAD_BYTES = 100_000_000  # the format's own limit


class DamagedError(Exception):
    """The file can't be what its name says; one line says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor as the head describes it."""

    dtype: str
    """The format's own name: `BF16`."""
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def n_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, by name. DamagedError when the file is not whole."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = file.read(_LENGTH_BYTES)
        n = int.from_bytes(length, "little")
        if len(length) < _LENGTH_BYTES or n > min(size_bytes - _LENGTH_BYTES, _MAX_HEAD_BYTES):
            raise DamagedError("the file ends before its head does")
        raw = file.read(n)
    try:
        head = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedError("its head is not JSON") from error
    if not isinstance(head, dict):
        raise DamagedError("its head is not a JSON object")
    head.pop("__metadata__", None)
    places = {name: _tensor(name, entry) for name, entry in head.items()}
    at = 0  # the format allows neither holes nor overlaps
    for name, (tensor, start) in sorted(places.items(), key=lambda item: (item[1][1], item[1][0].size_bytes)):
        if start != at:
            raise DamagedError(f"tensor {name!r} does not begin where the one before it ends")
        at += tensor.size_bytes
    there = size_bytes - _LENGTH_BYTES - n
    if at != there:
        raise DamagedError(f"its tensors take {at} bytes, and the file holds {there}")
    return {name: tensor for name, (tensor, _) in places.items()}


def _tensor(name: str, entry: Any) -> tuple[Tensor, int]:
    """A tensor, and where its bytes begin behind the head."""
    if not isinstance(entry, Mapping):
        raise DamagedError(f"tensor {name!r} is not described")
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BYTES_PER_VALUE:
        raise DamagedError(f"tensor {name!r} has the unknown type {dtype!r}")
    if not _are_counts(shape) or not _are_counts(place) or len(place) != 2:
        raise DamagedError(f"tensor {name!r} has no possible shape or place")
    start, end = place
    tensor = Tensor(dtype=dtype, shape=tuple(shape), size_bytes=math.prod(shape) * BYTES_PER_VALUE[dtype])
    if end - start != tensor.size_bytes:
        raise DamagedError(f"tensor {name!r} takes {end - start} bytes, its shape {tensor.size_bytes}")
    return tensor, start


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
