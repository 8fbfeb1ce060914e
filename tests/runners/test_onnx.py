"""The onnx runner on a small random model, in both layouts, in its tool environment."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.core.errors import ModelError
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.onnx import Onnx

PROBE = Path(__file__).with_name("probe_onnx.py")
GROUPS = Path(__file__).with_name("probe_groups.py")
LAYOUTS = ("onnx-fp32", "onnx-fp16", "genai-fp32")
Told = dict[str, tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def told(
    tiny_checkpoint: Path,
    genai_tool: object,
    run_in_tool: Callable[..., dict[str, Any]],
    run_python_in_tool: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Told:
    """Each layout's folder, and all the probe has to tell of it."""
    folder, found = tmp_path_factory.mktemp("layouts"), {}
    for level in LAYOUTS:
        job = {
            "checkpoint": str(tiny_checkpoint),
            "target": str(folder / level),
            "level": level,
            "base": str(folder / "onnx-fp32"),
        }
        run_in_tool(level.split("-")[0], job)
        printed = run_python_in_tool(PROBE, folder / level, tiny_checkpoint)
        found[level] = folder / level, json.loads(printed.splitlines()[-1])
    return found


def test_the_runner_says_what_it_needs() -> None:
    runner = Onnx()
    assert (runner.formats, runner.tool, runner.evidence) == ((Format.ONNX,), "export", Evidence.MEASURED)
    if importlib.util.find_spec("onnxruntime") is None:
        assert "onnxruntime" in (runner.available() or "")


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        Onnx().load(tmp_path, Settings(n_threads=1))


@pytest.mark.engine
@pytest.mark.parametrize("level", LAYOUTS)
def test_log_likelihoods_are_those_of_the_whole_text_at_once(told: Told, level: str) -> None:
    _, found = told[level]
    most = 0.05 if level == "onnx-fp16" else 1e-3
    for shape in ("grouped", "alone"):
        for scores, oracle in zip(found[shape], found["oracle"], strict=True):
            for (logprob, is_greedy), (expected, said) in zip(scores, oracle, strict=True):
                assert logprob == pytest.approx(expected, abs=most)
                assert is_greedy == said


@pytest.mark.engine
@pytest.mark.parametrize("level", LAYOUTS)
def test_the_cache_goes_on_where_it_was(told: Told, level: str) -> None:
    _, found = told[level]
    assert found["split_difference"] < (0.05 if level == "onnx-fp16" else 1e-3)
    assert found["part_is_equal"]
    assert found["repeat_is_equal"]
    assert "is full" in found["overflow"]


@pytest.mark.engine
def test_both_layouts_give_the_same_logits(told: Told) -> None:
    plain, half, genai = (np.load(told[level][0] / "logits.npy") for level in LAYOUTS)
    assert np.abs(genai - plain).max() < 2e-3
    assert np.abs(half - plain).max() < 0.05


@pytest.mark.engine
@pytest.mark.parametrize("level", LAYOUTS)
def test_text_and_template_are_the_checkpoints(told: Told, level: str) -> None:
    _, found = told[level]
    assert found["tokens"] == found["hf_tokens"]
    assert found["chat"] == [found["hf_chat"], True]
    assert found["text"] == "The capital of France is 1234, naïve 日本語 \t x\n\n  user I'll"
    assert found["bos"] is None
    assert not found["greedy_ends"]


@pytest.mark.engine
def test_facts_say_what_was_computed_and_how(told: Told) -> None:
    layouts = {level: found["facts"] for level, (_, found) in told.items()}
    assert [layouts[level]["layout"] for level in LAYOUTS] == ["plain", "plain", "genai"]
    assert [layouts[level]["shared_buffer"] for level in LAYOUTS] == [False, False, True]
    assert [layouts[level]["cache_dtype"] for level in LAYOUTS] == ["float32", "float16", "float32"]
    assert all(found["available"] is None for _, found in told.values())


@pytest.mark.engine
def test_rows_of_a_batch_score_as_they_do_alone(told: Told, run_python_in_tool: Callable[..., str]) -> None:
    found = json.loads(run_python_in_tool(GROUPS, "onnx", told["onnx-fp32"][0]))
    assert max(found["difference"].values()) < 1e-4
    assert found["n_rows"]["letter"] > 3
    assert found["n_rows"]["cloze"] > 3
    assert found["n_rows"]["held_down"] <= 3
    assert_sharing_and_writing(found)


@pytest.mark.engine
@pytest.mark.parametrize("layout", ["shared buffer", "fused attention alone"])
def test_graphs_that_take_one_row_are_scored_one_by_one(
    told: Told, layout: str, run_python_in_tool: Callable[..., str], tmp_path: Path
) -> None:
    folder = told["genai-fp32"][0]
    if layout == "fused attention alone":
        folder = Path(shutil.copytree(folder, tmp_path / "unshared"))
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        config["search"]["past_present_share_buffer"] = False
        (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = json.loads(run_python_in_tool(GROUPS, "onnx", folder))
    assert max(found["difference"].values()) < 1e-4
    assert set(found["n_rows"].values()) == {1}
    assert_sharing_and_writing(found)


def assert_sharing_and_writing(found: dict[str, Any]) -> None:
    assert found["kept_is_fresh"] == dict.fromkeys(("letter", "rotated", "cloze"), True)
    assert found["generate_is_argmax"]
    assert found["n_written"] == [6] * 7
    assert found["ended_by_token"]
    assert found["ended_by_caller"]
