"""Native programs for the verb `runners`: built for this computer or a phone, handed on, taken in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.cpu import cpu_flags
from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import cache_part, free_bytes
from edgebench.runners import native_onnx
from edgebench.runners.engine_build import ensure
from edgebench.runners.llama_source import BUILD_COMMAND, installed_version
from edgebench.runners.native_build import NATIVE, Built, build, built, facts_of, need_target_here
from edgebench.runners.native_share import Shared, export_builds, import_builds
from edgebench.runners.native_target import (
    TARGETS,
    Toolchain,
    abi_of,
    choose_toolchain,
    find_level,
    level_for,
    levels,
    missing_toolchain,
)
from edgebench.session_cell import Watcher

NATIVE_NAMES = ("native", "llama_native")
"""What `runners build` may call them."""
ONNX = "onnx_native"
"""The other program without Python: not of levels, and its libraries lie beside it."""
ALL = "all"
_DEFAULT = (NATIVE,)
_TAKES = {
    Toolchain.GCC: "3 to 10 minutes on 2 cores, each further level a third of that",
    Toolchain.ZIG: "20 minutes on 2 cores, each further level a fifth of that",
    Toolchain.NDK: "10 minutes on 2 cores (estimated)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRequest:
    """What is to be built."""

    name: str | None = None
    """`ONNX`, or any of `NATIVE_NAMES`, or None."""
    target: str | None = None
    """None: this computer's own."""
    level: str | None = None
    """None: the best for this computer, all for another target; or `all`."""
    toolchain: str | None = None
    programs: tuple[str, ...] = ()
    """None named: the native program."""


def is_native(name: str | None, target: str | None) -> bool:
    """Whether `runners build NAME --target TARGET` means native programs; UsageError for neither."""
    if name in (*NATIVE_NAMES, ONNX):
        if target is not None and target not in TARGETS and target != "cpu":
            raise UsageError(
                f"native programs compute on the processor, not with {target}",
                f"--target {', '.join(TARGETS)}; or: edgebench runners build llama_cpp --target {target}",
            )
        return True
    if target in TARGETS and name is not None:
        raise UsageError(
            f"{name} is not built for {target}", f"edgebench runners build native --target {target}"
        )
    return target in TARGETS


def build_native(request: NativeRequest, watcher: Watcher) -> list[dict[str, Any]]:
    """Build what is not there yet, llama.cpp's own package first; a row for each program."""
    if request.name == ONNX:
        return _build_onnx(request, watcher)
    target, wanted = _what(request)
    try:
        installed_version()
    except MissingDependency:
        watcher.say("llama-cpp-python comes first: native programs are made of its source")
        ensure(watcher.say, steps(watcher, "building llama-cpp-python"))
    rows = []
    for level in wanted:
        made = build(
            target,
            level,
            toolchain=request.toolchain,
            programs=request.programs or _DEFAULT,
            say=watcher.say,
            progress=steps(watcher, f"building for {target}, {level}"),
        )
        rows += _rows(made, request.programs or _DEFAULT)
    return rows


def explain_native(request: NativeRequest) -> dict[str, Any]:
    """What `build_native` would do, without doing any of it: JSON-ready."""
    if request.name == ONNX:
        return _explain_onnx(request)
    target, wanted = _what(request)
    chosen = choose_toolchain(abi_of(target), request.toolchain)
    programs = request.programs or _DEFAULT
    missing = missing_toolchain(abi_of(target), chosen)
    try:
        there = {
            level: request.toolchain is None and built(target, level, programs) is not None
            for level in wanted
        }
    except MissingDependency as error:
        there, missing = dict.fromkeys(wanted, False), {error.message: BUILD_COMMAND, **missing}
    todo = {level: "nothing: it is there" if done else "build it, keep it" for level, done in there.items()}
    done = all(there.values())
    return {
        "runner": "llama_native",
        "target": target,
        "programs": list(programs),
        "toolchain": chosen.value,
        "todo": todo,
        "possible": done or not missing,
        "missing": {} if done else missing,
        "takes": None if done else _TAKES[chosen],
        "free_bytes": free_bytes(cache_part("native")),
        "kept_in": str(cache_part("native")),
    }


def _build_onnx(request: NativeRequest, watcher: Watcher) -> list[dict[str, Any]]:
    made = native_onnx.build(_onnx_target(request), toolchain=request.toolchain, say=watcher.say)
    return [
        {
            "target": made.target,
            "level": made.level,
            "program": file.name,
            "toolchain": None,
            "compiler": None,
            "size_bytes": file.stat().st_size,
            "sha256": sha256_file(file),
            "key": made.key,
            "path": str(file),
        }
        for file in made.files.values()
    ]


def _explain_onnx(request: NativeRequest) -> dict[str, Any]:
    target = _onnx_target(request)
    chosen = choose_toolchain(abi_of(target), request.toolchain)
    done = request.toolchain is None and native_onnx.built(target) is not None
    missing = {} if done else missing_toolchain(abi_of(target), chosen)
    todo = "nothing: it is there" if done else "fetch its libraries (30 MB), build it, keep it: a minute"
    told = {"runner": ONNX, "target": target, "toolchain": chosen.value, "todo": todo}
    return {**told, "possible": not missing, "missing": missing, "kept_in": str(cache_part("native"))}


def _onnx_target(request: NativeRequest) -> str:
    if request.level is not None or request.programs:
        raise UsageError(f"{ONNX} has no levels and one program", "leave --level and --program out")
    return need_target_here() if request.target in (None, "cpu") else str(request.target)


def export_native(file: Path, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Write what is built into a zip; a row for each program in it."""
    return _shared_rows(export_builds(file, targets))


def import_native(file: Path) -> list[dict[str, Any]]:
    """Take the programs of a zip into the cache; a row for each."""
    if not file.is_file():
        raise UsageError(f"there is no file {file}", "edgebench runners export makes one")
    return _shared_rows(import_builds(file))


def _what(request: NativeRequest) -> tuple[str, list[str]]:
    """The target, and its levels."""
    own = request.target in (None, "cpu")
    target = need_target_here() if own or request.target is None else request.target
    known = list(levels(target))
    if request.level == ALL:
        return target, known
    if request.level is not None:
        return target, [find_level(target, request.level).name]
    return target, [level_for(target, cpu_flags())] if own else known


def steps(watcher: Watcher, title: str) -> Callable[[int, int], None]:
    """Progress of a build, told to a watcher."""
    n_told = n_of = 0

    def progress(n_done: int, n_total: int) -> None:
        nonlocal n_told, n_of
        if n_total != n_of:  # a first step, or the steps of another program
            watcher.stage(title, n_total)
            n_told, n_of = 0, n_total
        watcher.step("compiled", n_done - n_told)
        n_told = n_done

    return progress


def _rows(made: Built, programs: Sequence[str]) -> list[dict[str, Any]]:
    told = facts_of(made.path)
    return [
        {
            "target": made.target,
            "level": made.level,
            "program": name,
            "toolchain": told.get("toolchain"),
            "compiler": told.get("compiler"),
            "size_bytes": made.files[name].stat().st_size,
            "sha256": sha256_file(made.files[name]),
            "key": made.key,
            "path": str(made.files[name]),
        }
        for name in programs
    ]


def _shared_rows(found: Sequence[Shared]) -> list[dict[str, Any]]:
    return [
        {
            "targets": [target for target, abi in TARGETS.items() if abi == shared.abi],
            "level": shared.level,
            "program": name,
            "toolchain": shared.toolchain,
            "sha256": sha256,
            "key": shared.key,
        }
        for shared in found
        for name, sha256 in sorted(shared.sha256.items())
    ]
