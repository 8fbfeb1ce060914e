"""Makes and installs llama-cpp-python, once per version and kind of CPU, and keeps the wheel.

A native build uses every instruction the CPU has, so a wheel made on one computer may die on another:
wheels are kept under a key of version, CPU flags, `CMAKE_ARGS` and platform.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from edgebench.core.cpu import cpu_flags
from edgebench.core.errors import EdgebenchError, MissingDependency
from edgebench.core.hashing import sha256_json
from edgebench.core.paths import cache_part, exclusive
from edgebench.core.pip import pip, pip_command, pip_reason
from edgebench.runners.llama_source import (
    C_COMPILER,
    CXX_COMPILER,
    DISTRIBUTION,
    Say,
    compiler_hint,
    fetch_sdist,
    find_compiler,
)

Progress = Callable[[int, int], None]
"""Told how many of how many build steps are done."""

_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_ERROR = re.compile(r"(fatal error|error): |CMake Error|\bError: |\bKilled\b", re.IGNORECASE)
_PIP_TALK = ("error: subprocess-", "error: metadata-", "ERROR: Failed building", "ERROR: Failed to build")


def ensure(say: Say, progress: Progress) -> Path | None:
    """Make sure that the pinned llama-cpp-python is installed; returns the wheel, or None if it was there.

    Taken from, in this order: the environment itself, the cache, a prebuilt wheel that pip finds, a build.
    Raises MissingDependency when a compiler or the network is missing, or the build fails.
    """
    version = pinned_version()
    if _installed(version):
        return None
    folder = cache_part("wheels") / wheel_key(version)
    with exclusive(folder / "wheel", say):
        if _installed(version):  # by the process that was waited for
            return None
        _remove_leavings(folder)
        wheel = next(iter(sorted(folder.glob("*.whl"))), None)
        if wheel is None:
            wheel = _prebuilt(version, folder) or _build(version, folder, say, progress)
        _install(wheel, say)
    return wheel


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


def wheel_key(version: str) -> str:
    """Names a build: the same key means that a wheel made there runs here."""
    cpu = " ".join(cpu_flags()) or platform.processor()
    build = [version, cpu, os.environ.get("CMAKE_ARGS", ""), sysconfig.get_platform()]
    return sha256_json(build)[:16]


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


def _installed(version: str) -> bool:
    importlib.invalidate_caches()
    if importlib.util.find_spec("llama_cpp") is None:
        return False
    try:
        return importlib.metadata.version(DISTRIBUTION) == version
    except importlib.metadata.PackageNotFoundError:
        return False


def _remove_leavings(folder: Path) -> None:
    """What a build left that was killed outright; whoever holds the lock may clear it away."""
    for leaving in folder.glob(".part-*"):
        shutil.rmtree(leaving, ignore_errors=True)


def _prebuilt(version: str, folder: Path) -> Path | None:
    if os.environ.get("CMAKE_ARGS"):
        return None  # a build made to order was asked for
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        options = ("--no-deps", "--only-binary", DISTRIBUTION, "--dest", part)
        pip("download", *options, f"{DISTRIBUTION}=={version}")  # that there is none is the usual case
        return _keep_wheel(Path(part), folder)


def _build(version: str, folder: Path, say: Say, progress: Progress) -> Path:
    kinds = {"C": C_COMPILER, "C++": CXX_COMPILER}
    absent = [name for name, kind in kinds.items() if find_compiler(kind) is None]
    if absent:
        raise MissingDependency(
            f"without a {' and a '.join(absent)} compiler {DISTRIBUTION} can't be built, "
            "and no GGUF model can be measured",
            compiler_hint(),
        )
    say(f"{DISTRIBUTION} builds from source: 6 to 15 minutes on 2 cores, once; the wheel is kept in {folder}")
    source = fetch_sdist(version, say)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        # Temporary files go where they are cleared away, and not to a /tmp that may be small.
        temporary = Path(part) / "tmp"
        temporary.mkdir()
        cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": cores, "TMPDIR": str(temporary)}
        command = pip_command("wheel", "--no-deps", "-w", part, "-v", str(source))
        status = _stream(command, environment, log, progress)
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


def _stream(command: list[str], environment: Mapping[str, str], log: Path, progress: Progress) -> int:
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


def _install(wheel: Path, say: Say) -> None:
    say(f"installing {wheel.name}")
    done = pip("install", str(wheel))
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
