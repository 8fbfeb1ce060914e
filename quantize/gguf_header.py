"""The head of a GGUF file, read strictly.

Every length is checked against the file before it is believed: the reader of the `gguf` package walks
arrays past the end of a damaged file, element by element, until memory runs out.
"""

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_NEWER_TYPES = {42: ("Q2_0", 64, 18)}
"""Types the engine writes that the `gguf` package does not know yet."""
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_MAX_NESTING = 4


class DamagedError(Exception):
    """The file can't be what it claims to be; one line says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor as the head describes it."""

    name: str
    kind: str
    """ggml's name of the type: `Q4_0`."""
    n_per_row: int
    n_elements: int
    size_bytes: int
    start_bytes: int
    """Where its data begins in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Scalars and strings of the metadata (arrays are skipped), and every tensor."""

    fields: Mapping[str, Any]
    tensors: Sequence[TensorInfo]


def read_header(path: Path) -> Header:
    """Metadata and tensors of a little-endian GGUF file. DamagedError when it is not whole."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data).header()
    except ValueError as error:  # an empty file can't be mapped; a name may not be UTF-8
        raise DamagedError(str(error)) from error


class _Cursor:
    """A place in the file that never passes its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4  # after the magic

    def header(self) -> Header:
        version = self._number("I")
        if version not in _VERSIONS:
            raise DamagedError(f"GGUF version {version} is not one of {_VERSIONS}")
        n_tensors, n_fields = self._number("Q"), self._number("Q")
        fields: dict[str, Any] = {}
        for _ in range(n_fields):  # each takes bytes, so a false count soon meets the end
            key = self._string()
            fields[key] = self._value(self._number("I"))
        infos = [self._tensor() for _ in range(n_tensors)]
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise DamagedError(f"alignment {alignment!r} is impossible")
        start = -(-self._at // alignment) * alignment
        if len({info.name for info in infos}) < len(infos):
            raise DamagedError("two tensors have one name")
        for info in infos:
            if start + info.start_bytes + info.size_bytes > len(self._data):
                raise DamagedError(f"tensor {info.name!r} reaches beyond the end of the file")
        moved = [replace(info, start_bytes=start + info.start_bytes) for info in infos]
        return Header(fields=fields, tensors=moved)

    def _take(self, n: int) -> int:
        """Go on by `n` bytes; the place they begin at."""
        start, self._at = self._at, self._at + n
        if self._at > len(self._data):
            raise DamagedError(f"the file ends before byte {self._at} of its head")
        return start

    def _number(self, code: str) -> Any:
        layout = f"<{code}"
        return struct.unpack_from(layout, self._data, self._take(struct.calcsize(layout)))[0]

    def _string(self) -> str:
        n = self._number("Q")
        start = self._take(n)
        return self._data[start : start + n].decode()

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._skip_array(_MAX_NESTING)
        raise DamagedError(f"unknown type {kind} of a metadata value")

    def _skip_array(self, nesting: int) -> None:
        kind, n = self._number("I"), self._number("Q")
        if kind in _SCALARS:
            self._take(n * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _STRING:
            for _ in range(n):
                self._take(self._number("Q"))
        elif kind == _ARRAY and nesting:
            for _ in range(n):
                self._skip_array(nesting - 1)
        else:
            raise DamagedError(f"unknown type {kind} of an array's elements")

    def _tensor(self) -> TensorInfo:
        """One entry of the tensor table; its start still counts from the beginning of the data."""
        name, n_dims = self._string(), self._number("I")
        if not 1 <= n_dims <= _MAX_DIMS:
            raise DamagedError(f"tensor {name!r} has {n_dims} dimensions")
        shape = [self._number("Q") for _ in range(n_dims)]
        kind, block, block_bytes = _type(self._number("I"))
        offset = self._number("Q")
        if shape[0] % block:
            raise DamagedError(f"tensor {name!r} has rows of {shape[0]}, not a multiple of {block}")
        n = math.prod(shape)
        return TensorInfo(
            name=name,
            kind=kind,
            n_per_row=shape[0],
            n_elements=n,
            size_bytes=n // block * block_bytes,
            start_bytes=offset,
        )


def _type(number: int) -> tuple[str, int, int]:
    """(ggml's name, weights to a block, bytes to a block) of a tensor type; ValueError for an unknown one."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if number in _NEWER_TYPES:
        return _NEWER_TYPES[number]
    kind = GGMLQuantizationType(number)
    return kind.name, *GGML_QUANT_SIZES[kind]
