"""A tiny GGUF file of random weights, always the same bytes."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

TINY = {
    "token_embd.weight": ("Q8_0", (16, 64)),
    "blk.0.attn_q.weight": ("Q4_0", (64, 64)),
    "blk.0.attn_norm.weight": ("F32", (64,)),
    "blk.0.ffn_down.weight": ("Q2_K", (2, 256)),
    "output_norm.weight": ("F32", (64,)),
}
"""Name -> type and shape. 1,024 + 4,096 + 64 + 512 + 64 weights."""

BYTES_PER_BLOCK = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q2_K": (256, 84), "F32": (1, 4)}

WriteGguf = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """`write_gguf("q2_k")`: the path of a file that says it is of that level."""

    def write(level: str = "Q2_K", name: str = "tiny.gguf", tensors: bool = True, n_parts: int = 1) -> Path:
        rng = np.random.default_rng(7)
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{level.upper()}"])
        writer.add_name("a tiny one")
        writer.add_uint16("split.count", n_parts)
        writer.add_block_count(3)
        writer.add_embedding_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_key_length(16)
        writer.add_token_list(["<s>", "a", "b"])
        writer.add_array("tokenizer.ggml.scores", [0.5, 1.0, 2.0])
        for tensor, (kind, shape) in (TINY if tensors else {}).items():
            block, n_bytes = BYTES_PER_BLOCK[kind]
            if kind == "F32":
                writer.add_tensor(tensor, rng.random(shape, dtype=np.float32))
                continue
            raw = rng.integers(256, size=(shape[0], shape[1] // block * n_bytes), dtype=np.uint8)
            writer.add_tensor(tensor, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def tiny(write_gguf: WriteGguf) -> Path:
    return write_gguf()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
