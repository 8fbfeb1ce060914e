"""What llama.cpp can be built for here, and what an installed build computes on."""

from pathlib import Path

import pytest

from edgebench.runners import engine_target
from edgebench.runners.engine_build import wheel_key
from edgebench.runners.engine_target import (
    Target,
    cmake_args,
    toolchain,
    toolchain_variables,
    without_amx,
)
from edgebench.runners.llama_backends import backends_in, installed_backends


def put_program(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but `cat` and `grep`, which pretend compilers are made of."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "grep"):
        found = next(p for p in (Path("/bin", name), Path("/usr/bin", name)) if p.exists())
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(engine_target, "CUDA_FOLDER", tmp_path / "cuda")
    for name in ("CC", "CXX", "CUDACXX", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    return folder


def missing(target: Target) -> dict[str, str]:
    return {piece.name: piece.install for piece in toolchain(target) if piece.found is None}


def test_a_bare_system_lacks_everything_and_is_told_the_line(bare: Path) -> None:
    compilers = {"a C compiler", "a C++ compiler"}
    assert set(missing(Target.CPU)) == compilers
    assert missing(Target.CUDA)["CUDA's compiler nvcc"] == "apt install nvidia-cuda-toolkit"
    assert missing(Target.VULKAN).keys() > compilers
    assert missing(Target.VULKAN)["SPIR-V's headers"] == "apt install libvulkan-dev glslc spirv-headers"


def test_pieces_that_are_there_are_named(bare: Path) -> None:
    for name in ("cc", "c++", "glslc"):
        put_program(bare, name, "exit 0")
    assert missing(Target.CPU) == missing(Target.VULKAN) == {}
    found = {piece.name: piece.found for piece in toolchain(Target.VULKAN)}
    assert found["the shader compiler glslc"] == str(bare / "glslc")


def test_headers_are_looked_for_by_the_compiler_itself(bare: Path) -> None:
    for name in ("cc", "c++", "glslc"):
        put_program(bare, name, "! grep -q spirv")  # it reads the source, as with `-E -`
    assert set(missing(Target.VULKAN)) == {"SPIR-V's headers"}


def test_nvidias_own_toolkit_is_completed_by_its_own_package(bare: Path) -> None:
    put_program(bare, "cc", "exit 0")
    put_program(bare, "c++", "exit 0")
    release = 'echo "Cuda compilation tools, release 13.0, V13.0.88"'
    put_program(bare, "nvcc", f'[ "$1" = --version ] && {release} || ! grep -q cublas')
    assert missing(Target.CUDA) == {"cuBLAS headers": "apt install cuda-toolkit-13-0"}
    assert toolchain_variables(Target.CUDA) == {"CUDACXX": str(bare / "nvcc")}
    assert toolchain_variables(Target.VULKAN) == toolchain_variables(None) == {}


def test_nvcc_is_found_where_its_installer_puts_it(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir()
    put_program(tmp_path / "cuda", "nvcc", "exit 0")
    assert toolchain_variables(Target.CUDA) == {"CUDACXX": str(tmp_path / "cuda/nvcc")}


@pytest.mark.parametrize(("system", "n_missing"), [("Darwin", 0), ("Linux", 1)])
def test_metal_is_apples(monkeypatch: pytest.MonkeyPatch, bare: Path, system: str, n_missing: int) -> None:
    put_program(bare, "cc", "exit 0")
    put_program(bare, "c++", "exit 0")
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert len(missing(Target.METAL)) == n_missing


def test_targets_add_to_what_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    assert (cmake_args(None), cmake_args(Target.CPU)) == ("", "")
    assert cmake_args(Target.VULKAN) == "-DGGML_VULKAN=ON"
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=OFF ")
    assert cmake_args(Target.METAL) == "-DGGML_NATIVE=OFF -DGGML_METAL=ON"
    assert cmake_args(Target.CPU) == cmake_args(None) == "-DGGML_NATIVE=OFF"


def test_the_cpus_wheels_keep_their_key() -> None:
    keys = {target: wheel_key("0.3.36", target) for target in Target}
    assert keys[Target.CPU] == wheel_key("0.3.36")
    assert len(set(keys.values())) == len(Target)


def test_backends_are_read_off_the_libraries(tmp_path: Path) -> None:
    assert backends_in(tmp_path) == frozenset()
    (tmp_path / "lib").mkdir()
    for name in ("libggml.so", "libggml-base.so", "libggml-cpu.so", "libggml-cuda.so.0", "libggml-vulkan.so"):
        (tmp_path / "lib" / name).touch()
    (tmp_path / "lib" / "libggml-metal.dylib").touch()
    assert backends_in(tmp_path) == {"cpu", "vulkan", "metal"}


@pytest.mark.engine
def test_the_installed_engine_tells_its_backends() -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: edgebench runners build")
    assert "cpu" in installed_backends()


@pytest.mark.parametrize(
    ("backends", "met"),
    [
        ({"cpu"}, {Target.CPU}),
        ({"cpu", "cuda"}, {Target.CUDA}),
        ({"cpu", "cuda", "vulkan"}, {Target.CUDA, Target.VULKAN}),
        ({"cpu", "metal", "blas"}, {Target.CPU, Target.METAL}),  # every build on macOS
        (set(), set()),
    ],
)
def test_a_build_meets_the_targets_it_has(backends: set[str], met: set[Target]) -> None:
    assert {target for target in Target if target.is_met_by(frozenset(backends))} == met


def test_programs_that_fail_or_are_none_are_absent(bare: Path) -> None:
    (bare / "nvcc").write_text("no program")
    (bare / "nvcc").chmod(0o755)
    assert "CUDA's compiler nvcc" in missing(Target.CUDA)


def test_a_processor_with_tiles_gets_a_build_that_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built with them dies at its first evaluation; other processors' wheels keep their keys."""
    monkeypatch.setattr(engine_target, "cpu_flags", lambda: ["avx2", "fma"])
    assert without_amx({"CXXFLAGS": "-g"}) == {}
    plain = wheel_key("0.3.36")
    monkeypatch.setattr(engine_target, "cpu_flags", lambda: ["amx_int8", "amx_tile", "avx2"])
    flags = without_amx({"CXXFLAGS": "-g"})
    assert flags["CXXFLAGS"].split() == ["-g", *flags["CFLAGS"].split()]
    assert "-mno-amx-tile" in flags["CFLAGS"].split()
    assert wheel_key("0.3.36") != plain
