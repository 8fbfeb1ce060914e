"""What llama.cpp is built for: the processor, or a GPU's toolkit, and whether that toolkit is here.

CUDA's wheels fit the GPU that was there when they were built (`CMAKE_CUDA_ARCHITECTURES=native`).
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgebench.core.cpu import cpu_flags
from edgebench.runners.llama_backends import GPU_BACKENDS
from edgebench.runners.llama_source import C_COMPILER, CXX_COMPILER, compiler_hint, find_compiler

CUDA_FOLDER = Path("/usr/local/cuda/bin")
"""Where NVIDIA's own installer puts nvcc, without putting it on PATH."""
_LOOK_S = 60.0
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_RELEASE = re.compile(r"release (\d+\.\d+)")


class Target(StrEnum):
    """What computes."""

    CPU = "cpu"
    CUDA = "cuda"
    VULKAN = "vulkan"
    METAL = "metal"

    @property
    def cmake(self) -> str:
        """What it adds to CMAKE_ARGS; nothing for what a build does anyway."""
        return "" if self is Target.CPU else f"-DGGML_{self.name}=ON"

    @property
    def takes(self) -> str:
        """How long a build lasts, for people; those of GPUs are estimates."""
        return {
            Target.CPU: "6 to 15 minutes on 2 cores",
            Target.CUDA: "about a quarter of an hour on 16 cores, hours on 2 (estimated)",
            Target.VULKAN: "15 to 40 minutes on 2 cores (estimated)",
            Target.METAL: "about 5 minutes on 8 cores (estimated)",
        }[self]

    @property
    def disk_bytes(self) -> int:
        """Free disk that a build takes while it runs, estimated generously."""
        return {Target.CUDA: 6 * 10**9, Target.VULKAN: 3 * 10**9}.get(self, 10**9)

    def is_met_by(self, backends: frozenset[str]) -> bool:
        """Whether a build with these backends is one for this target; on macOS every build has Metal."""
        if self is Target.CPU:
            return "cpu" in backends and backends & GPU_BACKENDS <= {"metal"}
        return self.value in backends


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a toolchain: what it is, what stands for it here, or how to get it."""

    name: str
    found: str | None
    """A path or a version; None: it is absent."""
    install: str = ""
    """The line that installs it; empty where nothing would."""


def cmake_args(target: Target | None, environment: Mapping[str, str] = os.environ) -> str:
    """CMAKE_ARGS of a build: what the user's environment says, then what the target adds."""
    return " ".join(filter(None, (environment.get("CMAKE_ARGS", "").strip(), target.cmake if target else "")))


def toolchain(target: Target) -> list[Piece]:
    """Everything a build for this target needs from the system, there or not."""
    kits = {Target.CPU: list[Piece], Target.CUDA: _cuda, Target.VULKAN: _vulkan, Target.METAL: _metal}
    compilers = [_compiler(name, kind) for name, kind in (("C", C_COMPILER), ("C++", CXX_COMPILER))]
    return compilers + kits[target]()


def nvcc() -> str | None:
    """CUDA's compiler: `$CUDACXX`, on PATH, or where NVIDIA's installer puts it."""
    named = os.environ.get("CUDACXX")
    return shutil.which(named) if named else shutil.which("nvcc") or shutil.which("nvcc", path=CUDA_FOLDER)


def toolchain_variables(target: Target | None) -> dict[str, str]:
    """What a build's environment gets besides: where a compiler is that PATH does not lead to."""
    found = nvcc() if target is Target.CUDA else None
    return {"CUDACXX": found} if found else {}


def without_amx(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Compilers' flags that keep llama.cpp off a processor's matrix tiles; nothing where it has none.

    Its tile configuration is written in a way that GCC optimizes away: the first evaluation dies of a
    general protection fault (ggml-org/llama.cpp issue 20824, pull request 26954).
    """
    if "amx_tile" not in cpu_flags():
        return {}
    return {
        name: " ".join(filter(None, (environment.get(name, "").strip(), _NO_AMX)))
        for name in ("CFLAGS", "CXXFLAGS")
    }


def _compiler(name: str, kind: tuple[str, tuple[str, ...]]) -> Piece:
    found = find_compiler(kind)
    return Piece(name=f"a {name} compiler", found=" ".join(found) if found else None, install=compiler_hint())


def _cuda() -> list[Piece]:
    compiler = nvcc()
    told = _output([compiler, "--version"]) if compiler else None
    release = _RELEASE.search(told or "")
    install = "apt install nvidia-cuda-toolkit"
    if compiler and release and not compiler.startswith("/usr/bin/"):
        # It came from NVIDIA's own repository, whose packages carry the toolkit's version.
        install = f"apt install cuda-toolkit-{release[1].replace('.', '-')}"
    version = f"{compiler} {release[1]}" if release else compiler
    pieces = [Piece(name="CUDA's compiler nvcc", found=version if told else None, install=install)]
    for name, header in (("CUDA's runtime", "cuda_runtime.h"), ("cuBLAS", "cublas_v2.h")):
        there = told is not None and _preprocesses([str(compiler), "-x", "cu", "-E"], header)
        pieces.append(Piece(name=f"{name} headers", found=header if there else None, install=install))
    return pieces


def _vulkan() -> list[Piece]:
    install = "apt install libvulkan-dev glslc spirv-headers"
    compiler = find_compiler(CXX_COMPILER) or []
    pieces = [Piece(name="the shader compiler glslc", found=shutil.which("glslc"), install=install)]
    for name, header in (("Vulkan's", "vulkan/vulkan.h"), ("SPIR-V's", "spirv/unified1/spirv.hpp")):
        there = bool(compiler) and _preprocesses([*compiler, "-x", "c++", "-E"], header)
        pieces.append(Piece(name=f"{name} headers", found=header if there else None, install=install))
    return pieces


def _metal() -> list[Piece]:
    apple = platform.system() == "Darwin"
    return [Piece(name="a Mac (Metal is Apple's)", found=platform.mac_ver()[0] if apple else None)]


def _preprocesses(command: list[str], header: str) -> bool:
    """Whether a compiler finds a header by itself."""
    return _output([*command, "-"], f"#include <{header}>\n") is not None


def _output(command: list[str], text: str = "") -> str | None:
    """What a program says; None when it is not there, fails or hangs."""
    streams: dict[str, Any] = {"input": text, "capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(command, **streams, timeout=_LOOK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
