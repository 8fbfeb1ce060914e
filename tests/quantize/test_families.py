"""Every known family by real conversion: what llama.cpp computes is what torch computes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgebench.core.errors import ModelError
from edgebench.core.types import Settings
from edgebench.quantize.checkpoint import FAMILIES, read_checkpoint
from edgebench.quantize.gguf_limits import check_losses

SCRIPT = Path(__file__).with_name("tiny_models.py")
TOLERANCE = 2e-3
"""Nats. llama.cpp's GELU goes through 16 bits, which costs the Gemmas up to 1e-3; the others need 1e-4."""

RunInTool = Callable[[str, Mapping[str, Any]], dict[str, Any]]
Tiny = Callable[[str], Path]


@pytest.fixture(scope="session")
def converter(smollm2: Path) -> Path:
    """llama.cpp's own converter. (Where the embedded model is, the engine is too.)"""
    from edgebench.runners.llama_source import source_tree

    return source_tree() / "convert_hf_to_gguf.py"


@pytest.fixture(scope="session")
def tiny_model(
    smollm2_checkpoint: Path,
    converter: Path,
    run_in_tool: RunInTool,
    run_python_in_tool: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tiny:
    """`tiny_model(family)`: a folder with `checkpoint`, what torch says of it, and its `f32.gguf`."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            run_python_in_tool(SCRIPT, family, folder, smollm2_checkpoint)
            job = {"script": str(converter), "checkpoint": str(folder / "checkpoint"), "outtype": "f32"}
            run_in_tool("convert", {**job, "target": str(folder / "f32.gguf")})
            made[family] = folder
        return made[family]

    return make


def logprobs_of(path: Path, ids: list[int]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    from edgebench.runners.llama_cpp import LlamaCpp

    exact = Settings(n_threads=1, flash_attn="off", type_k="f32", type_v="f32")
    with LlamaCpp().load(path, exact) as session:
        session.open(n_ctx=len(ids))
        logits = session.logits(ids, 0).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def contents(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metadata and tensors of a GGUF file."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_llama_cpp_computes_what_torch_computes(family: str, tiny_model: Tiny) -> None:
    folder = tiny_model(family)
    found = read_checkpoint(folder / "checkpoint")
    assert (found.family, found.architecture) == (family, FAMILIES[family])
    expected = np.load(folder / "logprobs.npy")
    assert expected.max() > -6.5  # these models are no coin flips: a wrong one would be seen
    assert expected.min() < -9
    logprobs = logprobs_of(folder / "f32.gguf", json.loads((folder / "ids.json").read_text()))
    assert logprobs.shape == expected.shape
    assert np.abs(logprobs - expected).max() < TOLERANCE


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_way_to_gguf_and_back_changes_nothing(
    family: str, tiny_model: Tiny, converter: Path, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    there = tiny_model(family) / "f32.gguf"
    run_in_tool("dequantize", {"source": str(there), "target": str(tmp_path / "back")})
    job = {"script": str(converter), "checkpoint": str(tmp_path / "back"), "outtype": "f32"}
    run_in_tool("convert", {**job, "target": str(tmp_path / "again.gguf")})
    assert contents(tmp_path / "again.gguf") == contents(there)


# What would get lost on the way -----------------------------------------------------------------

GEMMA2 = {
    "model_type": "gemma2",
    "num_hidden_layers": 26,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
}
GEMMA3 = {**GEMMA2, "model_type": "gemma3_text"}


@pytest.mark.parametrize("config", [GEMMA2, GEMMA3, {"model_type": "llama"}])
def test_usual_model_loses_nothing(config: dict[str, Any]) -> None:
    assert check_losses(Path("folder"), config) == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act"),
        ({**GEMMA2, "query_pre_attn_scalar": 144}, "query_pre_attn_scalar"),
        ({**GEMMA2, "layer_types": ["full_attention"] * 26}, "layer_types"),
        ({**GEMMA2, "tie_word_embeddings": False}, "tie_word_embeddings"),
        ({**GEMMA3, "hidden_activation": "silu"}, "hidden_activation"),
        ({"model_type": "qwen2", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling"),
        ({"model_type": "qwen3", "rope_scaling": {"rope_type": "llama3"}}, "rope scaling"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=f"another model: .*{told}") as caught:
        check_losses(Path("folder"), config)
    assert "\n" not in caught.value.message


def test_ignored_sliding_window_is_told() -> None:
    config = {"model_type": "phi3", "sliding_window": 2047, "max_position_embeddings": 4096}
    (note,) = check_losses(Path("folder"), config)
    assert "2047 tokens" in note
    assert check_losses(Path("folder"), {**config, "sliding_window": None}) == []
