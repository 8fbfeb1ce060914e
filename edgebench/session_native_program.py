"""Which native program does a request: llama.cpp's for GGUF files, ONNX Runtime's for ONNX folders."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.cpu import cpu_flags
from edgebench.core.engine import Runner
from edgebench.core.errors import UsageError
from edgebench.quantize.adopted import adopted_models
from edgebench.runners import native_build, native_onnx
from edgebench.runners.llama_native import LlamaNative
from edgebench.runners.native_target import find_level, level_for
from edgebench.runners.onnx_native import OnnxNative
from edgebench.session_cell import Watcher
from edgebench.session_plan import Request

NATIVE_RUNNERS = (LlamaNative.name, OnnxNative.name)
_STANDS_FOR = {"llama_cpp": LlamaNative.name, "onnx": OnnxNative.name}
"""On a device without Python, asking for one of these means its program."""
_LEVEL = "EDGEBENCH_NATIVE_LEVEL"
"""Names a level: a processor that lacks what its system promises ends the best program by SIGILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A native program that is built: what is to be brought, and what it can."""

    runner: Runner
    name: str
    """The file that is started."""
    key: str
    """16 hex digits of all that went into it."""
    target: str
    level: str
    files: Mapping[str, Path]
    shares_beginnings: bool
    """Whether the engine evaluates what prompts begin with once."""


def native_runner(request: Request) -> str:
    """The name of the runner whose program does a request. UsageError for engines that have none."""
    if request.runner in NATIVE_RUNNERS:
        return request.runner
    if request.runner is not None:
        if request.runner not in _STANDS_FOR:
            raise UsageError(
                f"--runner {request.runner} needs the whole of edgebench where the model is",
                f"without --runner the model's format decides; programs: {', '.join(NATIVE_RUNNERS)}",
            )
        return _STANDS_FOR[request.runner]
    kinds = {_is_onnx(model) for model in request.models}
    if len(kinds) > 1:
        raise UsageError("GGUF files and ONNX folders need different programs", "measure them one by one")
    return OnnxNative.name if kinds == {True} else LlamaNative.name


def program_level(request: Request, target: str, features: Collection[str]) -> str:
    """The instructions that a request's program uses: the user's choice, else the best that fit."""
    if native_runner(request) == OnnxNative.name:
        return native_onnx.LEVEL
    named = os.environ.get(_LEVEL)
    return find_level(target, named).name if named else level_for(target, features)


def program_for(
    request: Request,
    target: str,
    features: Collection[str],
    watcher: Watcher,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Program:
    """The program for a device with these instructions: from the cache, or built, which takes minutes."""
    if native_runner(request) == OnnxNative.name:
        return _onnx(native_onnx.build(target, say=watcher.say))
    level = program_level(request, target, features)
    return _llama(native_build.build(target, level, say=watcher.say, progress=progress))


def program_here(request: Request, watcher: Watcher) -> Program:
    """The same for this computer."""
    if native_runner(request) == OnnxNative.name:
        return _onnx(native_onnx.build_here(watcher.say))
    target = native_build.need_target_here()
    level = program_level(request, target, cpu_flags())
    return _llama(native_build.build(target, level, say=watcher.say))


def _llama(made: native_build.Built) -> Program:
    name = native_build.NATIVE
    return Program(
        runner=LlamaNative(),
        name=name,
        key=made.key,
        target=made.target,
        level=made.level,
        files={name: made.files[name]},
        shares_beginnings=True,
    )


def _onnx(made: native_onnx.OnnxBuilt) -> Program:
    return Program(
        runner=OnnxNative(),
        name=native_onnx.PROGRAM,
        key=made.key,
        target=made.target,
        level=made.level,
        files=made.files,
        shares_beginnings=False,
    )


def _is_onnx(model: str) -> bool:
    ours = adopted_models().get(model)
    path = Path(ours.path if ours else model).expanduser()
    return (path / "model.onnx").is_file()
