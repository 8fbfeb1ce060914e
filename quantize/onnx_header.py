"""What an ONNX graph holds, read strictly and without the `onnx` package, which would bring the rest along.

Only what tells the weights apart is read: constants (their shape, type and size; never their values), and
each node's operator, names and whole-numbered attributes. Every length is checked before it is believed.
"""

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TYPES = {
    1: ("FLOAT", 32), 2: ("UINT8", 8), 3: ("INT8", 8), 4: ("UINT16", 16), 5: ("INT16", 16), 6: ("INT32", 32),
    7: ("INT64", 64), 9: ("BOOL", 8), 10: ("FLOAT16", 16), 11: ("DOUBLE", 64), 12: ("UINT32", 32),
    13: ("UINT64", 64), 16: ("BFLOAT16", 16), 17: ("FLOAT8E4M3FN", 8), 19: ("FLOAT8E5M2", 8),
    21: ("UINT4", 4), 22: ("INT4", 4), 23: ("FLOAT4E2M1", 4), 25: ("UINT2", 2), 26: ("INT2", 2),
}  # fmt: skip
"""TensorProto.DataType -> name and bits of an element; strings and complex numbers are no weights."""
_MAX_DIMS = 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class DamagedError(Exception):
    """The file can't be what it claims to be; one line says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One constant (initializer) of the graph."""

    name: str
    kind: str
    """ONNX's name of the type: `FLOAT16`."""
    shape: tuple[int, ...]
    n_elements: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A graph's constants and nodes."""

    constants: Sequence[Constant]
    nodes: Sequence[Node]
    data_files: Sequence[str]
    """Files beside the graph that hold constants, as the graph names them."""


def read_header(path: Path) -> Header:
    """Read a graph's file. DamagedError when it is not whole, or names files outside its folder."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graphs = [span for field, span in _fields(data, 0, len(data)) if field == 7]
            if len(graphs) != 1 or not isinstance(graphs[0], tuple):
                raise DamagedError("it holds no graph")
            constants, nodes, places = [], [], set()
            for field, span in _fields(data, *graphs[0]):
                if field == 1:
                    nodes.append(_node(data, _span(span)))
                elif field == 5:
                    constant, place = _constant(data, _span(span), path.parent)
                    constants.append(constant)
                    places |= {place} - {""}
    except ValueError as error:  # an empty file can't be mapped; a name may not be UTF-8
        raise DamagedError(str(error)) from error
    if len({constant.name for constant in constants}) < len(constants):
        raise DamagedError("two constants have one name")
    return Header(constants=constants, nodes=nodes, data_files=sorted(places))


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Number and value of each field between two places; of bytes, the places they begin and end at."""
    while at < end:
        key, at = _varint(data, at, end)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield field, value
            continue
        n = 8 if wire == _FIXED64 else 4
        if wire == _BYTES:
            n, at = _varint(data, at, end)
        elif wire not in (_FIXED64, _FIXED32):
            raise DamagedError(f"byte {at} begins no field")
        if n > end - at:
            raise DamagedError(f"a field at byte {at} reaches beyond its end")
        yield field, (at, at + n)
        at += n


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise DamagedError(f"it ends within a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise DamagedError(f"the number before byte {at} is too long")


def _span(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        raise DamagedError("a number stands where a message should")
    return value


def _text(data: mmap.mmap, value: int | tuple[int, int]) -> str:
    start, end = _span(value)
    return data[start:end].decode()


def _node(data: mmap.mmap, span: tuple[int, int]) -> Node:
    inputs, outputs, name, operator, numbers = [], [], "", "", {}
    for field, value in _fields(data, *span):
        match field:
            case 1:
                inputs.append(_text(data, value))
            case 2:
                outputs.append(_text(data, value))
            case 3:
                name = _text(data, value)
            case 4:
                operator = _text(data, value)
            case 5:
                found = dict(_fields(data, *_span(value)))
                number = found.get(3)
                if isinstance(number, int) and 1 in found:
                    numbers[_text(data, found[1])] = number
    return Node(name=name, operator=operator, inputs=tuple(inputs), outputs=tuple(outputs), numbers=numbers)


def _constant(data: mmap.mmap, span: tuple[int, int], folder: Path) -> tuple[Constant, str]:
    shape: list[int] = []
    name, code, n_inline_bytes, beside = "", 0, 0, {}
    for field, value in _fields(data, *span):
        if field == 1 and isinstance(value, int):
            shape.append(value)
        elif field == 1:
            at, end = _span(value)
            while at < end:
                n, at = _varint(data, at, end)
                shape.append(n)
        elif field == 2 and isinstance(value, int):
            code = value
        elif field in (4, 5, 7, 9, 10, 11):
            n_inline_bytes += 0 if isinstance(value, int) else value[1] - value[0]
        elif field == 8:
            name = _text(data, value)
        elif field == 13:
            entry = dict(_fields(data, *_span(value)))
            if 1 in entry and 2 in entry:
                beside[_text(data, entry[1])] = _text(data, entry[2])
    if code not in _TYPES or len(shape) > _MAX_DIMS:
        raise DamagedError(f"constant {name!r} is of type {code} and has {len(shape)} dimensions")
    kind, n_bits = _TYPES[code]
    n = math.prod(shape)
    size_bytes = -(-n * n_bits // 8)
    if beside:
        _check_place(name, beside, size_bytes, folder)
    elif n_inline_bytes < min(size_bytes, n):  # numbers may be stored as varints, a byte at least
        raise DamagedError(f"constant {name!r} lacks its values")
    constant = Constant(name=name, kind=kind, shape=tuple(shape), n_elements=n, size_bytes=size_bytes)
    return constant, beside.get("location", "")


def _check_place(name: str, beside: Mapping[str, str], size_bytes: int, folder: Path) -> None:
    """A constant kept in another file lies whole within a file of the same folder."""
    place = beside.get("location", "")
    path = folder / place
    if not place or Path(place).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"constant {name!r} names a file outside the model's folder: {place!r}")
    if not path.is_file():
        raise DamagedError(f"the file {place!r} is missing")
    offset, length = (
        int(beside.get(key, default)) for key, default in (("offset", "0"), ("length", size_bytes))
    )
    if offset < 0 or length < size_bytes or offset + length > path.stat().st_size:
        raise DamagedError(f"constant {name!r} reaches beyond the end of {place!r}")
