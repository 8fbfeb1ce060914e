"""What native programs are built for: an ABI, a level of its instructions, and a toolchain that can do it."""

import os
import platform
import shlex
import shutil
import struct
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgebench.core.errors import MissingDependency, nearest
from edgebench.core.tool_env import find_tool, pinned
from edgebench.runners.llama_source import CXX_COMPILER, find_compiler

TARGETS = {
    "android-arm64": "arm64",
    "android-x86_64": "x86_64",
    "linux-arm64": "arm64",
    "linux-x86_64": "x86_64",
}
"""Target -> ABI. A static program needs nothing of the system, so Android's and Linux's are the same."""
HERE = {"x86_64": "linux-x86_64", "AMD64": "linux-x86_64", "aarch64": "linux-arm64", "arm64": "linux-arm64"}
"""This computer's machine name -> its target."""


class Toolchain(StrEnum):
    """Who compiles."""

    ZIG = "zig"
    """From PyPI: on every laptop, musl inside."""
    GCC = "gcc"
    """The system's own, or Debian's cross compiler."""
    NDK = "ndk"
    """Google's, where $ANDROID_NDK_HOME is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Instructions a build may use."""

    name: str
    needs: frozenset[str]
    """As /proc/cpuinfo calls them: all must be there."""
    cmake: Mapping[str, str]


def _x86(*flags: str) -> dict[str, str]:
    known = ("SSE42", "AVX", "AVX2", "BMI2", "F16C", "FMA", "AVX512", "AVX512_VNNI")
    return {f"GGML_{flag}": "ON" if flag in flags else "OFF" for flag in known}


_V3 = ("SSE42", "AVX", "AVX2", "BMI2", "F16C", "FMA")
_V3_NEEDS = frozenset({"avx", "avx2", "bmi2", "f16c", "fma"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
LEVELS: dict[str, tuple[Level, ...]] = {
    "arm64": (
        Level(
            name="armv8.2-a+dotprod+fp16+i8mm",
            needs=frozenset({"asimddp", "asimdhp", "i8mm"}),
            cmake={"GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16+i8mm"},
        ),
        Level(
            name="armv8.2-a+dotprod+fp16",
            needs=frozenset({"asimddp", "asimdhp"}),
            cmake={"GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16"},
        ),
        Level(name="armv8-a", needs=frozenset(), cmake={"GGML_CPU_ARM_ARCH": "armv8-a"}),
    ),
    "x86_64": (
        Level(name="x86-64-v4", needs=_V3_NEEDS | _AVX512, cmake=_x86(*_V3, "AVX512")),
        Level(name="x86-64-v3", needs=_V3_NEEDS, cmake=_x86(*_V3)),
        Level(name="x86-64-v2", needs=frozenset(), cmake=_x86("SSE42")),
    ),
}
"""ABI -> its levels, the most demanding first."""


def abi_of(target: str) -> str:
    """The ABI of a target; UsageError with the nearest names for none."""
    if target not in TARGETS:
        raise nearest(target, TARGETS, kind="target")
    return TARGETS[target]


def levels(target: str) -> tuple[str, ...]:
    """A target's levels, the most demanding first."""
    return tuple(level.name for level in LEVELS[abi_of(target)])


def find_level(target: str, name: str) -> Level:
    """A level by name; UsageError with the nearest names for none."""
    for level in LEVELS[abi_of(target)]:
        if level.name == name:
            return level
    raise nearest(name, levels(target), kind="level")


def level_for(target: str, features: Collection[str]) -> str:
    """The most demanding level that a processor with these features runs."""
    return next(level.name for level in LEVELS[abi_of(target)] if level.needs <= set(features))


def target_here() -> str | None:
    """This computer's own target; None where there is none."""
    return HERE.get(platform.machine()) if platform.system() == "Linux" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """A toolchain that is here."""

    toolchain: Toolchain
    version: str
    """As the compiler tells it: another one makes another program."""
    definitions: Mapping[str, str]
    """What cmake must know of it."""


def choose_toolchain(abi: str, wanted: str | None) -> Toolchain:
    """The one that was asked for; else a gcc that is here, which is there at once; else zig."""
    if wanted is not None:
        if wanted not in set(Toolchain):
            raise nearest(wanted, Toolchain, kind="toolchain")
        return Toolchain(wanted)
    return Toolchain.GCC if _gcc(abi) else Toolchain.ZIG


def find_kit(abi: str, toolchain: Toolchain, wrappers: Path) -> Kit:
    """A toolchain ready for use, zig's small scripts in `wrappers`; MissingDependency says how to get it."""
    definitions = {
        "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM": "NEVER",
        "CMAKE_EXE_LINKER_FLAGS": "-static -s",  # nothing of the system is needed, and no symbols
    }
    if toolchain is Toolchain.NDK:
        version, more = _ndk(abi)
    else:
        version, more = _zig(abi, wrappers) if toolchain is Toolchain.ZIG else _gnu(abi)
        more["CMAKE_SYSTEM_NAME"] = "Linux"
        more["CMAKE_SYSTEM_PROCESSOR"] = _MACHINE[abi]
    return Kit(toolchain=toolchain, version=version, definitions={**definitions, **more})


_MACHINE = {"arm64": "aarch64", "x86_64": "x86_64"}
_PACKAGE = {"arm64": "g++-aarch64-linux-gnu", "x86_64": "g++-x86-64-linux-gnu"}


def missing_toolchain(abi: str, toolchain: Toolchain) -> dict[str, str]:
    """What lacks of a toolchain -> how to get it; zig and cmake are fetched by themselves."""
    try:
        if toolchain is Toolchain.GCC:
            _gnu(abi)
        elif toolchain is Toolchain.NDK:
            _ndk(abi)
    except MissingDependency as error:
        return {error.message: error.hint or ""}
    return {}


def _gnu(abi: str) -> tuple[str, dict[str, str]]:
    found = _gcc(abi)
    if found is None:
        package = "g++" if _is_here(abi) else _PACKAGE[abi]
        raise MissingDependency(
            f"there is no gcc for {abi} here", f"apt install {package}; or --toolchain zig, which pip fetches"
        )
    return _first_line([found[1], "--version"]), {
        "CMAKE_C_COMPILER": found[0],
        "CMAKE_CXX_COMPILER": found[1],
    }


def _gcc(abi: str) -> tuple[str, str] | None:
    """The C and the C++ compiler for an ABI: $CC and $CXX count for this computer's own."""
    if _is_here(abi):
        c, cxx = find_compiler(("CC", ("gcc", "cc"))), find_compiler(CXX_COMPILER)
        return (c[0], cxx[0]) if c and cxx and len(c) == len(cxx) == 1 else None
    names = (f"{_MACHINE[abi]}-linux-gnu-gcc", f"{_MACHINE[abi]}-linux-gnu-g++")
    return names if all(map(shutil.which, names)) else None


def _is_here(abi: str) -> bool:
    here = target_here()
    return here is not None and abi_of(here) == abi


def _ndk(abi: str) -> tuple[str, dict[str, str]]:
    folder = Path(os.environ.get("ANDROID_NDK_HOME") or "/nowhere")
    file = folder / "build" / "cmake" / "android.toolchain.cmake"
    if not file.is_file():
        raise MissingDependency(
            "there is no Android NDK: $ANDROID_NDK_HOME names no folder that has one",
            "--toolchain zig needs none",
        )
    properties = folder / "source.properties"
    told = properties.read_text(encoding="utf-8", errors="replace") if properties.is_file() else str(folder)
    return told, {
        "CMAKE_TOOLCHAIN_FILE": str(file),
        "ANDROID_ABI": "arm64-v8a" if abi == "arm64" else "x86_64",
        "ANDROID_PLATFORM": "android-28",
    }


_ELF64 = struct.Struct("<4s B B 10x H H 12x Q 14x H H")
"""Magic, class, byte order, type, machine, offset, size and number of program headers."""
_ELF_MACHINE = {"arm64": 183, "x86_64": 62}
_LOADED, _INTERPRETER = 1, 3


def program_fault(content: bytes, abi: str) -> str | None:
    """None for a static Linux program of an ABI; else what is wrong with it, to follow its name."""
    if len(content) < 64 or content[:4] != b"\x7fELF":
        return "is no program"
    _, kind, order, what, machine, at, size, n = _ELF64.unpack_from(content)
    if (kind, order) != (2, 1) or what not in (2, 3) or machine != _ELF_MACHINE[abi]:
        return f"is no program for {abi}"
    if size != 56 or not 0 < n <= 64 or at + n * size > len(content):
        return "is damaged: its headers lie outside it"
    kinds = [struct.unpack_from("<I", content, at + i * size)[0] for i in range(n)]
    if _INTERPRETER in kinds:
        return "is not static: a phone has none of the libraries it would load"
    return None if _LOADED in kinds else "is damaged: nothing of it would be loaded"


_ZIG_VERBS = {"zig-cc": "cc", "zig-c++": "c++", "zig-ar": "ar", "zig-ranlib": "ranlib"}
_ZIG_SCRIPT = """
import os, sys
python, verb, triple, *words = sys.argv[1:]
told = ["-target", triple] if triple else []
for word in words:
    if word.startswith("-march=armv"):  # zig spells processors in its own way
        base, *more = word.removeprefix("-march=armv").split("+")
        named = {"fp16": "fullfp16"}
        parts = ["generic", "v" + base.removesuffix("-a").replace(".", "_") + "a"]
        word = "-mcpu=" + "+".join(parts + [named.get(one, one) for one in more])
    told.append(word)
os.execv(python, [python, "-m", "ziglang", verb, *told])
"""


def _zig(abi: str, wrappers: Path) -> tuple[str, dict[str, str]]:
    tool = find_tool("native")
    if tool is None:
        raise MissingDependency("zig is not here yet", "edgebench cache prefetch native")
    wrappers.mkdir(parents=True, exist_ok=True)
    script, python = wrappers / "zig.py", str(tool.python)
    _write(script, _ZIG_SCRIPT)
    for name, verb in _ZIG_VERBS.items():
        triple = f"{_MACHINE[abi]}-linux-musl" if verb in ("cc", "c++") else ""
        words = shlex.join([python, "-S", str(script), python, verb, triple])
        # What zig compiles once for all (musl, libc++) stays with the other builds, and goes with them.
        kept = shlex.quote(str(wrappers.parent.with_name("zig")))
        _write(wrappers / name, f'#!/bin/sh\nZIG_GLOBAL_CACHE_DIR={kept} exec {words} "$@"\n')
        (wrappers / name).chmod(0o755)
    variables = ("CMAKE_C_COMPILER", "CMAKE_CXX_COMPILER", "CMAKE_AR", "CMAKE_RANLIB")
    definitions = {key: str(wrappers / name) for key, name in zip(variables, _ZIG_VERBS, strict=True)}
    return f"zig {pinned('native', 'ziglang')}", definitions


def _write(file: Path, text: str) -> None:
    """Write what is not written yet: a compiler that is touched makes cmake begin anew."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0]
