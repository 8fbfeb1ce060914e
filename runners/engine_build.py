"""Makes and installs llama-cpp-python, once per version, kind of CPU and target, and keeps the wheel.

A native build uses every instruction the CPU has, so a wheel made on one computer may die on another:
wheels are kept under a key of version, CPU flags, `CMAKE_ARGS` and platform. An engine that works is
replaced only by a wheel that was built whole and loads.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgebench.core.cpu import cpu_flags
from edgebench.core.errors import EdgebenchError, MissingDependency
from edgebench.core.hashing import sha256_json
from edgebench.core.paths import cache_part, exclusive, free_bytes
from edgebench.core.pip import pip, pip_command, pip_reason
from edgebench.runners.engine_target import (
    Target,
    cmake_args,
    toolchain,
    toolchain_variables,
    without_amx,
)
from edgebench.runners.llama_backends import installed_backends
from edgebench.runners.llama_source import DISTRIBUTION, Say, fetch_sdist

Progress = Callable[[int, int], None]
"""Told how many of how many build steps are done."""

_LOADS = """
import sys
import llama_cpp.llama_cpp as lib
assert lib.__file__.startswith(sys.argv[1]), "it holds no llama_cpp"
lib.llama_backend_init()
"""
_LOADS_WITHIN_S = 120.0
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_ERROR = re.compile(r"(fatal error|error): |CMake Error|\bError: |\bKilled\b", re.IGNORECASE)
_PIP_TALK = ("error: subprocess-", "error: metadata-", "ERROR: Failed building", "ERROR: Failed to build")


def ensure(say: Say, progress: Progress, target: Target | None = None) -> Path | None:
    """Make sure that the pinned llama-cpp-python is installed; returns the wheel, or None if it was there.

    Without a `target` any build of that version will do. Taken from, in this order: the environment itself,
    the cache, a prebuilt wheel that pip finds (of no target's making), a build. Raises MissingDependency when
    a piece of the toolchain or the network is missing, or the build fails; the engine that was there stays.
    """
    version = pinned_version()
    if _installed(version, target):
        return None
    folder = cache_part("wheels") / wheel_key(version, target)
    with exclusive(folder / "wheel", say):
        if _installed(version, target):  # by the process that was waited for
            return None
        _remove_leavings(folder)
        wheel = _kept(folder)
        if wheel is None:
            wheel = _prebuilt(version, folder, target) or _build(version, folder, say, progress, target)
        if _is_there():
            _check_loads(wheel)
        _install(wheel, version, say)
    return wheel


def explain(target: Target | None) -> dict[str, Any]:
    """What `ensure` would do for a target, without doing any of it: JSON-ready."""
    version, wanted = pinned_version(), target or Target.CPU
    folder, args = cache_part("wheels") / wheel_key(version, target), cmake_args(target)
    pieces = toolchain(wanted)
    missing = {piece.name: piece.install for piece in pieces if piece.found is None}
    todo = "build it, keep the wheel, install it"
    build = shlex.join(pip_command("wheel", "--no-deps", "-w", str(folder), f"{DISTRIBUTION}=={version}"))
    for name, value in {"CMAKE_ARGS": args, **without_amx()}.items():
        if value:
            build = f"{name}={shlex.quote(value)} {build}"
    install = shlex.join(pip_command("install", *_options(version), f"{folder}/WHEEL"))
    if _installed(version, target):
        todo, build, install = "nothing: it is installed", "", ""
    elif _kept(folder):
        todo, build = "install the wheel that is kept", ""
    return {
        "runner": "llama_cpp",
        "target": wanted.value,
        "version": version,
        "installed_backends": sorted(installed_backends()),
        "todo": todo,
        "possible": not (build and missing),
        "found": {piece.name: piece.found for piece in pieces if piece.found is not None},
        "missing": missing,
        "cmake_args": args,
        "build_command": build or None,
        "install_command": install or None,
        "takes": wanted.takes if build else None,
        "disk_bytes": wanted.disk_bytes if build else None,
        "free_bytes": free_bytes(folder),
        "kept_in": str(folder),
    }


def pinned_version() -> str:
    """The version of llama-cpp-python that edgebench's own extra `gguf` asks for."""
    try:
        requirements = importlib.metadata.requires("edgebench") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependency("edgebench is not installed", "pip install -e .") from error
    for requirement in requirements:
        pin = re.match(rf"{DISTRIBUTION}\s*==\s*([\w.]+)", requirement.replace("_", "-"))
        if pin:
            return pin[1]
    raise MissingDependency(f"edgebench's metadata names no version of {DISTRIBUTION}", "install it again")


def wheel_key(version: str, target: Target | None = None) -> str:
    """Names a build: the same key means that a wheel made there runs here."""
    cpu = " ".join(cpu_flags()) or platform.processor()
    build = [version, cpu, cmake_args(target), sysconfig.get_platform()]
    return sha256_json([*build, flags] if (flags := without_amx()) else build)[:16]


def build_step(line: str) -> tuple[int, int] | None:
    """(12, 193) for ninja's `[12/193] …`, None for any other line."""
    step = _STEP.match(line)
    return (int(step[1]), int(step[2])) if step else None


def telling_line(lines: Iterable[str]) -> str:
    """The last line of a build's log that says what went wrong, rather than that something did."""
    told = [line.strip() for line in lines if line.strip()]  # pip has words of its own for any failure
    own_words = [line for line in told if not line.startswith(_PIP_TALK)]
    errors = [index for index, line in enumerate(own_words) if _ERROR.search(line)]
    if not errors:
        return (own_words or told or ["the log is empty"])[-1]
    index = errors[-1]
    if "CMake Error" in own_words[index]:  # the reason stands in the line below
        return " ".join(own_words[index : index + 2])
    return own_words[index]


def _installed(version: str, target: Target | None = None) -> bool:
    if not _is_there() or (target is not None and not target.is_met_by(installed_backends())):
        return False
    try:
        return importlib.metadata.version(DISTRIBUTION) == version
    except importlib.metadata.PackageNotFoundError:
        return False


def _is_there() -> bool:
    """Whether any llama-cpp-python is installed: something that can be lost."""
    importlib.invalidate_caches()
    return importlib.util.find_spec("llama_cpp") is not None


def _kept(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _remove_leavings(folder: Path) -> None:
    """What a build left that was killed outright; whoever holds the lock may clear it away."""
    for leaving in folder.glob(".part-*"):
        shutil.rmtree(leaving, ignore_errors=True)


def _prebuilt(version: str, folder: Path, target: Target | None) -> Path | None:
    if cmake_args(target):
        return None  # a build made to order was asked for
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        options = ("--no-deps", "--only-binary", DISTRIBUTION, "--dest", part)
        pip("download", *options, f"{DISTRIBUTION}=={version}")  # that there is none is the usual case
        return _keep_wheel(Path(part), folder)


def _build(version: str, folder: Path, say: Say, progress: Progress, target: Target | None) -> Path:
    wanted = target or Target.CPU
    absent = [piece for piece in toolchain(wanted) if piece.found is None]
    if absent:
        raise MissingDependency(
            f"without {' and '.join(piece.name for piece in absent)} {DISTRIBUTION} can't be built"
            f" for {wanted}",
            next((piece.install for piece in absent if piece.install), "--target cpu builds everywhere"),
        )
    if free_bytes(folder) < wanted.disk_bytes:
        raise MissingDependency(
            f"{folder.parent} has no room to build for {wanted} ({wanted.disk_bytes / 1e9:.0f} GB)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )
    say(f"{DISTRIBUTION} builds from source: {wanted.takes}, once; the wheel is kept in {folder}")
    source = fetch_sdist(version, say)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        # Temporary files go where they are cleared away, and not to a /tmp that may be small.
        temporary = Path(part) / "tmp"
        temporary.mkdir()
        cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": cores, "TMPDIR": str(temporary)}
        environment |= {"CMAKE_ARGS": cmake_args(target), **toolchain_variables(target), **without_amx()}
        command = pip_command("wheel", "--no-deps", "-w", part, "-v", str(source))
        status = stream(command, environment, log, progress)
        wheel = _keep_wheel(Path(part), folder) if status == 0 else None
    if wheel is None:
        with log.open(errors="replace") as lines:
            reason = telling_line(lines)
        raise MissingDependency(f"{DISTRIBUTION} {version} did not build: {reason}", f"the whole log: {log}")
    return wheel


def _keep_wheel(part: Path, folder: Path) -> Path | None:
    """Move the wheel in `part` into the cache, whole or not at all."""
    for wheel in part.glob("*.whl"):
        return wheel.replace(folder / wheel.name)
    return None


def stream(command: list[str], environment: Mapping[str, str], log: Path, progress: Progress) -> int:
    """Run a command with its output going to `log`; whatever interrupts us ends its whole family."""
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                out.write(line)
                out.flush()  # so that `tail -f` shows how far it is
                if step := build_step(line):
                    progress(*step)
            return process.wait()
        finally:
            if process.poll() is None:
                _end_family(process)


def _end_family(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # lets pip and ninja tidy up
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _check_loads(wheel: Path) -> None:
    """MissingDependency unless a wheel's libraries load here: before it replaces one whose do."""
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=".part-") as part:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        done = subprocess.run(
            [sys.executable, "-P", "-c", _LOADS, part],
            env={**os.environ, "PYTHONPATH": part},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LOADS_WITHIN_S,
            check=False,
        )
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it died without a word"])[-1]
        raise MissingDependency(
            f"{wheel.name} was built and does not load here: {told}",
            f"the engine that was installed stays; the new wheel is kept in {wheel.parent}",
        )


def _options(version: str) -> list[str]:
    """pip's: to it the same version is installed already, and what that needs is there."""
    return ["--force-reinstall", "--no-deps"] if _installed(version) else []


def _install(wheel: Path, version: str, say: Say) -> None:
    say(f"installing {wheel.name}")
    done = pip("install", *_options(version), str(wheel))
    if done.returncode:
        raise MissingDependency(
            f"{wheel.name} can't be installed: {pip_reason(done.stdout)}",
            f"with a network, run it again; the wheel is kept in {wheel.parent}",
        )
    importlib.invalidate_caches()


def main() -> int:
    """`python -m edgebench.runners.engine_build`: the same for Makefiles, with progress on stderr."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("compiling", total=None, visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)
            if not console.is_terminal and done * 10 // total != (done - 1) * 10 // total:
                console.print(f"  step {done} of {total}", markup=False)

        try:
            wheel = ensure(lambda line: console.print(line, markup=False), progress)
        except EdgebenchError as error:
            console.print(f"error: {error.message}\nhint: {error.hint}", markup=False)
            return error.exit_code
    console.print("llama-cpp-python is " + ("installed" if wheel else "already installed"), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
