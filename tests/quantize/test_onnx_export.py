"""The exporters at work, in their own environment, on a model of two small layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import EdgebenchError
from edgebench.quantize.levels import ONNX_LEVELS
from edgebench.quantize.onnx_file import OnnxInspection, inspect_onnx

RunInTool = Callable[..., dict[str, Any]]
Ladder = dict[str, tuple[Path, dict[str, Any]]]

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def ladder(tiny_checkpoint: Path, run_in_tool: RunInTool, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """Every ONNX level of the small model, and what its making told."""
    folder = tmp_path_factory.mktemp("onnx")
    made: Ladder = {}
    for level in ONNX_LEVELS:
        job = {
            "checkpoint": str(tiny_checkpoint),
            "target": str(folder / level),
            "level": level,
            "base": str(folder / "onnx-fp32"),
        }
        made[level] = folder / level, run_in_tool("onnx", job)
    return made


def seen(ladder: Ladder, level: str) -> OnnxInspection:
    return inspect_onnx(ladder[level][0])


def test_the_float_graph_says_how_close_it_is_to_torch(ladder: Ladder) -> None:
    parity = ladder["onnx-fp32"][1]["parity"]

    assert parity["against"] == "torch"
    assert parity["within"] is True
    assert 0 <= parity["largest_logprob_difference"] <= parity["tolerance"] == 2e-3


def test_tokenizer_and_template_travel_along(ladder: Ladder) -> None:
    for folder, _ in ladder.values():
        names = {path.name for path in folder.iterdir()}
        assert {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names


def test_each_level_is_as_small_as_it_promises(ladder: Ladder) -> None:
    bits = {level: seen(ladder, level).bits_per_weight for level in ladder}

    assert bits["onnx-fp32"] == pytest.approx(32, abs=0.01)
    assert bits["onnx-fp16"] == pytest.approx(16, abs=0.5)
    assert 8 <= bits["onnx-int8"] < 9.5  # narrow rows: their scales weigh more than in a real model
    assert 9 <= bits["onnx-nbits8"] < 9.2
    assert bits["onnx-nbits4"] < bits["onnx-nbits8"]


@pytest.mark.parametrize("level", ["onnx-int8", "onnx-nbits8", "onnx-nbits4"])
def test_a_tied_head_is_quantized_and_stored_once(ladder: Ladder, level: str) -> None:
    inspection = seen(ladder, level)

    head, embedding = (inspection.bits_per_class[part] for part in ("head", "embedding"))
    assert head == pytest.approx(embedding, abs=0.2)
    assert embedding < 9.1
    assert inspection.n_params == seen(ladder, "onnx-fp32").n_params


def test_head_and_embedding_can_stay_wider(ladder: Ladder, run_in_tool: RunInTool, tmp_path: Path) -> None:
    job = {
        "target": str(tmp_path / "wide"),
        "level": "onnx-nbits4",
        "base": str(ladder["onnx-fp32"][0]),
        "recipe": {"head_bits": 8, "embedding_bits": 32, "wide": ["*/down_proj/*"]},
    }

    result = run_in_tool("onnx", job)

    inspection = inspect_onnx(tmp_path / "wide")
    assert result["recipe"]["embedding_bits"] == 32
    assert inspection.bits_per_class["embedding"] == 32
    assert inspection.bits_per_class["head"] == pytest.approx(9, abs=0.3)
    assert inspection.bits_per_class["ffn"] > inspection.bits_per_class["attention"]


def test_the_same_input_gives_the_same_bytes(ladder: Ladder, run_in_tool: RunInTool, tmp_path: Path) -> None:
    job = {"target": str(tmp_path / "again"), "level": "onnx-nbits4", "base": str(ladder["onnx-fp32"][0])}

    run_in_tool("onnx", job)

    first = ladder["onnx-nbits4"][0] / "model.onnx"
    assert (tmp_path / "again" / "model.onnx").read_bytes() == first.read_bytes()


def test_weights_beyond_the_limit_lie_beside_the_graph(
    ladder: Ladder, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    for level in ("onnx-fp16", "onnx-int8", "onnx-nbits4"):
        target = tmp_path / level
        job = {
            "target": str(target),
            "level": level,
            "base": str(ladder["onnx-fp32"][0]),
            "most_inline_bytes": 10_000,
        }

        assert run_in_tool("onnx", job)["external_data"] is True

        inspection, whole = inspect_onnx(target), seen(ladder, level)
        assert (target / "model.onnx.data").stat().st_size > (target / "model.onnx").stat().st_size
        assert inspection.tensor_types == whole.tensor_types
        assert inspection.bits_per_weight == pytest.approx(whole.bits_per_weight)


def test_a_data_file_cut_short_is_noticed(ladder: Ladder, run_in_tool: RunInTool, tmp_path: Path) -> None:
    job = {
        "target": str(tmp_path / "cut"),
        "level": "onnx-nbits8",
        "base": str(ladder["onnx-fp32"][0]),
        "most_inline_bytes": 10_000,
    }
    run_in_tool("onnx", job)
    data = tmp_path / "cut" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-100])

    with pytest.raises(EdgebenchError, match="reaches beyond the end"):
        inspect_onnx(tmp_path / "cut")


def test_what_is_there_already_is_kept(ladder: Ladder, run_in_tool: RunInTool) -> None:
    folder, _ = ladder["onnx-fp16"]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    job = {"target": str(folder), "level": "onnx-fp16", "base": str(ladder["onnx-fp32"][0])}

    with pytest.raises(EdgebenchError, match="is already there"):
        run_in_tool("onnx", job)

    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"level": "onnx-int3"}, "unknown ONNX level"),
        ({"level": "onnx-nbits4", "base": None}, "onnx-fp32"),
        ({"level": "onnx-nbits4", "recipe": {"block_size": 7}}, "block_size"),
        ({"level": "onnx-int8", "base": "/nowhere"}, "can't be read"),
    ],
)
def test_a_bad_job_gets_one_line_and_leaves_nothing(
    ladder: Ladder,
    tiny_checkpoint: Path,
    run_python_in_tool: Callable[..., str],
    tmp_path: Path,
    more: dict[str, Any],
    told: str,
) -> None:
    job = {"checkpoint": str(tiny_checkpoint), "base": str(ladder["onnx-fp32"][0]), **more}
    script = tmp_path / "try.py"
    script.write_text(
        "import json, sys\n"
        "from edgebench.core.errors import EdgebenchError\n"
        "from edgebench.quantize.onnx_export import export\n"
        "try:\n"
        "    export(json.loads(sys.argv[1]), lambda _: None)\n"
        "except EdgebenchError as error:\n"
        "    print(json.dumps([error.message, error.hint]))\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    out.mkdir()

    printed = run_python_in_tool(script, json.dumps({**job, "target": str(out / "x")}))

    assert told in str(json.loads(printed.splitlines()[-1]))
    assert list(out.iterdir()) == []
