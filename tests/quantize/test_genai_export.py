import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import ModelError
from edgebench.quantize.onnx_file import inspect_onnx

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def make(
    tiny_checkpoint: Path,
    genai_tool: object,
    run_in_tool: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """`make(level, recipe)`: a genai folder of the small model, and what its making told."""

    def at(level: str, recipe: dict[str, Any] | None = None) -> tuple[Path, dict[str, Any]]:
        target = tmp_path_factory.mktemp("genai") / level
        job = {"checkpoint": str(tiny_checkpoint), "target": str(target), "level": level, "recipe": recipe}
        return target, run_in_tool("genai", job)

    return at


def test_the_layout_is_genais_and_everything_travels(make: Callable[..., Any]) -> None:
    folder, _ = make("genai-fp32")

    inspection = inspect_onnx(folder)
    assert inspection.layout == "genai"
    assert inspection.bits_per_class["ffn"] == 32
    assert {"genai_config.json", "config.json", "tokenizer.json"} <= set(inspection.files)
    assert json.loads((folder / "genai_config.json").read_text())["search"]["past_present_share_buffer"]


@pytest.mark.parametrize(("level", "most"), [("genai-int8", 9.2), ("genai-int4", 9.2)])
def test_the_tied_head_is_stored_once(make: Callable[..., Any], level: str, most: float) -> None:
    folder, result = make(level)

    inspection = inspect_onnx(folder)
    assert result["recipe"]["block_size"] == 32
    assert inspection.bits_per_class["head"] == inspection.bits_per_class["embedding"] < most
    assert inspection.n_params == inspect_onnx(make("genai-fp32")[0]).n_params
    assert inspection.bits_per_weight < most


def test_a_head_of_its_own_is_not_taken_for_the_embedding(
    tiny_checkpoint: Path,
    genai_tool: object,
    run_in_tool: Callable[..., dict[str, Any]],
    run_python_in_tool: Callable[..., str],
    tmp_path: Path,
) -> None:
    script = tmp_path / "untie.py"
    script.write_text(
        "import shutil, sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "shutil.copytree(sys.argv[1], sys.argv[2])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], tie_word_embeddings=False)\n"
        "model.lm_head.weight = torch.nn.Parameter(-model.get_input_embeddings().weight.detach())\n"
        "model.save_pretrained(sys.argv[2])\n",
        encoding="utf-8",
    )
    run_python_in_tool(script, tiny_checkpoint, tmp_path / "untied")
    job = {"checkpoint": str(tmp_path / "untied"), "level": "genai-int8", "target": str(tmp_path / "int8")}

    run_in_tool("genai", job)

    bits = inspect_onnx(tmp_path / "int8").bits_per_class
    assert (bits["embedding"], bits["head"]) == (32, 9)


def test_an_algorithm_the_model_is_no_match_for_is_told(make: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="odd number of blocks") as refused:
        make("genai-int4", {"algorithm": "k_quant"})  # its feed-forward rows are 96 wide
    assert "fit" in str(refused.value.hint)


def test_the_builders_options_are_recorded(make: Callable[..., Any]) -> None:
    recipe = {"symmetric": True, "algorithm": "default"}
    _, result = make("genai-int4", recipe)

    assert result["recipe"] == {"block_size": 32, "accuracy_level": 4, **recipe}
