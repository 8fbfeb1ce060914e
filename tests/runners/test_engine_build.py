import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from edgebench.core.errors import MissingDependency
from edgebench.runners import engine_build, engine_target
from edgebench.runners.engine_build import (
    build_step,
    ensure,
    explain,
    pinned_version,
    telling_line,
    wheel_key,
)
from edgebench.runners.engine_target import Target

VERSION = "0.0.1"
NAME = f"llama_cpp_python-{VERSION}"
WHEEL = f"{NAME}-py3-none-any.whl"
FILES = {
    "fake_llama.py": "made = True\n",
    f"{NAME}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {VERSION}\n",
    f"{NAME}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{NAME}.dist-info/RECORD": "",
}
BACKEND = f"""
import os, sys, time, zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    print("[1/2] c++ one.cpp", flush=True)
    print("cores:", os.environ["CMAKE_BUILD_PARALLEL_LEVEL"], flush=True)
    BODY
    print("[2/2] c++ two.cpp", flush=True)
    with zipfile.ZipFile(os.path.join(folder, "{WHEEL}"), "w") as wheel:
        for name, text in {FILES!r}.items():
            wheel.writestr(name, text)
    return "{WHEEL}"
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no network or engine, version 0.0.1 pinned, and a folder that pip installs into."""
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.setattr(engine_build, "pinned_version", lambda: VERSION)
    monkeypatch.setattr(engine_build, "_is_there", lambda: False)
    return tmp_path / "target"


def wheels(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "wheels" / wheel_key(VERSION)


def put_sdist(tmp_path: Path, body: str) -> None:
    file = tmp_path / "cache" / "sdists" / f"{NAME}.tar.gz"
    file.parent.mkdir(parents=True)
    info = f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {VERSION}\n"
    files = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND.replace("BODY", body), "PKG-INFO": info}
    with tarfile.open(file, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{NAME}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))


def put_wheel(folder: Path, **module: str) -> None:
    """A wheel, with modules of the package `llama_cpp` in it, if any."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in {
            **FILES,
            **{f"llama_cpp/{name}.py": text for name, text in module.items()},
        }.items():
            wheel.writestr(name, text)


def put_nvcc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CUDA compiler that finds every header, in the place of any that is here."""
    nvcc = folder / "nvcc"
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    return nvcc


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ends_soon(pid: int) -> bool:
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def no_progress(_done: int, _total: int) -> None:
    raise AssertionError("nothing was to be built")


def test_the_version_comes_from_edgebenchs_own_metadata() -> None:
    requirements = importlib.metadata.requires("edgebench") or []
    assert any(f"llama-cpp-python=={pinned_version()}" in line for line in requirements)


def test_nothing_happens_when_the_pinned_version_is_there(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_installed", lambda version, _target: version == VERSION)
    said: list[str] = []
    assert ensure(said.append, no_progress) is None
    assert said == []
    assert not target.exists()


def test_kept_wheel_is_installed_without_a_network(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(wheels(tmp_path))
    monkeypatch.setenv("CC", "/nowhere/cc")  # and without a compiler
    said: list[str] = []
    assert ensure(said.append, no_progress) == wheels(tmp_path) / WHEEL
    assert (target / "fake_llama.py").exists()
    assert said == [f"installing {WHEEL}"]


def test_prebuilt_wheel_is_taken_and_kept(target: Path, tmp_path: Path) -> None:
    put_wheel(tmp_path / "index")
    (tmp_path / "index" / WHEEL).rename(tmp_path / WHEEL)
    assert ensure(print, no_progress) == wheels(tmp_path) / WHEEL
    assert (target / "fake_llama.py").exists()


def test_build_made_to_order_takes_no_prebuilt_wheel(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=OFF")
    put_wheel(tmp_path / "index")
    (tmp_path / "index" / WHEEL).rename(tmp_path / WHEEL)
    put_sdist(tmp_path, "pass")
    steps: list[tuple[int, int]] = []
    ensure(print, lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]


def test_build_reports_its_steps_and_keeps_wheel_and_log(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "7")
    put_sdist(tmp_path, "pass")
    said: list[str] = []
    steps: list[tuple[int, int]] = []
    assert ensure(said.append, lambda *step: steps.append(step)) == wheels(tmp_path) / WHEEL
    assert steps == [(1, 2), (2, 2)]
    assert (target / "fake_llama.py").exists()
    assert "6 to 15 minutes" in said[0]
    assert "cores: 7" in (wheels(tmp_path) / "build.log").read_text()
    assert names(wheels(tmp_path)) == [".wheel.lock", "build.log", WHEEL]


def test_failed_build_leaves_no_wheel_and_names_reason_and_log(target: Path, tmp_path: Path) -> None:
    put_sdist(tmp_path, "print('one.cpp:7:1: error: no SIMD here', flush=True); sys.exit(1)")
    with pytest.raises(MissingDependency, match=r"did not build: one\.cpp:7:1: error: no SIMD") as caught:
        ensure(print, lambda *_step: None)
    log = wheels(tmp_path) / "build.log"
    assert caught.value.hint == f"the whole log: {log}"
    assert "[1/2]" in log.read_text()
    assert names(wheels(tmp_path)) == [".wheel.lock", "build.log"]
    assert not target.exists()


def test_interrupted_build_ends_its_processes_and_leaves_no_wheel(target: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    put_sdist(tmp_path, f"Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)")

    def interrupt(_done: int, _total: int) -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(print, interrupt)
    assert ends_soon(int(pid.read_text()))
    assert names(wheels(tmp_path)) == [".wheel.lock", "build.log"]


def test_leavings_of_a_killed_build_are_cleared(target: Path, tmp_path: Path) -> None:
    put_wheel(wheels(tmp_path))
    (wheels(tmp_path) / ".part-old" / "tmp").mkdir(parents=True)
    ensure(print, no_progress)
    assert names(wheels(tmp_path)) == [".wheel.lock", WHEEL]


def test_without_compilers_the_message_names_them_and_the_remedy(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependency, match=r"without a C compiler and a C\+\+ compiler") as caught:
        ensure(print, no_progress)
    assert caught.value.hint in {"apt install g++", "xcode-select --install"}


def test_build_for_a_gpu_gets_the_targets_arguments_and_a_place_of_its_own(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc = put_nvcc(tmp_path, monkeypatch)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=OFF")
    put_sdist(tmp_path, "print('told:', os.environ['CMAKE_ARGS'], os.environ['CUDACXX'], flush=True)")
    wheel = ensure(print, lambda *_step: None, Target.CUDA)
    assert wheel is not None
    log = (wheel.parent / "build.log").read_text()
    assert f"told: -DGGML_NATIVE=OFF -DGGML_CUDA=ON {nvcc}" in log
    assert wheel.parent.name == wheel_key(VERSION, Target.CUDA) != wheel_key(VERSION)
    assert (target / "fake_llama.py").exists()


def test_without_the_toolkit_nothing_is_fetched_or_built(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDACXX", str(tmp_path / "no-nvcc"))
    with pytest.raises(MissingDependency, match=r"without CUDA's compiler nvcc .* for cuda") as caught:
        ensure(print, no_progress, Target.CUDA)
    assert caught.value.hint == "apt install nvidia-cuda-toolkit"
    assert not target.exists()


def test_wheel_that_does_not_load_never_replaces_an_engine(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_is_there", lambda: True)
    folder = tmp_path / "cache" / "wheels" / wheel_key(VERSION, Target.CUDA)
    put_wheel(folder, __init__="", llama_cpp="raise OSError('libcuda.so.1: cannot open shared object file')")
    with pytest.raises(MissingDependency, match=r"does not load here: .*libcuda\.so\.1") as caught:
        ensure(print, no_progress, Target.CUDA)
    assert "the engine that was installed stays" in (caught.value.hint or "")
    assert names(folder) == [".wheel.lock", WHEEL]
    assert not target.exists()


def test_wheel_that_holds_no_engine_is_not_taken_for_the_one_that_is_there(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_is_there", lambda: True)
    put_wheel(wheels(tmp_path))
    with pytest.raises(MissingDependency, match="does not load here"):
        ensure(print, no_progress)
    assert not target.exists()


def test_wheel_that_loads_replaces_the_engine(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_is_there", lambda: True)
    folder = tmp_path / "cache" / "wheels" / wheel_key(VERSION, Target.VULKAN)
    put_wheel(folder, __init__="", llama_cpp="def llama_backend_init(): pass")
    assert ensure(print, no_progress, Target.VULKAN) == folder / WHEEL
    assert (target / "llama_cpp" / "llama_cpp.py").exists()


def test_explanation_is_what_would_be_done_and_does_none_of_it(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvcc(tmp_path, monkeypatch)
    monkeypatch.setattr(engine_target, "cpu_flags", lambda: ["avx2"])
    told = explain(Target.CUDA)
    assert (told["possible"], told["missing"], told["cmake_args"]) == (True, {}, "-DGGML_CUDA=ON")
    assert told["found"]["CUDA's compiler nvcc"].endswith("nvcc 12.4")
    assert told["build_command"].startswith(f"CMAKE_ARGS=-DGGML_CUDA=ON {sys.executable} -m pip")
    assert told["kept_in"].endswith(wheel_key(VERSION, Target.CUDA))
    assert not Path(told["kept_in"]).exists()
    put_wheel(Path(told["kept_in"]))
    kept = explain(Target.CUDA)
    assert (kept["todo"], kept["build_command"]) == ("install the wheel that is kept", None)
    monkeypatch.setattr(engine_build, "_installed", lambda _version, _target=None: True)
    there = explain(Target.CUDA)
    assert (there["todo"], there["install_command"]) == ("nothing: it is installed", None)


def test_without_network_and_source_the_error_is_clear(target: Path) -> None:
    with pytest.raises(MissingDependency, match=r"source of llama-cpp-python 0\.0\.1 can't be fetched"):
        ensure(print, no_progress)


def test_key_changes_with_everything_a_native_build_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(flags: str, version: str = VERSION, cmake_args: str = "") -> str:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
        monkeypatch.setattr("edgebench.core.cpu.CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setenv("CMAKE_ARGS", cmake_args)
        return wheel_key(version)

    plain = key("flags\t\t: avx2 fma")
    assert key("flags\t\t: fma avx2") == plain
    others = [
        key("flags\t\t: avx2 fma avx512f"),
        key("Features\t: fp asimd asimddp"),
        key("flags\t\t: avx2 fma", version="0.0.2"),
        key("flags\t\t: avx2 fma", cmake_args="-DGGML_NATIVE=OFF"),
    ]
    assert len({plain, *others}) == 5


def test_key_needs_no_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebench.core.cpu.CPUINFO", tmp_path / "absent")
    monkeypatch.setattr("platform.processor", lambda: "arm")
    arm = wheel_key(VERSION)
    monkeypatch.setattr("platform.processor", lambda: "x86")
    assert wheel_key(VERSION) != arm


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("[1/193] /usr/bin/g++ -DGGML_BUILD", (1, 193)),
        ("  [193/193] /usr/bin/cmake -E cmake_symlink_library", (193, 193)),
        ("g++ -o a[1/2]", None),
        ("[ 12%] Building", None),
        ("", None),
    ],
)
def test_ninjas_steps_are_read(line: str, step: tuple[int, int] | None) -> None:
    assert build_step(line) == step


def test_telling_line_is_the_compilers_and_not_pips() -> None:
    log = """
      a.cpp:1:1: error: first
      b.cpp:2:2: fatal error: omp.h: No such file or directory
      ninja: build stopped: subcommand failed.
      error: subprocess-exited-with-error
      ERROR: Failed building wheel for llama_cpp_python
    ERROR: Failed to build llama_cpp_python"""
    assert telling_line(log.splitlines()) == "b.cpp:2:2: fatal error: omp.h: No such file or directory"
    cmake = ["CMake Error at CMakeLists.txt:18 (project):", "", "  No CMAKE_CXX_COMPILER could be found."]
    assert telling_line(cmake).endswith("No CMAKE_CXX_COMPILER could be found.")
    assert telling_line(["the last words"]) == "the last words"
    assert telling_line([]) == "the log is empty"


def test_as_a_module_it_tells_a_failure_in_two_lines(tmp_path: Path) -> None:
    environment = {**os.environ, "EDGEBENCH_CACHE": str(tmp_path / "file" / "cache")}
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "edgebench.runners.engine_build"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if engine_build._installed(pinned_version()):
        assert (done.returncode, done.stderr) == (0, "llama-cpp-python is already installed\n")
    else:
        assert done.returncode == 1
        assert done.stderr.splitlines()[0].startswith("error: the cache folder")
        assert done.stderr.splitlines()[1].startswith("hint: ")
