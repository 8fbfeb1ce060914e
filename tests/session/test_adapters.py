"""An adapter reaches every format: what GGUF and ONNX say is what peft's own model says."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgebench.core.types import Settings
from edgebench.quantize.manifest import sidecar
from edgebench.session_sources import TOLERANCES

pytestmark = [pytest.mark.engine]

KINDS = ("lora", "rslora", "dora")
SCRIPT = Path(__file__).parents[1] / "quantize" / "make_adapter.py"
ONNX = Path(__file__).with_name("onnx_logits.py")
Floats = npt.NDArray[np.float32]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_adapter", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gguf_logits(path: Path, tokens: list[int]) -> Floats:
    from edgebench.runners.llama_cpp import LlamaCpp

    settings = Settings(n_threads=1, flash_attn="off", type_k="f32", type_v="f32")
    with LlamaCpp().load(path, settings) as session:
        session.open(n_ctx=256)
        return session.logits(tokens, 0)


@pytest.fixture(scope="module")
def plain(
    tiny_checkpoint: Path, run_python_in_tool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Floats:
    """The base's own logits."""
    path = tmp_path_factory.mktemp("plain") / "plain.npy"
    run_python_in_tool(SCRIPT, tiny_checkpoint, path, "logits")
    return np.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_is_the_same_in_gguf_and_onnx(
    kind: str,
    tiny_checkpoint: Path,
    plain: Floats,
    tmp_path: Path,
    edgebench: Any,
    run_python_in_tool: Callable[..., str],
) -> None:
    tokens, base, folder = script().TOKENS, tiny_checkpoint, tmp_path
    adapter = folder / f"my-{kind}"
    run_python_in_tool(SCRIPT, base, adapter, kind)
    run_python_in_tool(SCRIPT, base, folder / "peft.npy", "logits", adapter)
    done = edgebench(
        *("quantize", base, "--adapter", adapter, "--to", "f32,onnx-fp32", "--out", "out", "--no-check"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    expected = np.load(folder / "peft.npy")
    assert np.abs(expected - plain).max() > 0.1  # the adapter is seen
    name = f"{base.name}+my-{kind}"
    gguf, onnx = folder / "out" / f"{name}-f32.gguf", folder / "out" / f"{name}-onnx-fp32"
    run_python_in_tool(ONNX, onnx, folder / "onnx.npy", *tokens)
    far = {
        "gguf_f32_logits": float(np.abs(gguf_logits(gguf, tokens) - expected).max()),
        "onnx_fp32_logits": float(np.abs(np.load(folder / "onnx.npy") - expected).max()),
    }
    print(base.name, kind, far)
    for path, key in ((gguf, "gguf_f32_logits"), (onnx, "onnx_fp32_logits")):
        assert far[key] <= TOLERANCES[key]
        told = json.loads(sidecar(path).read_text())["recipe"]["adapter"]
        assert (told["kind"], len(told["adapter_sha256"]), len(told["base_sha256"])) == (kind, 64, 64)
        assert told["tolerances"] == TOLERANCES


def test_an_adapter_for_another_base_leaves_nothing(
    smollm2_checkpoint: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    edgebench: Any,
    run_python_in_tool: Callable[..., str],
) -> None:
    run_python_in_tool(SCRIPT, tiny_checkpoint, tmp_path / "adapter", "lora")
    done = edgebench(
        *("quantize", smollm2_checkpoint, "--adapter", "adapter", "--to", "q8_0", "--out", "out"), timeout=300
    )
    assert done.returncode == 1
    assert "error: adapter is for another base" in done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()[-2:]] == ["error", "hint"]
    assert not (tmp_path / "out").exists()
