"""Native programs: what they are built for and with, kept by what went into them, handed on in zips.

The compiler of the quick tests is a script that copies a program made up here; `native_program` is real.
"""

import io
import itertools
import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import EdgebenchError, MissingDependency, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.tool_env import Tool, pinned
from edgebench.runners import native_build, native_share, native_target
from edgebench.runners.llama_native import LlamaNative
from edgebench.runners.native_build import LLAMA_BENCH, NATIVE, Built, build, build_key, built, kept
from edgebench.runners.native_share import export_builds, import_builds
from edgebench.runners.native_target import (
    LEVELS,
    TARGETS,
    Kit,
    Toolchain,
    abi_of,
    choose_toolchain,
    find_kit,
    find_level,
    level_for,
    levels,
    missing_toolchain,
    program_fault,
)

VERSION = "0.0.1"
GCC = "gcc (Made up 12.1) 12.1"
X86, ARM = "linux-x86_64", "android-arm64"
V2 = "x86-64-v2"
MACHINE = {"arm64": 183, "x86_64": 62}
# A dotprod level has to be refused on the first, and taken on the second.
A53 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
A76 = f"{A53} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
X3 = f"{A76} sve sve2 i8mm bf16"
HASWELL = "fpu sse4_2 avx avx2 bmi1 bmi2 f16c fma"
SKYLAKE_X = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"


def elf(machine: int = 62, *, kinds: tuple[int, ...] = (1,), word: int = 2, what: int = 2) -> bytes:
    """A program's headers: that much is looked at."""
    ident = struct.pack("<4sBBBB8x", b"\x7fELF", word, 1, 1, 0)
    head = ident + struct.pack("<HHIQQQI", what, machine, 1, 0, 64, 0, 0)
    head += struct.pack("<HHHHHH", 64, 56, len(kinds), 0, 0, 0)
    return head + b"".join(struct.pack("<I52x", kind) for kind in kinds)


# What is built for, and with.


@pytest.mark.parametrize(
    ("target", "features", "level"),
    [
        (ARM, A53, "armv8-a"),
        (ARM, A76, "armv8.2-a+dotprod+fp16"),
        (ARM, X3, "armv8.2-a+dotprod+fp16+i8mm"),
        (ARM, f"{A53} asimddp", "armv8-a"),  # dot products without fp16: the level needs both
        ("linux-arm64", X3, "armv8.2-a+dotprod+fp16+i8mm"),
        (X86, "fpu sse4_2", V2),
        (X86, HASWELL, "x86-64-v3"),
        (X86, HASWELL.replace("bmi2 ", ""), V2),
        (X86, SKYLAKE_X, "x86-64-v4"),
        (X86, SKYLAKE_X.replace("avx512vl", ""), "x86-64-v3"),
        ("android-x86_64", "", V2),
    ],
)
def test_the_best_level_a_processor_runs(target: str, features: str, level: str) -> None:
    assert level_for(target, features.split()) == level


@pytest.mark.parametrize("target", TARGETS)
def test_levels_go_from_the_most_demanding_to_one_that_runs_everywhere(target: str) -> None:
    family = LEVELS[abi_of(target)]
    assert levels(target) == tuple(level.name for level in family)
    assert all(above.needs > below.needs for above, below in itertools.pairwise(family))
    assert family[-1].needs == frozenset()
    assert len({json.dumps(dict(level.cmake)) for level in family}) == len(family)


@pytest.mark.parametrize("ask", [abi_of, levels, lambda name: level_for(name, [])])
def test_unknown_targets_get_the_nearest_names(ask: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match="unknown target 'android-arm'") as caught:
        ask("android-arm")
    assert "android-arm64" in (caught.value.hint or "")


def test_unknown_levels_and_toolchains_get_the_nearest_names() -> None:
    with pytest.raises(UsageError) as level:
        find_level(X86, "x86-64-v5")
    with pytest.raises(UsageError) as toolchain:
        choose_toolchain("arm64", "zigg")
    assert "x86-64-v4" in (level.value.hint or "")
    assert (toolchain.value.message, toolchain.value.hint) == (
        "unknown toolchain 'zigg'",
        "did you mean zig?",
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (elf(), None),
        (elf(what=3), None),  # static and relocatable
        (elf(183), "is no program for x86_64"),
        (elf(word=1), "is no program for x86_64"),
        (elf(what=1), "is no program for x86_64"),  # an object
        (elf(kinds=(1, 3)), "is not static"),
        (elf(kinds=(6,)), "nothing of it would be loaded"),
        (elf(kinds=()), "its headers lie outside it"),
        (elf(kinds=(1, 1))[:-1], "its headers lie outside it"),
        (elf()[:40] + b"\xff" * 8 + elf()[48:], None),  # sections are for debuggers
        (elf()[:32] + b"\xff" * 8 + elf()[40:], "its headers lie outside it"),
        (elf()[:63], "is no program"),
        (b"", "is no program"),
        (b"#!/bin/sh\n" + b"x" * 100, "is no program"),
    ],
)
def test_programs_are_looked_at(content: bytes, fault: str | None) -> None:
    found = program_fault(content, "x86_64")
    assert found is None if fault is None else fault in (found or "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' programs are no ELF")
def test_a_real_program_with_libraries_is_not_static() -> None:
    here = native_target.target_here()
    if here is None:
        pytest.skip("native programs are not built for this computer")
    content = Path(sys.executable).resolve().read_bytes()
    assert "is not static" in (program_fault(content, abi_of(here)) or "")


# A toolchain that is made up.


class Workshop:
    """A cache, a compiler, a cmake: scripts, which make programs that are headers only."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.cache = folder / "a cache"
        self.log = folder / "log"
        self._monkeypatch = monkeypatch
        self.bin.mkdir()
        (folder / "tree").mkdir()
        self.script("ninja", "")
        self.compiler(GCC)
        self.makes(elf())
        monkeypatch.setenv("EDGEBENCH_CACHE", str(self.cache))
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin")
        monkeypatch.setenv("CC", "gcc")
        monkeypatch.setenv("CXX", "g++")
        monkeypatch.setattr(native_target, "target_here", lambda: X86)
        monkeypatch.setattr(native_target, "_is_here", lambda abi: abi == "x86_64")
        monkeypatch.setattr(native_build, "target_here", lambda: X86)
        monkeypatch.setattr(native_build, "cpu_flags", list)
        monkeypatch.setattr(native_build, "source_tree", lambda _say: folder / "tree")
        for module in (native_build, native_share):
            monkeypatch.setattr(module, "installed_version", lambda: VERSION)

    def script(self, name: str, body: str) -> None:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)

    def compiler(self, version: str, prefix: str = "") -> None:
        for name in ("gcc", "g++"):
            self.script(prefix + name, f'echo "{version}"')

    def makes(self, content: bytes, before: str = "") -> None:
        """Let the build make this, after a command."""
        (self.folder / "made").write_bytes(content)
        self.script(
            "cmake",
            f"""
            echo "$*" >>{self.log}; env >{self.log}.env
            if [ "$1" != --build ]; then exit 0; fi
            folder=$2; shift 3
            echo "[1/2] CXX one.o"; {before or ":"}
            for name; do mkdir -p "$folder/sub"; cp {self.folder}/made "$folder/sub/$name"; done
            echo "[2/2] Linking"
            """,
        )

    def asked(self) -> list[str]:
        """What cmake was called with, call by call."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def places(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "native").glob("x86_64-*"))


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def test_what_is_built_is_kept_by_its_key_and_told_whole(workshop: Workshop) -> None:
    said: list[str] = []
    steps: list[tuple[int, int]] = []
    made = build(X86, V2, say=said.append, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    assert said == ["building edgebench-native for x86_64, x86-64-v2, with gcc: some minutes, once"]
    assert made.path == workshop.cache / "native" / f"x86_64-{V2}-{made.key}"
    assert made.files[NATIVE].read_bytes() == elf()
    assert os.access(made.files[NATIVE], os.X_OK)
    assert json.loads((made.path / "build.json").read_text()) == {
        "abi": "x86_64",
        "level": V2,
        "key": made.key,
        "toolchain": "gcc",
        "compiler": GCC,
        "llama_cpp_python": VERSION,
        "source": native_build.source_key(),
        "sha256": {NATIVE: made.sha256},
    }
    configured, compiled = workshop.asked()
    assert "-DGGML_SSE42=ON" in configured
    assert "-DGGML_AVX=OFF" in configured
    assert compiled.endswith(f"--target {NATIVE}")


def test_what_is_there_is_not_built_again(workshop: Workshop) -> None:
    first = build(X86, V2)
    workshop.script("cmake", "exit 1")
    assert build(X86, V2) == built(X86, V2) == first
    assert build("android-x86_64", V2).files == first.files  # static: Android's and Linux's are the same
    assert build(X86, V2, toolchain="gcc") == first
    assert built(X86, "x86-64-v3") is None
    assert built(ARM, "armv8-a") is None


def test_another_program_joins_the_first(workshop: Workshop) -> None:
    build(X86, V2)
    assert built(X86, V2, [LLAMA_BENCH]) is None
    both = build(X86, V2, programs=(NATIVE, LLAMA_BENCH))
    assert workshop.asked()[-1].endswith(f"--target {LLAMA_BENCH}")  # the first is not made again
    assert set(both.files) == {NATIVE, LLAMA_BENCH}
    assert set(json.loads((both.path / "build.json").read_text())["sha256"]) == set(both.files)
    assert workshop.places() == [both.path.name]


def test_this_computers_own_is_found_again_by_its_runner(workshop: Workshop) -> None:
    assert native_build.built_here() is None
    made = native_build.build_here(lambda _line: None)
    assert (made.target, made.level) == (X86, V2)
    assert native_build.built_here() == made


def test_the_key_follows_all_that_shapes_a_program_and_no_folder(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(**change: Any) -> str:
        kit = find_kit("x86_64", Toolchain.GCC, tmp_path / "wrappers")
        told = {name: getattr(kit, name) for name in ("toolchain", "version", "definitions")}
        return build_key(Kit(**{**told, **change}), find_level(X86, V2))

    first = key()
    assert len(first) == 16
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "another"))
    assert key() == first
    assert key(definitions={**find_kit("x86_64", Toolchain.GCC, tmp_path).definitions, "A": "/b/c"}) == first
    assert build_key(find_kit("x86_64", Toolchain.GCC, tmp_path), find_level(X86, "x86-64-v3")) != first
    others = [key(version="gcc 13"), key(toolchain=Toolchain.ZIG), key(definitions={"CMAKE_C_COMPILER": "x"})]
    monkeypatch.setattr(native_build, "installed_version", lambda: "0.0.2")
    others.append(key())
    monkeypatch.undo()
    source = tmp_path / "edgebench_native.cpp"
    source.write_text(native_build.SOURCE.read_text() + "\n")
    monkeypatch.setattr(native_build, "SOURCE", source)
    monkeypatch.setattr(native_build, "installed_version", lambda: VERSION)
    others.append(native_build.source_key())
    header = tmp_path / "edgebench_job.hpp"
    header.write_text(native_build.HEADER.read_text() + "\n")
    monkeypatch.setattr(native_build, "HEADER", header)
    others.append(native_build.source_key())
    assert len({first, *others}) == 1 + len(others)


def test_another_source_makes_another_build(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(X86, V2)
    source = workshop.folder / "edgebench_native.cpp"
    source.write_text("int main() {}\n")
    monkeypatch.setattr(native_build, "SOURCE", source)
    assert built(X86, V2) is None
    second = build(X86, V2)
    assert second.key != first.key
    work = workshop.cache / "native" / "work-x86_64-gcc"
    assert (work / "project" / source.name).read_text() == "int main() {}\n"
    header = native_build.HEADER
    assert (work / "project" / header.name).read_text() == header.read_text()
    assert workshop.places() == sorted((first.path.name, second.path.name))


def test_objects_of_another_compiler_are_thrown_away_and_others_kept(workshop: Workshop) -> None:
    build(X86, V2)
    trace = workshop.cache / "native" / "work-x86_64-gcc" / "build" / "one.o"
    trace.touch()
    build(X86, "x86-64-v3")
    assert trace.exists()  # only the kernels differ
    workshop.compiler("gcc (Made up 12.1) 13.0")
    build(X86, V2, toolchain="gcc")
    assert not trace.exists()


def test_nothing_of_the_users_slips_in(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_TOOLCHAIN_FILE", "/nowhere/mine.cmake")
    monkeypatch.setenv("CMAKE_GENERATOR", "Unix Makefiles")
    build(X86, V2)
    told = Path(f"{workshop.log}.env").read_text().splitlines()
    assert not [line for line in told if line.startswith(("CMAKE_TOOLCHAIN_FILE=", "CMAKE_GENERATOR="))]
    assert f"GIT_DIR={os.devnull}" in told  # the commit of a repository that the cache lies in
    assert "SOURCE_DATE_EPOCH=0" in told
    # Its own cmake flags leave no place for the variables CFLAGS, CXXFLAGS and LDFLAGS.
    given = {word.partition("=")[0] for word in workshop.asked()[0].split() if word.startswith("-D")}
    assert {"-DCMAKE_C_FLAGS", "-DCMAKE_CXX_FLAGS", "-DCMAKE_EXE_LINKER_FLAGS"} <= given


# What goes wrong.


def test_a_failure_names_reason_and_log_and_leaves_no_build(workshop: Workshop) -> None:
    workshop.makes(elf(), before='echo "one.cpp:7:1: error: no such thing"; exit 1')
    with pytest.raises(
        MissingDependency, match=r"did not build: one\.cpp:7:1: error: no such thing"
    ) as caught:
        build(X86, V2)
    log = Path((caught.value.hint or "").removeprefix("the whole log: "))
    assert "[1/2] CXX one.o" in log.read_text()
    assert workshop.places() == []
    assert built(X86, V2) is None


def test_an_interrupted_build_leaves_nothing_and_ends_its_compilers(workshop: Workshop) -> None:
    pid = workshop.folder / "pid"
    workshop.makes(elf(), before=f"echo $$ >{pid}; sleep 60")

    def interrupt(_done: int, _total: int) -> None:
        while not (pid.exists() and pid.read_text().strip()):
            pass
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(X86, V2, progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert workshop.places() == []
    workshop.makes(elf())
    assert build(X86, V2).files.keys() == {NATIVE}


def test_half_a_build_is_none(workshop: Workshop) -> None:
    made = build(X86, V2)
    made.files[NATIVE].write_bytes(b"half")
    (made.path / "build.json").unlink()  # it is written last: a process was killed before that
    assert built(X86, V2) is None
    assert build(X86, V2).files[NATIVE].read_bytes() == elf()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 1}', "\x00"])
def test_a_damaged_description_is_passed_over(workshop: Workshop, text: str) -> None:
    made = build(X86, V2)
    (made.path / "build.json").write_text(text)
    assert built(X86, V2) is None


@pytest.mark.parametrize(
    ("content", "why"), [(elf(183), "is no program for x86_64"), (elf(kinds=(1, 3)), "is not static")]
)
def test_a_toolchain_that_makes_something_else_is_not_believed(
    workshop: Workshop, content: bytes, why: str
) -> None:
    workshop.makes(content)
    with pytest.raises(MissingDependency, match=f"edgebench-native was built with .* and {why}"):
        build(X86, V2)
    assert workshop.places() == []


def test_a_missing_toolchain_is_one_line_and_its_remedy(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(workshop.bin))
    for name in ("ANDROID_NDK_HOME", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    told = {}
    for toolchain in ("gcc", "ndk"):
        with pytest.raises(MissingDependency) as caught:
            build(ARM, "armv8-a", toolchain=toolchain)
        told[toolchain] = caught.value
        chosen = Toolchain(toolchain)
        assert missing_toolchain("arm64", chosen) == {caught.value.message: caught.value.hint}
    assert told["gcc"].message == "there is no gcc for arm64 here"
    assert told["gcc"].hint == "apt install g++-aarch64-linux-gnu; or --toolchain zig, which pip fetches"
    assert told["ndk"].message.startswith("there is no Android NDK: $ANDROID_NDK_HOME names no folder")
    assert missing_toolchain("x86_64", Toolchain.GCC) == {}
    assert missing_toolchain("arm64", Toolchain.ZIG) == {}  # it is fetched
    (workshop.bin / "g++").unlink()
    monkeypatch.setattr(native_target, "find_compiler", lambda _kind: None)
    with pytest.raises(MissingDependency) as caught:
        build(X86, V2, toolchain="gcc")
    assert (caught.value.hint or "").startswith("apt install g++;")
    assert workshop.asked() == []


def test_gcc_is_taken_where_it_is_and_zig_elsewhere(workshop: Workshop) -> None:
    path = os.environ["PATH"]
    os.environ["PATH"] = str(workshop.bin)  # whatever this computer has besides
    try:
        assert choose_toolchain("x86_64", None) is Toolchain.GCC
        assert choose_toolchain("arm64", None) is Toolchain.ZIG
        workshop.compiler(GCC, prefix="aarch64-linux-gnu-")
        assert choose_toolchain("arm64", None) is Toolchain.GCC
        assert choose_toolchain("arm64", "ndk") is Toolchain.NDK
    finally:
        os.environ["PATH"] = path


def test_the_ndk_brings_a_toolchain_file_and_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "build" / "cmake" / "android.toolchain.cmake"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "source.properties").write_text("Pkg.Revision = 27.1\n")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    kit = find_kit("arm64", Toolchain.NDK, tmp_path)
    assert kit.definitions["CMAKE_TOOLCHAIN_FILE"] == str(file)
    assert kit.definitions["ANDROID_ABI"] == "arm64-v8a"
    assert "27.1" in kit.version
    # With these it would look for Linux's compilers, and not for Android's.
    assert not {"CMAKE_SYSTEM_NAME", "CMAKE_C_COMPILER", "CMAKE_CXX_COMPILER"} & kit.definitions.keys()


# zig, which spells processors in its own way.


@pytest.fixture
def zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`zig(name, *words)`: what the wrapper of that name gives zig, word by word; zig is a script."""
    python = tmp_path / "an environment" / "python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -S ]; then exec {sys.executable} "$@"; fi\n'
        'echo "$ZIG_GLOBAL_CACHE_DIR"; for word; do echo "$word"; done\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(native_target, "find_tool", lambda name: Tool(name=name, python=python))
    wrappers = tmp_path / "the cache" / "work-arm64-zig" / "bin"

    def call(name: str, *words: str) -> list[str]:
        kit = find_kit("arm64", Toolchain.ZIG, wrappers)
        assert str(wrappers / name) in kit.definitions.values()
        done = subprocess.run([str(wrappers / name), *words], capture_output=True, text=True, check=True)
        kept_in, *rest = done.stdout.splitlines()
        assert kept_in == str(tmp_path / "the cache" / "zig")
        return rest

    return call


@pytest.mark.parametrize(
    ("march", "mcpu"),
    [
        ("armv8-a", "generic+v8a"),
        ("armv8.2-a+dotprod+fp16", "generic+v8_2a+dotprod+fullfp16"),
        ("armv8.2-a+dotprod+fp16+i8mm", "generic+v8_2a+dotprod+fullfp16+i8mm"),
    ],
)
def test_zig_gets_processors_as_it_spells_them(zig: Callable[..., list[str]], march: str, mcpu: str) -> None:
    start = ["-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    assert zig("zig-cc", f"-march={march}", "-c", "a b.c") == [*start, f"-mcpu={mcpu}", "-c", "a b.c"]
    assert find_level(ARM, march).cmake == {"GGML_CPU_ARM_ARCH": march}  # no level is left out here


def test_zigs_other_wrappers_and_words_pass_as_they_are(zig: Callable[..., list[str]]) -> None:
    assert zig("zig-c++", "-O3", 'a"b') == [
        "-m",
        "ziglang",
        "c++",
        "-target",
        "aarch64-linux-musl",
        "-O3",
        'a"b',
    ]
    assert zig("zig-ar", "qc", "x.a") == ["-m", "ziglang", "ar", "qc", "x.a"]
    assert zig("zig-ranlib", "x.a") == ["-m", "ziglang", "ranlib", "x.a"]


def test_zigs_key_does_not_follow_its_folders(
    zig: Callable[..., list[str]], tmp_path: Path, workshop: Workshop
) -> None:
    keys = {
        build_key(find_kit("arm64", Toolchain.ZIG, tmp_path / name / "bin"), find_level(ARM, "armv8-a"))
        for name in ("one", "two")
    }
    assert len(keys) == 1
    assert find_kit("arm64", Toolchain.ZIG, tmp_path / "one").version == f"zig {pinned('native', 'ziglang')}"


# Handed on.


def rewrite(file: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """A zip with other files in it."""
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file


def retold(file: Path, **change: Any) -> Path:
    """A zip whose build.json says something else."""

    def say(files: dict[str, bytes]) -> None:
        (name,) = (name for name in files if name.endswith("build.json"))
        files[name] = json.dumps({**json.loads(files[name]), **change}).encode()

    return rewrite(file, say)


@pytest.fixture
def exported(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip of one build, in front of an empty cache."""
    file = workshop.folder / "native.zip"
    build(X86, V2)
    export_builds(file)
    monkeypatch.setenv("EDGEBENCH_CACHE", str(workshop.folder / "empty"))
    return file


def nothing_came(workshop: Workshop) -> bool:
    return [p for p in (workshop.folder / "empty").rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_builds_travel_in_a_zip_and_are_taken_as_if_built(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(X86, V2, programs=(NATIVE, LLAMA_BENCH))
    build(X86, "x86-64-v3")
    file = workshop.folder / "native.zip"
    told = export_builds(file)
    assert [(one.level, sorted(one.sha256)) for one in told] == [
        (V2, [NATIVE, LLAMA_BENCH]),
        ("x86-64-v3", [NATIVE]),
    ]
    before = file.read_bytes()
    export_builds(file)
    assert file.read_bytes() == before  # the same builds, the same bytes
    monkeypatch.setenv("EDGEBENCH_CACHE", str(workshop.folder / "empty"))
    workshop.script("cmake", "exit 1")
    assert import_builds(file) == told
    again = build(X86, V2, programs=(NATIVE, LLAMA_BENCH))
    assert again.path.parent == workshop.folder / "empty" / "native"
    assert (again.key, again.sha256) == (first.key, first.sha256)
    assert all(os.access(program, os.X_OK) for program in again.files.values())
    assert json.loads((again.path / "build.json").read_text())["imported"] is True
    assert import_builds(file) == told  # a second time changes nothing
    assert list(again.path.parent.glob(".part*")) == []


def test_an_import_joins_what_is_there(exported: Path, workshop: Workshop) -> None:
    build(X86, V2, programs=(LLAMA_BENCH,))
    import_builds(exported)
    found = built(X86, V2, (NATIVE, LLAMA_BENCH))
    assert found is not None
    assert set(json.loads((found.path / "build.json").read_text())["sha256"]) == {NATIVE, LLAMA_BENCH}
    assert len(kept()) == 1


def test_only_what_is_asked_for_is_exported(workshop: Workshop) -> None:
    build(X86, V2)
    workshop.makes(elf(183))
    workshop.compiler(GCC, prefix="aarch64-linux-gnu-")
    build(ARM, "armv8-a")
    file = workshop.folder / "native.zip"
    assert [one.abi for one in export_builds(file)] == ["arm64", "x86_64"]
    assert [one.abi for one in export_builds(file, ["android-arm64"])] == ["arm64"]
    assert [one.abi for one in export_builds(file, ["linux-x86_64", "android-x86_64"])] == ["x86_64"]


def test_there_may_be_nothing_to_export(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workshop.folder / "native.zip"
    build(X86, V2)
    with pytest.raises(UsageError, match="nothing to export for android-arm64") as caught:
        export_builds(file, ["android-arm64"])
    assert caught.value.hint == "edgebench runners build --target android-arm64"
    monkeypatch.setattr(native_build, "installed_version", lambda: "0.0.2")  # what is there is of another
    with pytest.raises(UsageError, match="nothing to export"):
        export_builds(file)
    assert not file.exists()


def test_a_damaged_program_is_not_handed_on(workshop: Workshop) -> None:
    made = build(X86, V2)
    made.files[NATIVE].write_bytes(elf() + b"?")
    with pytest.raises(EdgebenchError, match="edgebench-native is damaged"):
        export_builds(workshop.folder / "native.zip")


def place(file: Path) -> str:
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()[0].split("/")[0]


@pytest.mark.parametrize(
    "name",
    [
        "../edgebench-native",
        "/etc/passwd",
        "{place}/../edgebench-native",
        "{place}/../../x",
        "../{place}/edgebench-native",
        "./edgebench-native",
        "..\\edgebench-native",
        "{place}\\edgebench-native",
        "{place}/",
        "{place}/sub/edgebench-native",
        "{place}/another-program",
        "edgebench-native",
        "build.json",
        ".hidden/build.json",
        "{place}/edgebench-native\n",
        "Ünicode/build.json",
        "C:/edgebench-native",
        "a" * 200 + "/build.json",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(exported: Path, workshop: Workshop, name: str) -> None:
    bad = name.format(place=place(exported))
    rewrite(exported, lambda files: files.update({bad: elf()}))
    with pytest.raises(UsageError, match=r"native\.zip is not imported: it holds .*, which is no part"):
        import_builds(exported)
    assert nothing_came(workshop)
    assert not (workshop.folder / "x").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"abi": "riscv"}, "names an unknown ABI"),
        ({"abi": ["x86_64"]}, "names an unknown ABI"),
        ({"level": "x86-64-v9"}, "names an unknown level"),
        ({"level": None}, "names an unknown level"),
        ({"level": "x86-64-v3"}, "is of another build than its folder says"),
        ({"key": "../../../../etc"}, "is of another build than its folder says"),
        ({"key": 7}, "is of another build than its folder says"),
        ({"toolchain": "cc"}, "names an unknown toolchain"),
        ({"sha256": {}}, "names no programs"),
        ({"sha256": {"sh": "0" * 64}}, "names no programs, or unknown ones"),
        ({"sha256": {NATIVE: "0"}}, "has a sha256 that is none"),
        ({"sha256": {NATIVE: "0" * 64}}, "is damaged: its sha256 is another one"),
        ({"sha256": {NATIVE: "0" * 64, LLAMA_BENCH: "0" * 64}}, "names other programs than there are"),
        ({"source": "0" * 12, "llama_cpp_python": "9.9"}, r"is built from another source \(9\.9\) than this"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    exported: Path, workshop: Workshop, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        import_builds(retold(exported, **change))
    assert "\n" not in caught.value.message
    assert nothing_came(workshop)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 60000, '"x"', "\xff"])
def test_a_description_that_is_none_is_refused(exported: Path, workshop: Workshop, text: str) -> None:
    name = f"{place(exported)}/build.json"
    with pytest.raises(UsageError, match=r"is no JSON|is no description"):
        import_builds(rewrite(exported, lambda files: files.update({name: text.encode("latin-1")})))
    assert nothing_came(workshop)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (elf(183), "is no program for x86_64"),
        (elf(kinds=(1, 3)), "is not static"),
        (b"#!/bin/sh\nrm -rf ~\n".ljust(100), "is no program"),
    ],
)
def test_a_program_of_another_kind_is_refused(
    exported: Path, workshop: Workshop, content: bytes, why: str
) -> None:
    program = workshop.folder / "program"
    program.write_bytes(content)
    name = f"{place(exported)}/{NATIVE}"
    rewrite(exported, lambda files: files.update({name: content}))
    with pytest.raises(UsageError, match=why):
        import_builds(retold(exported, sha256={NATIVE: sha256_file(program)}))
    assert nothing_came(workshop)


def test_one_bad_build_keeps_the_good_ones_out(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workshop.folder / "native.zip"
    build(X86, V2)
    bad = build(X86, "x86-64-v3")
    export_builds(file)
    name = f"{bad.path.name}/{NATIVE}"
    rewrite(file, lambda files: files.update({name: elf() + b"?"}))
    monkeypatch.setenv("EDGEBENCH_CACHE", str(workshop.folder / "empty"))
    with pytest.raises(UsageError, match="is damaged"):
        import_builds(file)
    assert nothing_came(workshop)


def test_missing_files_are_missed(exported: Path, workshop: Workshop) -> None:
    name = place(exported)
    whole = exported.read_bytes()
    with pytest.raises(UsageError, match=r"has no build\.json"):
        import_builds(rewrite(exported, lambda files: files.pop(f"{name}/build.json")))
    exported.write_bytes(whole)
    with pytest.raises(UsageError, match="names other programs than there are"):
        import_builds(rewrite(exported, lambda files: files.pop(f"{name}/{NATIVE}")))
    with pytest.raises(UsageError, match="it holds 0 files"):
        import_builds(rewrite(exported, lambda files: files.clear()))
    assert nothing_came(workshop)


def raw_zip(file: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return file


def entry(name: str, *, mode: int = 0o100644, packed: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = packed
    return info


def test_links_are_refused(exported: Path, workshop: Workshop) -> None:
    name = f"{place(exported)}/{NATIVE}"
    raw_zip(exported, (entry(name, mode=stat.S_IFLNK | 0o777), b"/etc/passwd"))
    with pytest.raises(UsageError, match="is a link"):
        import_builds(exported)
    assert nothing_came(workshop)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_stands_once(exported: Path, workshop: Workshop) -> None:
    name = f"{place(exported)}/{NATIVE}"
    raw_zip(exported, (entry(name), elf()), (entry(name), elf(183)))
    with pytest.raises(UsageError, match="twice"):
        import_builds(exported)
    assert nothing_came(workshop)


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_unpack_without_limit_are_refused(
    exported: Path, workshop: Workshop, packed: int
) -> None:
    raw_zip(exported, (entry(f"{place(exported)}/{NATIVE}", packed=packed), bytes(2**20)))
    with pytest.raises(UsageError, match="is packed in a way that no export packs"):
        import_builds(exported)
    assert nothing_came(workshop)


def test_a_bomb_is_refused_unread(exported: Path, workshop: Workshop) -> None:
    name = place(exported)
    raw_zip(exported, (entry(f"{name}/{NATIVE}"), bytes(65 * 2**20)))  # 64 KB of zip
    with pytest.raises(UsageError, match=f"would take more than {64 * 2**20} bytes"):
        import_builds(exported)
    raw_zip(exported, (entry(f"{name}/build.json"), bytes(2**17)))
    with pytest.raises(UsageError, match=f"would take more than {2**16} bytes"):
        import_builds(exported)
    many = [(entry(f"x{i}/{NATIVE}"), bytes(60 * 2**20)) for i in range(9)]
    raw_zip(exported, *many)
    with pytest.raises(UsageError, match=f"it would take more than {2**29} bytes"):
        import_builds(exported)
    raw_zip(exported, *((entry(f"x{i}/{NATIVE}"), b"") for i in range(65)))
    with pytest.raises(UsageError, match="it holds 65 files"):
        import_builds(exported)
    assert nothing_came(workshop)


def test_a_bomb_that_lies_about_its_size_is_refused(exported: Path, workshop: Workshop) -> None:
    name = f"{place(exported)}/{NATIVE}"
    with zipfile.ZipFile(exported) as archive:
        facts = archive.read(f"{place(exported)}/build.json")
    raw_zip(exported, (entry(f"{place(exported)}/build.json"), facts), (entry(name), bytes(100 * 2**20)))
    content = bytearray(exported.read_bytes())
    said = struct.pack("<I", 100 * 2**20)
    assert content.count(said) == 2  # before the file, and in the list at the end
    exported.write_bytes(content.replace(said, struct.pack("<I", len(elf()))))
    with pytest.raises(UsageError, match=r"can't be read|is not of the size it says"):
        import_builds(exported)
    assert nothing_came(workshop)


def test_what_is_encrypted_can_not_be_read(exported: Path, workshop: Workshop) -> None:
    content = bytearray(exported.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        content[at + flags] |= 1
    exported.write_bytes(content)
    with pytest.raises(UsageError, match="is encrypted"):
        import_builds(exported)
    assert nothing_came(workshop)


def test_any_damage_is_one_clear_line(exported: Path, workshop: Workshop) -> None:
    whole = exported.read_bytes()
    for at in range(0, len(whole), 7):  # a byte here, a cut there
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            exported.write_bytes(damaged)
            try:
                import_builds(exported)
            except UsageError:
                continue
            # A byte that nobody reads (a date): what came is what was sent.
            found = built(X86, V2)
            assert found is not None
            assert found.files[NATIVE].read_bytes() == elf()


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"no zip at all", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\xff" * 18]
)
def test_what_is_no_zip_is_refused(exported: Path, workshop: Workshop, content: bytes) -> None:
    exported.write_bytes(content)
    with pytest.raises(UsageError, match=r"native\.zip is not imported"):
        import_builds(exported)
    assert nothing_came(workshop)


def test_a_list_of_files_that_fills_the_memory_is_not_read(exported: Path, workshop: Workshop) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i in range(2000):
            archive.writestr(f"x{i}/build.json", b"")
    content = out.getvalue()
    exported.write_bytes(content)
    with pytest.raises(UsageError, match="its list of files is too long"):
        import_builds(exported)
    # The 64-bit form says its size elsewhere.
    end = content[-22:]
    exported.write_bytes(content[:-22] + b"PK\x06\x07" + bytes(16) + end[:12] + bytes(4) + end[16:])
    with pytest.raises(UsageError, match="it is no plain zip"):
        import_builds(exported)
    assert nothing_came(workshop)


def test_an_import_does_not_replace_another_program(exported: Path, workshop: Workshop) -> None:
    workshop.makes(elf(what=3))
    mine = build(X86, V2)
    with pytest.raises(UsageError, match="is here already, and is another program") as caught:
        import_builds(exported)
    assert str(mine.path) in (caught.value.hint or "")
    assert mine.files[NATIVE].read_bytes() == elf(what=3)


# The real one.


def test_the_runner_says_what_it_lacks(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = LlamaNative()
    assert runner.available() == "it is not built for this computer yet"
    assert runner.install == "edgebench runners build native"
    native_build.build_here(lambda _line: None)
    assert runner.available() is None


@pytest.mark.slow
@pytest.mark.engine
def test_the_real_program_is_what_its_description_says(native_program: Built) -> None:
    program = native_program.files[NATIVE]
    told = json.loads((native_program.path / "build.json").read_text())
    assert told["sha256"][NATIVE] == native_program.sha256
    assert (told["key"], told["level"]) == (native_program.key, native_program.level)
    content = program.read_bytes()
    assert program_fault(content, abi_of(native_program.target)) is None
    assert b"llama.cpp/src/llama-model.cpp" in content  # where asserts stand
    for folder in (native_program.path.parents[1], Path.home(), native_build.SOURCE.parent):
        assert f"{folder}/".encode() not in content
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = json.loads(done.stdout)
    assert version["job_format"] == "edgebench-job 1"
    assert "CPU : " in version["system_info"]
