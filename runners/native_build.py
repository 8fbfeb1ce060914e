"""Builds the native programs: static, from the very source the installed llama-cpp-python carries.

One work folder serves all levels of a toolchain and ABI: between levels only ggml's CPU kernels are
compiled anew. What is made is kept by a key of everything that went into it, and no path, date or commit of
this computer does: the same source, compiler and level make the same bytes anywhere.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.cpu import cpu_flags
from edgebench.core.errors import MissingDependency
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.paths import atomic_path, cache_part, exclusive
from edgebench.core.tool_env import ensure_tool
from edgebench.runners.engine_build import stream
from edgebench.runners.llama_source import first_error, installed_version, quiet, source_tree
from edgebench.runners.native_target import (
    LEVELS,
    Kit,
    Level,
    Toolchain,
    abi_of,
    choose_toolchain,
    find_kit,
    find_level,
    level_for,
    program_fault,
    target_here,
)
from edgebench.runners.native_target import levels as levels

NATIVE = "edgebench-native"
LLAMA_BENCH = "llama-bench"
PROGRAMS = (NATIVE, LLAMA_BENCH)
SOURCE = Path(__file__).parent / "native" / "edgebench_native.cpp"
HEADER = SOURCE.with_name("edgebench_job.hpp")
"""What our programs share; it lies beside whichever of them is compiled."""
FACTS = "build.json"
"""Beside the programs, written last: what they are. A folder without it holds nothing."""
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "OFF",
    "GGML_OPENMP": "OFF",
    "GGML_BACKEND_DL": "OFF",
    "GGML_CCACHE": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_COMMIT": "unknown",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_BUILD_COMMON": "ON",
    "LLAMA_BUILD_TOOLS": "ON",
}
_PROJECT = """cmake_minimum_required(VERSION 3.18)
project(edgebench_native C CXX)
set(CMAKE_CXX_STANDARD 17)
add_subdirectory("${LLAMA}" llama EXCLUDE_FROM_ALL)
add_executable(edgebench-native edgebench_native.cpp)
target_link_libraries(edgebench-native PRIVATE llama)
"""
_ENVIRONMENT = {"GIT_DIR": os.devnull, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
"""No commit of whatever repository the cache lies in, no date; errors in words that are looked for."""
_NOT_TAKEN = ("CMAKE_TOOLCHAIN_FILE", "CMAKE_GENERATOR", "CMAKE_BUILD_TYPE", "DESTDIR")
"""Variables of the user's that would change a build behind its key."""

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Programs of one build."""

    path: Path
    """Their folder."""
    key: str
    """16 hex digits of everything that went into them."""
    target: str
    level: str
    files: Mapping[str, Path]
    """Program -> its file."""

    @property
    def sha256(self) -> str:
        """Of the native program."""
        return sha256_file(self.files[NATIVE])


def built(target: str, level: str, programs: Sequence[str] = (NATIVE,)) -> Built | None:
    """The newest build of this source for a target and level; None: it is to be made, or imported."""
    abi = abi_of(target)
    for place, told in kept():
        if (told.get("abi"), told.get("level"), told.get("source")) == (abi, level, source_key()):
            found = _found(place, target, level, str(told["key"]))
            if all(name in found.files for name in programs):
                return found
    return None


def kept() -> list[tuple[Path, dict[str, Any]]]:
    """Folders of builds, the newest first, and what each says of itself; what is damaged is passed over."""
    files = sorted(cache_part("native").glob(f"*/{FACTS}"), key=os.path.getmtime, reverse=True)
    return [(file.parent, told) for file in files if (told := facts_of(file.parent))]


def facts_of(place: Path) -> dict[str, Any]:
    """What a build says of itself; empty where that is damaged."""
    try:
        told = json.loads((place / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and "key" in told else {}


def built_here() -> Built | None:
    """The build for this computer, if it is there."""
    target = target_here()
    return built(target, level_for(target, cpu_flags())) if target else None


def build_here(say: Say, progress: Progress = lambda _done, _total: None) -> Built:
    """The same, made when it is not there."""
    target = need_target_here()
    return build(target, level_for(target, cpu_flags()), say=say, progress=progress)


def need_target_here() -> str:
    """This computer's target; MissingDependency where it can't run native programs."""
    target = target_here()
    if target is None:
        raise MissingDependency(
            "native programs run on Linux on x86-64 and arm64 only", "for a phone: --target android-arm64"
        )
    return target


def build(
    target: str,
    level: str,
    *,
    toolchain: str | None = None,
    programs: Sequence[str] = (NATIVE,),
    say: Say = quiet,
    progress: Progress = lambda _done, _total: None,
) -> Built:
    """Programs for a target and level, from the cache or compiled: minutes, told step by step.

    Raises MissingDependency: no toolchain, no source, or it does not compile (the log is named).
    """
    found = None if toolchain else built(target, level, programs)
    if found is not None:
        return found
    abi, wanted = abi_of(target), find_level(target, level)
    chosen = choose_toolchain(abi, toolchain)
    if chosen is Toolchain.ZIG:
        ensure_tool("native", say)
    tree = source_tree(say)
    work = cache_part("native") / f"work-{abi}-{chosen}"
    with exclusive(work, say):
        kit = find_kit(abi, chosen, work / "bin")
        key = build_key(kit, wanted)
        place = cache_part("native") / place_name(abi, level, key)
        whole = (place / FACTS).exists()  # written last: else a process was killed while it kept them
        missing = [name for name in programs if not whole or not (place / name).exists()]
        if missing:
            facts = {
                "abi": abi,
                "level": level,
                "key": key,
                "source": source_key(),
                "toolchain": chosen,
                "compiler": kit.version,
                "llama_cpp_python": installed_version(),
            }
            say(f"building {', '.join(missing)} for {abi}, {level}, with {chosen}: some minutes, once")
            _compile(tree, work, {**_OPTIONS, **kit.definitions, **wanted.cmake}, kit, missing, say, progress)
            _keep(work, place, missing, facts)
    return _found(place, target, level, key)


def place_name(abi: str, level: str, key: str) -> str:
    """What a build's folder is called."""
    return f"{abi}-{level}-{key}"


def source_key() -> str:
    """What every build is made of: llama.cpp's version, our own sources, how they are put together."""
    levels = {level.name: dict(level.cmake) for family in LEVELS.values() for level in family}
    ours = [sha256_file(SOURCE), sha256_file(HEADER)]
    return sha256_json([installed_version(), *ours, _PROJECT, _OPTIONS, levels])[:12]


def build_key(kit: Kit, level: Level) -> str:
    """Names a build by all that shapes its programs; where things lie on this computer does not."""
    said = {name: value for name, value in kit.definitions.items() if not Path(value).is_absolute()}
    return sha256_json([source_key(), kit.toolchain, kit.version, said, dict(level.cmake)])[:16]


def _found(place: Path, target: str, level: str, key: str) -> Built:
    return Built(path=place, key=key, target=target, level=level, files=_programs(place))


def _programs(place: Path) -> dict[str, Path]:
    return {name: place / name for name in PROGRAMS if (place / name).is_file()}


def _compile(
    tree: Path,
    work: Path,
    definitions: Mapping[str, str],
    kit: Kit,
    programs: Sequence[str],
    say: Say,
    progress: Progress,
) -> None:
    stamp = json.dumps([str(tree), installed_version(), kit.version, dict(kit.definitions)])
    _begin_anew(work, stamp)
    _put(work / "project" / "CMakeLists.txt", _PROJECT)
    for source in (SOURCE, HEADER):
        _put(work / "project" / source.name, source.read_text(encoding="utf-8"))
    names = {str(tree): "llama.cpp", str(work): "build"}
    flags = " ".join(f"-ffile-prefix-map={shlex.quote(folder)}={name}" for folder, name in names.items())
    told = {**definitions, "LLAMA": str(tree), "CMAKE_C_FLAGS": flags, "CMAKE_CXX_FLAGS": flags}
    cmake, environment = _cmake(say)
    build_folder = work / "build"
    steps = (
        [cmake, "-G", "Ninja", "-S", str(work / "project"), "-B", str(build_folder)]
        + [f"-D{name}={value}" for name, value in told.items()],
        [cmake, "--build", str(build_folder), "--target", *programs],
    )
    for name, command in zip(("configure", "build"), steps, strict=True):
        log = work / f"{name}.log"
        if stream(command, environment, log, progress):
            reason = first_error(log.read_text(encoding="utf-8"))
            raise MissingDependency(f"the native program did not build: {reason}", f"the whole log: {log}")


def _begin_anew(work: Path, stamp: str) -> None:
    """Objects of another compiler or source are no use, and ninja would not notice."""
    file = work / "made-with"
    if not file.exists() or file.read_text(encoding="utf-8") != stamp:
        shutil.rmtree(work / "build", ignore_errors=True)
    _put(file, stamp)


def _put(file: Path, text: str) -> None:
    """Write what is not written yet: what stays untouched is not compiled again."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _cmake(say: Say) -> tuple[str, dict[str, str]]:
    """cmake, and an environment in which it finds ninja: the system's, else pip's."""
    own = {**{k: v for k, v in os.environ.items() if k not in _NOT_TAKEN}, **_ENVIRONMENT}
    if shutil.which("cmake") and shutil.which("ninja"):
        return "cmake", own
    folder = ensure_tool("native", say).python.parent
    return str(folder / "cmake"), {**own, "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}


def _keep(work: Path, place: Path, programs: Sequence[str], facts: Mapping[str, str]) -> None:
    """Put what was made where it is looked for, whole or not at all."""
    for name in programs:
        made = next(path for path in (work / "build").rglob(name) if path.is_file())
        if fault := program_fault(made.read_bytes(), facts["abi"]):
            raise MissingDependency(f"{name} was built with {facts['compiler']} and {fault}", str(work))
        with atomic_path(place / name) as part:
            shutil.copyfile(made, part)
            part.chmod(0o755)
    told = {**facts, "sha256": {name: sha256_file(file) for name, file in _programs(place).items()}}
    with atomic_path(place / FACTS) as part:
        part.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
