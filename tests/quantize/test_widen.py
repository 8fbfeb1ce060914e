"""The widened model: the same function where it is not dithered, the same bytes every time."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import ModelError
from edgebench.quantize.checkpoint import read_checkpoint
from edgebench.quantize.widen import widen

SCRIPT = Path(__file__).with_name("make_adapter.py")
MEASURE = """
import json, sys
import numpy as np
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
print(json.dumps({"largest": float(abs(a - b).max()), "agree": float((a.argmax(1) == b.argmax(1)).mean())}))
"""

RunInTool = Callable[[str, Mapping[str, Any]], dict[str, Any]]
RunPython = Callable[..., str]


@pytest.fixture(scope="module")
def distance(run_python_in_tool: RunPython, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`distance(a, b)`: how far the logits of two checkpoints are apart, in f32."""

    def measure(*checkpoints: Path) -> Any:
        folder = tmp_path_factory.mktemp("logits")
        (folder / "measure.py").write_text(MEASURE)
        paths = [folder / f"{i}.npy" for i in range(len(checkpoints))]
        for checkpoint, path in zip(checkpoints, paths, strict=True):
            run_python_in_tool(SCRIPT, checkpoint, path, "logits")
        return json.loads(run_python_in_tool(folder / "measure.py", *paths))

    return measure


@pytest.mark.engine
@pytest.mark.slow
def test_widening_keeps_the_function_of_smollm2(
    smollm2_checkpoint: Path, run_in_tool: RunInTool, distance: Callable[..., Any], tmp_path: Path
) -> None:
    target = tmp_path / "wide"
    job = {"checkpoint": str(smollm2_checkpoint), "target": str(target), "width": 768, "dither": False}
    result = run_in_tool("widen", job)
    found = distance(smollm2_checkpoint, target)
    print(f"widened to 768: largest difference of a logit {found['largest']:.2g}")
    assert found["largest"] <= 1e-4
    wide = read_checkpoint(target)
    assert result["n_params"] == wide.n_params == 191_149_824
    assert wide.dtype == "f32"
    assert wide.chat_template_sha256 == read_checkpoint(smollm2_checkpoint).chat_template_sha256


@pytest.mark.engine
def test_dither_leaves_the_grid_by_less_than_a_step_and_gives_the_same_bytes_every_time(
    smollm2_checkpoint: Path,
    run_in_tool: RunInTool,
    run_python_in_tool: RunPython,
    distance: Callable[..., Any],
    tmp_path: Path,
) -> None:
    tiny = tmp_path / "tiny"
    run_python_in_tool(SCRIPT, smollm2_checkpoint, tiny, "tiny")

    def make(name: str, **more: Any) -> str:
        job = {"checkpoint": str(tiny), "target": str(tmp_path / name), "width": 128, **more}
        run_in_tool("widen", job)
        return read_checkpoint(tmp_path / name).sha256

    first = make("first")
    assert first == make("again", seed=0, dither=True)
    assert first != make("other", seed=1)
    assert first != make("plain", dither=False)
    assert distance(tiny, tmp_path / "plain")["largest"] <= 1e-4
    assert distance(tiny, tmp_path / "first")["largest"] > 0.01
    script = tmp_path / "steps.py"
    script.write_text(
        "import sys, numpy as np\nfrom safetensors.numpy import load_file\n"
        "a, b = (load_file(path + '/model.safetensors') for path in sys.argv[1:])\n"
        "for name in a:\n"
        "    if not name.endswith('_proj.weight'):\n"
        "        assert (a[name] == b[name]).all(), name\n"
        "        continue\n"
        "    x, y = (w[name].reshape(-1, 32) for w in (a, b))\n"
        "    step = (x.max(1) - x.min(1)) / 15\n"
        "    moved = abs(y - x).max(1)\n"
        "    assert (moved <= 0.5001 * step).all(), name\n"
        "    assert (moved[step > 0] > 0.2 * step[step > 0]).all(), name\n"
        "print('in its step')\n"
    )
    assert "in its step" in run_python_in_tool(script, tmp_path / "plain", tmp_path / "first")


@pytest.mark.parametrize(
    ("config", "width", "told"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, 16, "only Llama models"),
        ({"attention_bias": True}, 16, "a model with biases"),
        ({}, 12, r"8 wide with 2 heads \(1 of keys\) can't become 12 wide"),
        ({}, 8, "can't become 8 wide"),
    ],
)
def test_what_would_not_keep_the_function_is_refused(
    config: dict[str, Any], width: int, told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    shapes = {"model.embed_tokens.weight": [4, 8], "model.layers.0.mlp.up_proj.weight": [4, 8]}
    head = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [128 * i, 128 * (i + 1)]}
        for i, (name, shape) in enumerate(shapes.items())
    }
    raw = json.dumps(head).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(256))
    plain = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps({**plain, **sizes, **config}))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=told):
        widen({"checkpoint": str(folder), "target": str(tmp_path / "wide"), "width": width}, lambda _: None)
    assert not (tmp_path / "wide").exists()
