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


def test_native_programs_are_explained_and_nothing_is_made(
    edgebench: Any, bare: Mapping[str, str], tmp_path: Path
) -> None:
    args = ("runners", "build", "--target", "android-arm64", "--dry-run", "-o", "json")
    done = edgebench(*args, env=bare)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["runner"], told["target"], told["toolchain"]) == ("llama_native", "android-arm64", "zig")
    assert list(told["todo"]) == ["armv8.2-a+dotprod+fp16+i8mm", "armv8.2-a+dotprod+fp16", "armv8-a"]
    assert (told["possible"], told["missing"]) == (True, {})  # zig and cmake are fetched
    gcc = json.loads(edgebench(*args, "--toolchain", "gcc", "--level", "armv8-a", env=bare).stdout)
    assert list(gcc["todo"]) == ["armv8-a"]
    assert gcc["possible"] is False
    assert gcc["missing"]["there is no gcc for arm64 here"].startswith("apt install g++-aarch64-linux-gnu;")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (
            ("native", "--target", "cuda"),
            "compute on the processor, not with cuda",
            "build llama_cpp --target cuda",
        ),
        (
            ("onnx", "--target", "android-arm64"),
            "onnx is not built for android-arm64",
            "build native --target",
        ),
        (("--level", "all"), "--level is for native programs", "runners build native"),
        (("torch", "--toolchain", "zig"), "--toolchain is for native programs", "runners build native"),
        (("--program", "llama-bench"), "--program is for native programs", "runners build native"),
        (("--target", "android-arm64", "--level", "armv9"), "unknown level 'armv9'", "armv8-a"),
        (("onnx_native", "--level", "all"), "onnx_native has no levels", "leave --level and --program out"),
    ],
)
def test_what_fits_nothing_is_refused_in_two_lines(
    edgebench: Any, args: tuple[str, ...], message: str, hint: str
) -> None:
    done = edgebench("runners", "build", *args)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert message in first
    assert hint in second


@pytest.mark.engine
def test_a_missing_toolchain_is_one_clear_line(edgebench: Any) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: edgebench runners build")
    args = ("--target", "android-arm64", "--toolchain", "ndk")
    done = edgebench("runners", "build", *args, env={"ANDROID_NDK_HOME": "/nowhere"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2:] == [
        "error: there is no Android NDK: $ANDROID_NDK_HOME names no folder that has one",
        "hint:  --toolchain zig needs none",
    ]


@pytest.mark.parametrize("content", [None, b"", b"PK", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_export_is_refused(edgebench: Any, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "native.zip"
    if content is not None:
        file.write_bytes(content)
    cache = tmp_path / "cache"
    done = edgebench("runners", "import", file, env={"EDGEBENCH_CACHE": str(cache)})
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert "native.zip" in first
    assert "edgebench runners export" in second
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.engine
def test_there_is_nothing_to_export_from_an_empty_cache(edgebench: Any, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: edgebench runners build")
    done = edgebench("runners", "export", "native.zip", env={"EDGEBENCH_CACHE": str(tmp_path / "cache")})
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is nothing to export: it is not built yet" in done.stderr
    assert not (tmp_path / "native.zip").exists()


def listed(edgebench: Any, env: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    done = edgebench("runners", "list", "-o", "json", env=env)
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.slow
@pytest.mark.engine
def test_native_programs_travel_from_one_computer_to_another(
    edgebench: Any, native_program: Any, tmp_path: Path
) -> None:
    built = edgebench("runners", "build", "native", "-o", "json")
    assert built.returncode == 0, built.stderr
    (row,) = json.loads(built.stdout)
    assert (row["program"], row["sha256"]) == ("edgebench-native", native_program.sha256)
    assert (row["target"], row["level"]) == (native_program.target, native_program.level)
    assert row["size_bytes"] == Path(row["path"]).stat().st_size
    told = edgebench("runners", "export", "native.zip", "--target", row["target"], "-o", "json")
    assert told.returncode == 0, told.stderr
    assert row["sha256"] in [one["sha256"] for one in json.loads(told.stdout)]
    another = {"EDGEBENCH_CACHE": str(tmp_path / "another computer's")}
    runner = listed(edgebench, another)
    assert runner["llama_native"]["why"] == "it is not built for this computer yet"
    assert runner["llama_native"]["install"] == "edgebench runners build native"
    taken = edgebench("runners", "import", "native.zip", "-o", "json", env=another)
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout) == json.loads(told.stdout)
    runner = listed(edgebench, another)
    assert runner["llama_native"]["available"]
    again = edgebench("runners", "build", "native", "-o", "json", env=another | {"PATH": ""})
    assert json.loads(again.stdout)[0]["sha256"] == row["sha256"]  # no compiler was asked
