"""From the embedded GGUF to a checkpoint: every weight arrives, and nothing is made up."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgebench.core.errors import ModelError
from edgebench.quantize.checkpoint import read_checkpoint
from edgebench.quantize.safetensors_header import read_header

RunInTool = Callable[[str, Mapping[str, Any]], dict[str, Any]]
pytestmark = pytest.mark.engine

TEMPLATE_SHA256 = "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"


def weights(folder: Path, name: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """One f32 tensor of a checkpoint in one file."""
    with (folder / "model.safetensors").open("rb") as file:
        n = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(n))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + n + start)
        return np.frombuffer(file.read(end - start), dtype="<f4").reshape(entry["shape"])


def test_checkpoint_is_the_embedded_model(smollm2_checkpoint: Path) -> None:
    found = read_checkpoint(smollm2_checkpoint)
    assert (found.family, found.dtype, found.n_params) == ("llama", "f32", 134_515_008)
    assert (found.license, found.chat_template_sha256) == ("apache-2.0", TEMPLATE_SHA256)
    config = json.loads((smollm2_checkpoint / "config.json").read_text())
    assert config["tie_word_embeddings"]
    assert (config["rms_norm_eps"], config["rope_theta"], config["head_dim"]) == (1e-05, 100000.0, 64)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


def test_every_tensor_arrives_once(smollm2: Path, smollm2_checkpoint: Path) -> None:
    there = gguf.GGUFReader(smollm2).tensors
    found = read_header(smollm2_checkpoint / "model.safetensors")
    assert len(found) == len(there) == 272
    assert sum(tensor.n_elements for tensor in found.values()) == sum(int(t.n_elements) for t in there)
    assert "lm_head.weight" not in found  # the embedding is the head


def test_numbers_are_the_files(smollm2: Path, smollm2_checkpoint: Path) -> None:
    there = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}

    def of_file(name: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return np.asarray(gguf.dequantize(there[name].data, there[name].tensor_type), dtype=np.float32)

    down = weights(smollm2_checkpoint, "model.layers.7.mlp.down_proj.weight")
    assert np.array_equal(down, of_file("blk.7.ffn_down.weight"))
    key = weights(smollm2_checkpoint, "model.layers.7.self_attn.k_proj.weight")
    turned = of_file("blk.7.attn_k.weight").reshape(3, 32, 2, 576).swapaxes(1, 2).reshape(192, 576)
    assert np.array_equal(key, turned)


def test_same_file_gives_the_same_bytes(
    smollm2: Path, smollm2_checkpoint: Path, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    told = run_in_tool("dequantize", {"source": str(smollm2), "target": str(tmp_path / "again")})
    assert (told["family"], told["level"], told["n_tensors"], told["tied"]) == ("llama", "q4_1", 272, True)
    assert read_checkpoint(tmp_path / "again").sha256 == read_checkpoint(smollm2_checkpoint).sha256


def write_gguf(path: Path, architecture: str, **fields: float) -> None:
    """A file with one tensor, and the metadata of an ordinary model but for `fields`."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "b"])
    for key, value in fields.items():
        writer.add_float32(f"{architecture}.{key.replace('__', '.')}", value)
    writer.add_tensor("token_embd.weight", np.ones((2, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("architecture", "fields", "told"),
    [
        ("mamba", {}, "architecture 'mamba'"),
        ("llama", {}, "does not say its llama.embedding_length"),
        ("llama", {"embedding_length": 64, "rope__scaling__factor": 8.0}, "sets llama.rope.scaling.factor"),
    ],
)
def test_file_that_can_not_become_a_checkpoint_is_refused(
    architecture: str, fields: dict[str, float], told: str, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "odd.gguf", architecture, **fields)
    with pytest.raises(ModelError, match=told) as caught:
        run_in_tool("dequantize", {"source": str(tmp_path / "odd.gguf"), "target": str(tmp_path / "out")})
    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["odd.gguf"]  # nothing half-written
