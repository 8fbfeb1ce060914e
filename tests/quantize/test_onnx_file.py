"""Reading ONNX folders, on files written byte by byte: no ONNX package stands in edgebench's own process."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.errors import ModelError
from edgebench.quantize.onnx_file import inspect_onnx
from edgebench.quantize.onnx_header import DamagedError, read_header

FLOAT, UINT8, INT64 = 1, 2, 7
Field = tuple[int, int | str | bytes]


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def message(*fields: Field) -> bytes:
    out = b""
    for number, value in fields:
        raw = value.encode() if isinstance(value, str) else value
        if isinstance(raw, int):
            out += varint(number << 3) + varint(raw)
        else:
            out += varint(number << 3 | 2) + varint(len(raw)) + raw
    return out


def tensor(
    name: str, code: int, *dims: int, size_bytes: int = 0, beside: dict[str, str] | None = None
) -> Field:
    fields: list[Field] = [*((1, n) for n in dims), (2, code), (8, name)]
    for key, value in (beside or {}).items():
        fields.append((13, message((1, key), (2, value))))
    return 5, message(*fields, *([] if beside else [(9, bytes(size_bytes))]))


def node(name: str, operator: str, inputs: list[str], output: str, **numbers: int) -> Field:
    attributes: list[Field] = [(5, message((1, key), (3, n))) for key, n in numbers.items()]
    return 1, message(*((1, i) for i in inputs), (2, output), (3, name), (4, operator), *attributes)


def write(folder: Path, *fields: Field, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(message((1, 8), (7, message(*fields))))
    (folder / "config.json").write_text(json.dumps({"model_type": "toy", **(config or {})}), encoding="utf-8")
    return folder


TABLE = tensor("table", FLOAT, 64, 32, size_bytes=4 * 64 * 32)
LOOK_UP = node("/model/embed_tokens/Gather", "Gather", ["table", "input_ids"], "x")


def packed(name: str, n: int) -> list[Field]:
    return [
        tensor(f"{name}_packed", UINT8, n, 1, 16, size_bytes=16 * n),
        tensor(f"{name}_scales", FLOAT, n, 1, size_bytes=4 * n),
    ]


def product(name: str, weight: str, n: int) -> Field:
    inputs = ["x", f"{weight}_packed", f"{weight}_scales"]
    return node(name, "MatMulNBits", inputs, f"{name}/out", N=n, K=32, bits=4, block_size=32)


def test_packed_weights_count_as_the_weights_they_hold(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        *(TABLE, LOOK_UP, *packed("up", 10), product("/model/layers.0/mlp/up_proj/MatMul", "up", 10)),
        *(tensor("norm", FLOAT, 32, size_bytes=128), node("/model/norm/Mul", "Mul", ["norm", "x"], "n")),
        tensor("shape", INT64, 2, size_bytes=16),
    )

    inspection = inspect_onnx(folder)

    assert inspection.n_params == 64 * 32 + 10 * 32 + 32
    assert inspection.tensor_types == {"FLOAT": 2, "NBITS4": 1}
    assert inspection.bits_per_class == {"embedding": 32, "ffn": 5, "norm": 32}
    assert (inspection.family, inspection.layout) == ("toy", "plain")


def test_a_tied_head_that_shares_its_rows_is_told_for_both(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        *packed("head", 64),
        node("/model/embed_tokens/Reshape", "Reshape", ["head_packed", "shape"], "flat"),
        node("/model/embed_tokens/Gather", "GatherBlockQuantized", ["flat", "input_ids", "head_scales"], "x"),
        product("/lm_head/MatMul", "head", 64),
    )

    inspection = inspect_onnx(folder)

    assert inspection.n_params == 64 * 32
    assert inspection.bits_per_class == {"embedding": 5, "head": 5}


def test_a_tied_head_stored_twice_counts_once(tmp_path: Path) -> None:
    fields = (TABLE, LOOK_UP, *packed("head", 64), product("/lm_head/MatMul", "head", 64))

    tied = inspect_onnx(write(tmp_path / "tied", *fields, config={"tie_word_embeddings": True}))
    apart = inspect_onnx(write(tmp_path / "apart", *fields))

    assert (tied.n_params, apart.n_params) == (64 * 32, 2 * 64 * 32)
    assert tied.bits_per_weight == 37


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    beside = {"location": "model.onnx.data", "offset": "64", "length": "8192"}
    folder = write(tmp_path / "m", tensor("table", FLOAT, 64, 32, beside=beside), LOOK_UP)
    (folder / "model.onnx.data").write_bytes(bytes(64 + 8192))

    assert inspect_onnx(folder).size_bytes == 64 + 8192 + (folder / "model.onnx").stat().st_size


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "", "a/../../secret"])
def test_a_graph_cant_name_files_outside_its_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(8192))
    folder = write(tmp_path / "m", tensor("table", FLOAT, 64, 32, beside={"location": place}), LOOK_UP)

    with pytest.raises(ModelError, match="outside the model's folder"):
        inspect_onnx(folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(8192))
    folder = write(tmp_path / "m", tensor("table", FLOAT, 64, 32, beside={"location": "d"}), LOOK_UP)
    (folder / "d").symlink_to(tmp_path / "secret")

    with pytest.raises(ModelError, match="outside the model's folder"):
        inspect_onnx(folder)


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"location": "gone"}, "missing"),
        ({"location": "d", "offset": "1"}, "reaches beyond the end"),
        ({"location": "d", "offset": "-8"}, "reaches beyond the end"),
        ({"location": "d", "length": "12"}, "reaches beyond the end"),
    ],
)
def test_a_data_file_that_lacks_weights_is_damage(tmp_path: Path, beside: dict[str, str], told: str) -> None:
    folder = write(tmp_path / "m", tensor("table", FLOAT, 64, 32, beside=beside), LOOK_UP)
    (folder / "d").write_bytes(bytes(8192))

    with pytest.raises(ModelError, match=told):
        inspect_onnx(folder)


def test_values_that_are_not_there_are_damage(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", tensor("table", FLOAT, 1 << 40, 1 << 20, size_bytes=8), LOOK_UP)

    with pytest.raises(ModelError, match="lacks its values"):
        inspect_onnx(folder)


def test_a_file_cut_anywhere_is_damage_or_nothing_worse(tmp_path: Path) -> None:
    whole = (write(tmp_path / "m", TABLE, LOOK_UP, *packed("up", 2)) / "model.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    for n in (0, 1, 2, 5, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:n])
        with pytest.raises(DamagedError):
            read_header(cut)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    path.write_bytes(struct.pack("B", 7 << 3 | 2) + varint(len(data)) + data)
    with contextlib.suppress(DamagedError):
        read_header(path)


def test_a_folder_without_a_graph_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.onnx"):
        inspect_onnx(tmp_path)
