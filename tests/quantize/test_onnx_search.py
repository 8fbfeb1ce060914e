from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.quantize.onnx_search import choose


def one(size_bytes: int, mean_kld: float, step_s: float = 0.1) -> dict[str, Any]:
    return {"size_bytes": size_bytes, "mean_kld": mean_kld, "step_s": step_s}


def test_the_smallest_close_to_the_best_is_chosen() -> None:
    found = [one(100, 0.10), one(80, 0.12), one(60, 0.30)]

    assert choose(found, slack=1.25, most_step_s=1) == one(80, 0.12)
    assert choose(found, slack=1.0, most_step_s=1) == one(100, 0.10)


def test_an_exact_recipe_without_a_fast_kernel_is_passed_over() -> None:
    found = [one(90, 0.0001, step_s=5), one(80, 0.12)]

    assert choose(found, slack=1.25, most_step_s=1) == one(80, 0.12)
    assert choose(found[:1], slack=1.25, most_step_s=1) == found[0]


@pytest.mark.engine
@pytest.mark.slow
def test_candidates_are_measured_and_not_kept(
    tiny_checkpoint: Path,
    run_in_tool: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    base, scratch = tmp_path / "onnx-fp32", tmp_path / "scratch"
    scratch.mkdir()
    run_in_tool("onnx", {"checkpoint": str(tiny_checkpoint), "target": str(base), "level": "onnx-fp32"})
    offset: dict[str, Any] = {"zeros": "offset", "head_bits": 32, "embedding_bits": 32}

    result = run_in_tool(
        "search",
        {
            "base": str(base),
            "chunks": [list(range(10, 42)), list(range(500, 532))],
            "candidates": [{"symmetric": True, "method": "round"}, {}, offset],
            "scratch": str(scratch),
            "most_step_ratio": 1000,
            "n_threads": 1,
        },
    )

    found = result["candidates"]
    assert [entry["recipe"]["symmetric"] for entry in found] == [True, False, False]
    assert all(entry["mean_kld"] > 0 and 0 <= entry["same_top_share"] <= 1 for entry in found)
    assert found[1]["size_bytes"] < found[2]["size_bytes"]
    assert result["best"] in found
    assert result["n_scored"] == 32
    assert list(scratch.iterdir()) == []
