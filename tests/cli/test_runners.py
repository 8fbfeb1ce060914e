"""`runners list` and `runners build`: what is missing, and the command that gets it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

WITHOUT_LLAMA_CPP = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "llama_cpp" else find(name, package)
"""


@pytest.fixture
def bare(tmp_path: Path) -> Mapping[str, str]:
    """What somebody has who has just installed edgebench: no engine, an empty cache, no compiler."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LLAMA_CPP)
    own = {"PYTHONPATH": str(tmp_path), "EDGEBENCH_CACHE": str(tmp_path / "cache"), "PATH": ""}
    return own | {"CC": "", "CXX": "", "CUDACXX": "/nowhere/nvcc", "CMAKE_ARGS": ""}


def test_every_absent_engine_has_the_command_that_gets_it(edgebench: Any, bare: Mapping[str, str]) -> None:
    done = edgebench("runners", "list", "-o", "json", env=bare)
    assert done.returncode == 0, done.stderr
    runners = {row["name"]: row for row in json.loads(done.stdout)}
    assert {"llama_cpp", "llama_server", "onnx", "onnx_genai", "torch", "synthetic"} <= runners.keys()
    for name, row in runners.items():
        assert {"name", "available", "why", "install", "version", "evidence", "formats"} <= row.keys()
        assert row["available"] == (name == "synthetic")
        if not row["available"]:
            assert row["why"]
            assert row["why"].isprintable()
            assert row["install"].startswith("edgebench ")
            assert row["version"] is None
    assert runners["llama_cpp"]["install"] == "edgebench runners build llama_cpp"
    assert runners["llama_cpp"]["backends"] == []


def test_the_command_is_one_that_there_is(edgebench: Any, bare: Mapping[str, str]) -> None:
    rows = json.loads(edgebench("runners", "list", "-o", "json", env=bare).stdout)
    known = {tuple(row["install"].split()[1:3]) for row in rows if not row["available"]}
    assert known <= {("runners", "build"), ("cache", "prefetch")}


@pytest.mark.parametrize(
    ("target", "missing", "install"),
    [
        ("cpu", "a C++ compiler", "apt install g++"),
        ("cuda", "CUDA's compiler nvcc", "apt install nvidia-cuda-toolkit"),
        ("vulkan", "the shader compiler glslc", "apt install libvulkan-dev glslc spirv-headers"),
    ],
)
def test_a_dry_run_says_what_is_missing_and_does_nothing(
    edgebench: Any, bare: Mapping[str, str], tmp_path: Path, target: str, missing: str, install: str
) -> None:
    done = edgebench("runners", "build", "--target", target, "--dry-run", "-o", "json", env=bare)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["runner"], told["target"], told["possible"]) == ("llama_cpp", target, False)
    assert told["missing"][missing] == install
    assert f"missing: {missing}; install with: {install}" in done.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_build_without_its_toolkit_is_refused_with_the_line(
    edgebench: Any, bare: Mapping[str, str]
) -> None:
    done = edgebench("runners", "build", "--target", "cuda", env=bare | {"PIP_NO_INDEX": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("error: without a C compiler and")
    assert done.stderr.splitlines()[1].startswith("hint: ")


def test_other_engines_are_made_by_their_environment(edgebench: Any, bare: Mapping[str, str]) -> None:
    told = json.loads(edgebench("runners", "build", "onnx", "--explain", "-o", "json", env=bare).stdout)
    assert "make the tool environment export" in told["todo"]
    refused = edgebench("runners", "build", "torch", "--target", "vulkan", env=bare)
    assert (refused.returncode, "not built for a target" in refused.stderr) == (2, True)
    cuda = edgebench("runners", "build", "onnx", "--target", "cuda", env=bare)
    assert cuda.returncode == 2
    assert "onnxruntime-gpu takes onnxruntime's place" in cuda.stderr
    assert "has not been tried" in cuda.stderr


def test_what_is_there_is_ready_at_once(edgebench: Any) -> None:
    done = edgebench("runners", "build", "synthetic")
    assert (done.returncode, done.stderr) == (0, "synthetic is ready\n")


@pytest.mark.usefixtures("export_tool")
def test_cuda_for_onnx_names_the_environments_own_pip(edgebench: Any) -> None:
    done = edgebench("runners", "build", "onnx_genai", "--target", "cuda")
    assert done.returncode == 2
    assert "python -m pip install onnxruntime-genai-cuda" in done.stderr
