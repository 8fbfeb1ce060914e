"""What is read back from GGUF files, whole and damaged."""

import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from edgebench.core.errors import ModelError
from edgebench.quantize.gguf_file import Inspection, check_magic, inspect_gguf

WriteGguf = Callable[..., Path]

N_PARAMS = 1024 + 4096 + 64 + 512 + 64
N_BYTES = 1024 // 32 * 34 + 4096 // 32 * 18 + 64 * 4 + 512 // 256 * 84 + 64 * 4


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        inspect_gguf(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message


def head_of(path: Path) -> int:
    """Where the tensors' bytes begin."""
    return int(gguf.GGUFReader(path).data_offset)


def test_inspection_of_a_known_file(tiny: Path) -> None:
    facts = inspect_gguf(tiny)
    assert facts.level == "q2_k"
    assert facts.family == "llama"
    assert facts.n_params == N_PARAMS
    assert facts.bits_per_weight == 8 * N_BYTES / N_PARAMS
    assert facts.tensor_types == {"F32": 2, "Q8_0": 1, "Q4_0": 1, "Q2_K": 1}


def test_only_layer_tensors_in_plain_blocks_fall_back(write_gguf: WriteGguf) -> None:
    assert inspect_gguf(write_gguf("Q2_K")).n_fallback == 1  # blk.0.attn_q; the embedding is no layer's
    assert inspect_gguf(write_gguf("Q4_0")).n_fallback == 0


@pytest.mark.engine
def test_reader_of_the_gguf_package_sees_the_same(smollm2: Path) -> None:
    tensors = gguf.GGUFReader(smollm2).tensors
    facts = inspect_gguf(smollm2)
    assert facts.tensor_types == Counter(tensor.tensor_type.name for tensor in tensors)
    assert facts.n_params == sum(int(tensor.n_elements) for tensor in tensors)
    n_bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors)
    assert facts.bits_per_weight == n_bits / facts.n_params


def test_level_is_unknown_when_the_file_does_not_say(tiny: Path) -> None:
    data = tiny.read_bytes()
    tiny.write_bytes(data.replace(b"general.file_type", b"general.file_tipe"))
    assert inspect_gguf(tiny).level == "unknown"
    assert inspect_gguf(tiny).n_fallback == 0


def test_every_type_ggml_has_can_be_read() -> None:
    assert set(gguf.GGML_QUANT_SIZES) == set(gguf.GGMLQuantizationType)


def test_cache_of_a_token_follows_from_the_metadata(write_gguf: WriteGguf) -> None:
    assert inspect_gguf(write_gguf()).kv_bytes_per_token == 2 * 3 * 2 * 16 * 2  # layers, KV heads, width


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "embedding_length"])
@pytest.mark.parametrize(("code", "value"), [("f", 30.0), ("i", -30)])
def test_cache_of_a_token_is_unknown_when_a_number_makes_no_sense(
    write_gguf: WriteGguf, key: str, code: str, value: float
) -> None:
    path = write_gguf()
    data = bytearray(path.read_bytes())
    full = f"llama.{key}".encode()
    at = data.index(struct.pack("<Q", len(full)) + full) + 8 + len(full)
    struct.pack_into(f"<I{code}", data, at, {"i": 5, "f": 6}[code], value)  # of four bytes, as before
    path.write_bytes(data)
    assert inspect_gguf(path).kv_bytes_per_token is None


@pytest.mark.engine
def test_cache_of_a_token_of_the_embedded_model(smollm2: Path) -> None:
    assert inspect_gguf(smollm2).kv_bytes_per_token == 2 * 30 * 3 * 64 * 2


# Damage -----------------------------------------------------------------------------------------


def test_file_cut_short_anywhere_is_refused(tiny: Path) -> None:
    data = tiny.read_bytes()
    head = head_of(tiny)
    for end in (*range(4, head), *range(head, len(data), 97), len(data) - 1):
        tiny.write_bytes(data[:end])
        assert "damaged or cut short" in refused(tiny)


def test_flipped_bytes_are_refused_or_harmless(tiny: Path) -> None:
    rng = random.Random(5)
    data, head = tiny.read_bytes(), head_of(tiny)
    harmless, messages = 0, []
    start = time.monotonic()
    for at in range(4, head):
        for flip in (1, 0x80, rng.randrange(1, 256)):
            tiny.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            try:
                assert isinstance(inspect_gguf(tiny), Inspection)
                harmless += 1
            except ModelError as error:
                messages.append(error.message)
    assert min(harmless, len(messages)) > 100  # a name may change, a length may not
    assert not any("\n" in message for message in messages)
    assert time.monotonic() - start < 30


def test_noise_after_the_magic_is_refused(tiny: Path) -> None:
    rng = random.Random(6)
    for n in range(0, 400, 7):
        tiny.write_bytes(b"GGUF" + rng.randbytes(n))
        refused(tiny)


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 2**40, 1000])
@pytest.mark.parametrize("at", [8, 16], ids=["tensors", "fields"])
def test_absurd_count_is_refused_at_once(tiny: Path, at: int, count: int) -> None:
    data = bytearray(tiny.read_bytes())
    struct.pack_into("<Q", data, at, count)
    tiny.write_bytes(data)
    start = time.monotonic()
    refused(tiny)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("n", [2**62, 2**40, 2**33])
@pytest.mark.parametrize("key", [b"tokenizer.ggml.tokens", b"tokenizer.ggml.scores"])
def test_absurd_array_is_refused_at_once(tiny: Path, key: bytes, n: int) -> None:
    data = bytearray(tiny.read_bytes())
    struct.pack_into("<Q", data, data.index(key) + len(key) + 8, n)  # after two types
    tiny.write_bytes(data)
    start = time.monotonic()
    refused(tiny)
    assert time.monotonic() - start < 5


def test_arrays_within_arrays_have_a_limit(tiny: Path) -> None:
    nested = struct.pack("<IQ", 9, 1) * 5000
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    tiny.write_bytes(head + nested)
    assert "unknown type 9 of an array's elements" in refused(tiny)


def test_tensor_that_reaches_beyond_the_end_is_refused(tiny: Path) -> None:
    data = bytearray(tiny.read_bytes())
    name = b"output_norm.weight"
    struct.pack_into("<Q", data, data.index(name) + len(name) + 4, 2**40)  # its first dimension
    tiny.write_bytes(data)
    assert "tensor 'output_norm.weight' reaches beyond the end of the file" in refused(tiny)


@pytest.mark.parametrize("version", [0, 1, 4, 2**24])
def test_other_versions_are_refused(tiny: Path, version: int) -> None:
    data = bytearray(tiny.read_bytes())
    struct.pack_into("<I", data, 4, version)
    tiny.write_bytes(data)
    assert f"GGUF version {version}" in refused(tiny)


def test_part_of_a_split_model_is_refused(write_gguf: WriteGguf) -> None:
    assert "is one of 3 parts of a split model" in refused(write_gguf(n_parts=3))


def test_file_of_a_vocabulary_alone_is_refused(write_gguf: WriteGguf) -> None:
    assert "holds no tensors" in refused(write_gguf(tensors=False))


@pytest.mark.parametrize("data", [b"", b"GG", b"ggml and more", b"PK\x03\x04", b"<html>not found</html>"])
def test_what_is_not_gguf_is_told_by_its_first_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert f"begins with {data[:4]!r}" in refused(path)


def test_path_without_a_file_is_refused(tmp_path: Path) -> None:
    assert "no model file at" in refused(tmp_path / "none.gguf")
    assert "is not a file" in refused(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_refused(tiny: Path) -> None:
    tiny.chmod(0)
    with pytest.raises(ModelError, match="can't read"):
        check_magic(tiny)
