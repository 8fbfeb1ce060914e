"""The ONNX runners on a small random model, in both layouts, in their tool environment."""

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
from edgebench.runners.onnx_genai import OnnxGenai

PROBE = Path(__file__).with_name("probe_onnx.py")
GROUPS = Path(__file__).with_name("probe_groups.py")
REFUSALS = Path(__file__).with_name("probe_onnx_refusals.py")
LAYOUTS = ("onnx-fp32", "onnx-fp16", "genai-fp32")
CASES = (*(f"onnx:{level}" for level in LAYOUTS), "onnx_genai:genai-fp32")
every_case = pytest.mark.parametrize("case", CASES)
Told = dict[str, Any]


@pytest.fixture(scope="module")
def folders(
    tiny_checkpoint: Path,
    genai_tool: object,
    run_in_tool: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Each layout's folder."""
    folder = tmp_path_factory.mktemp("layouts")
    for level in LAYOUTS:
        job = {
            "checkpoint": str(tiny_checkpoint),
            "target": str(folder / level),
            "level": level,
            "base": str(folder / "onnx-fp32"),
        }
        run_in_tool(level.split("-")[0], job)
    return {level: folder / level for level in LAYOUTS}


@pytest.fixture(scope="module")
def told(folders: dict[str, Path], tiny_checkpoint: Path, run_python_in_tool: Callable[..., str]) -> Told:
    """All the probe has to tell of each runner and layout."""
    printed = run_python_in_tool(PROBE, tiny_checkpoint, folders["onnx-fp32"].parent, *CASES)
    return dict(json.loads(printed.splitlines()[-1]))


@pytest.fixture(scope="module")
def refusals(
    folders: dict[str, Path],
    run_python_in_tool: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What the runners refuse, and how."""
    scratch = tmp_path_factory.mktemp("refusals")
    printed = run_python_in_tool(REFUSALS, folders["onnx-fp32"], folders["genai-fp32"], scratch)
    return dict(json.loads(printed.splitlines()[-1]))


@pytest.mark.parametrize(("runner", "needs"), [(Onnx(), "onnxruntime"), (OnnxGenai(), "onnxruntime_genai")])
def test_the_runner_says_what_it_needs(runner: Any, needs: str) -> None:
    assert (runner.formats, runner.tool, runner.evidence) == ((Format.ONNX,), "export", Evidence.MEASURED)
    assert "onnxruntime 1." in runner.version()
    if importlib.util.find_spec(needs) is None:
        assert needs in (runner.available() or "")


@pytest.mark.parametrize("runner", [Onnx(), OnnxGenai()])
def test_a_folder_without_a_graph_is_refused(runner: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        runner.load(tmp_path, Settings(n_threads=1))


@pytest.mark.engine
@every_case
def test_log_likelihoods_are_those_of_the_whole_text_at_once(told: Told, case: str) -> None:
    found, most = told[case], 0.05 if "fp16" in case else 1e-3
    for shape in ("grouped", "alone"):
        for scores, oracle in zip(found[shape], found["oracle"], strict=True):
            for (logprob, is_greedy), (expected, said) in zip(scores, oracle, strict=True):
                assert logprob == pytest.approx(expected, abs=most)
                assert is_greedy == said


@pytest.mark.engine
@every_case
def test_log_likelihoods_are_those_of_torch(told: Told, case: str) -> None:
    found, most = told[case], 0.05 if "fp16" in case else 1e-3
    ours, theirs = ([one[0] for row in rows for one in row] for rows in (found["grouped"], told["torch"]))
    assert len(set(ours)) == 5
    assert ours == pytest.approx(theirs, abs=most)


@pytest.mark.engine
@every_case
def test_the_cache_goes_on_where_it_was(told: Told, case: str) -> None:
    found = told[case]
    assert found["split_difference"] < (0.05 if "fp16" in case else 1e-3)
    assert found["part_is_equal"]
    assert found["repeat_is_equal"]
    assert "is full" in found["overflow"]


@pytest.mark.engine
def test_all_layouts_and_runners_give_the_same_logits(folders: dict[str, Path], told: Told) -> None:
    plain, half, genai, library = (
        np.load(folders["onnx-fp32"].parent / f"{case.replace(':', '-')}.npy") for case in CASES
    )
    assert np.abs(genai - plain).max() < 2e-3
    assert np.abs(library - plain).max() < 2e-3
    assert np.abs(half - plain).max() < 0.05


@pytest.mark.engine
@every_case
def test_text_and_template_are_the_checkpoints(told: Told, case: str) -> None:
    found = told[case]
    assert found["tokens"] == told["hf_tokens"]
    assert found["chat"] == [told["hf_chat"], True]
    assert found["text"] == "The capital of France is 1234, naïve 日本語 \t x\n\n  user I'll"
    assert found["bos"] is None
    assert not found["greedy_ends"]


@pytest.mark.engine
def test_facts_say_what_was_computed_and_how(told: Told) -> None:
    facts = [told[case]["facts"] for case in CASES]
    assert [one["layout"] for one in facts] == ["plain", "plain", "genai", "genai"]
    assert [one["shared_buffer"] for one in facts] == [False, False, True, True]
    assert [one["cache_dtype"] for one in facts] == ["float32", "float16", "float32", "float32"]
    assert all(one["providers"] == ["CPUExecutionProvider"] for one in facts)
    assert all(one["provider_node_share"] == 1 for one in facts)
    assert all(one["n_threads"] == 1 for one in facts)
    assert all(told[case]["available"] is None for case in CASES)


@pytest.mark.engine
def test_a_buffer_tells_its_size(told: Told) -> None:
    in_place = 2 * 2 * 2 * 16 * 4 * 128  # keys and values, layers, heads, width, bytes, tokens
    assert [told[case]["kv_cache_bytes"] for case in CASES] == [None, None, in_place, in_place]


@pytest.mark.engine
@every_case
def test_threads_are_those_asked_for(told: Told, case: str) -> None:
    assert told[case]["more_threads"] == 2  # with three asked for instead of one: the caller's own is one


@pytest.mark.engine
def test_nothing_is_left_for_a_telemetry_to_send(told: Told) -> None:
    assert told["telemetry"] == []


@pytest.mark.engine
def test_rows_of_a_batch_score_as_they_do_alone(
    folders: dict[str, Path], run_python_in_tool: Callable[..., str]
) -> None:
    found = json.loads(run_python_in_tool(GROUPS, "onnx", folders["onnx-fp32"]))
    assert max(found["difference"].values()) < 1e-4
    assert found["n_rows"]["letter"] > 3
    assert found["n_rows"]["cloze"] > 3
    assert found["n_rows"]["held_down"] <= 3
    assert_sharing_and_writing(found)


@pytest.mark.engine
@pytest.mark.parametrize("layout", ["shared buffer", "fused attention alone", "the library's own"])
def test_graphs_that_take_one_row_are_scored_one_by_one(
    folders: dict[str, Path], layout: str, run_python_in_tool: Callable[..., str], tmp_path: Path
) -> None:
    folder = folders["genai-fp32"]
    if layout == "fused attention alone":
        folder = Path(shutil.copytree(folder, tmp_path / "unshared"))
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        config["search"]["past_present_share_buffer"] = False
        (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    runner = "onnx_genai" if layout == "the library's own" else "onnx"
    found = json.loads(run_python_in_tool(GROUPS, runner, folder).splitlines()[-1])
    assert max(found["difference"].values()) < 1e-4
    assert set(found["n_rows"].values()) == {1}
    assert_sharing_and_writing(found)


def assert_sharing_and_writing(found: dict[str, Any]) -> None:
    assert found["kept_is_fresh"] == dict.fromkeys(("letter", "rotated", "cloze"), True)
    assert found["generate_is_argmax"]
    assert found["n_written"] == [6] * 7
    assert found["ended_by_token"]
    assert found["ended_by_caller"]


@pytest.mark.engine
@pytest.mark.parametrize("runner", ["onnx", "onnx_genai"])
def test_a_provider_that_is_not_installed_is_named_with_the_command_that_brings_it(
    refusals: dict[str, Any], runner: str
) -> None:
    kind, message, hint = refusals[f"{runner} cuda"]
    assert kind == "MissingDependency"
    assert "cuda" in message
    assert message.endswith(("cpu", "cpu only"))
    assert " -m pip install onnxruntime-gpu" in hint
    assert refusals[f"{runner} quda"][0] == "UsageError"


@pytest.mark.engine
def test_a_provider_that_computes_nothing_is_no_silent_fall_back(refusals: dict[str, Any]) -> None:
    kind, message, _ = refusals["onnx azure"]
    assert kind == "ModelError"
    assert "azure was given 0 of the graph's" in message
    assert "CPUExecutionProvider does them" in message
    assert refusals["onnx_genai azure"][0] == "UsageError"


@pytest.mark.engine
@pytest.mark.parametrize("runner", ["onnx", "onnx_genai"])
def test_settings_of_other_engines_are_refused(refusals: dict[str, Any], runner: str) -> None:
    assert refusals[f"{runner} gpu"][:2] == [
        "UsageError",
        "the execution provider cpu has no GPUs to choose from",
    ]
    assert refusals[f"{runner} ngl"][0] == "UsageError"


@pytest.mark.engine
@pytest.mark.parametrize("runner", ["onnx", "onnx_genai"])
def test_a_graph_that_is_none_or_wants_more_is_refused_by_name(refusals: dict[str, Any], runner: str) -> None:
    kind, message, _ = refusals[f"{runner} unknown input"]
    assert (kind, "temperature" in message, "\n" in message) == ("ModelError", True, False)
    kind, message, _ = refusals[f"{runner} damaged"]
    assert (kind, "can't open" in message, "\n" in message) == ("ModelError", True, False)


@pytest.mark.engine
def test_a_folder_can_not_make_the_library_run_code_or_write_files(refusals: dict[str, Any]) -> None:
    for option in ("custom_ops_library", "enable_profiling"):
        assert f"no business with: {option}" in refusals[f"onnx_genai {option}"][1]
    assert "names '../model.onnx'" in refusals["onnx_genai elsewhere"][1]
    assert "--runner onnx opens it" in refusals["onnx_genai plain"][2]


@pytest.mark.engine
def test_a_cache_is_as_long_as_the_model_can_use(refusals: dict[str, Any]) -> None:
    told = ["ModelError", "the context of 512 tokens is full (513 needed)", None]
    assert refusals["onnx_genai too long"] == told


@pytest.mark.engine
@pytest.mark.parametrize("runner", ["onnx", "onnx_genai"])
def test_a_graph_of_last_logits_only_scores_the_same(refusals: dict[str, Any], runner: str) -> None:
    assert refusals["last"][runner] < 1e-4
