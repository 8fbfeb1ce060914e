"""Gathers what measures ONNX models on a device without Python: our program, ONNX Runtime and glibc.

The library is the one of the wheel that the `onnx` runner is pinned to. It is made for glibc, which phones
don't have: the loader and the libraries travel along, and a script of one line starts the program with
them. The library looks for the processor's instructions itself, so there is one build for each target.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.paths import atomic_path, cache_part, exclusive
from edgebench.core.pip import pip, pip_reason
from edgebench.core.tool_env import Say, ensure_tool, pinned
from edgebench.runners.llama_source import first_error, quiet
from edgebench.runners.native_build import HEADER
from edgebench.runners.native_target import Toolchain, abi_of, choose_toolchain, find_kit, target_here

PROGRAM = "edgebench-ort"
"""The script that starts the program."""
ELF = "edgebench-ort.elf"
LIBRARY = "libonnxruntime.so.1"
LEVEL = "any"
SOURCE = Path(__file__).parent / "native" / "edgebench_ort.cpp"
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
"""ABI -> what wheels and compilers call it."""
LOADERS = {"arm64": "/lib/ld-linux-aarch64.so.1", "x86_64": "/lib64/ld-linux-x86-64.so.2"}
"""ABI -> glibc's loader, where it lies on a computer of that ABI."""
SHARED = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"),
    *("libgcc_s.so.1", "libstdc++.so.6"),
)
"""What the library is linked to, the loader aside."""
SHELLS = {"android": "/system/bin/sh", "linux": "/bin/sh"}
GLIBC = "2.28"
"""The glibc that the wheels ask for."""
_FACTS = "onnx.json"
_START = """#!{shell}
here=${{0%/*}}
exec "$here/{loader}" --library-path "$here" "$here/{elf}" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxBuilt:
    """Everything one target needs, to lie in one folder there."""

    path: Path
    """Their folder here."""
    key: str
    """16 hex digits of all their contents."""
    target: str
    files: Mapping[str, Path]
    """Name there -> file here. `PROGRAM` is started; it needs all the others beside it."""
    level: str = LEVEL

    @property
    def sha256(self) -> str:
        """Of our own program."""
        return sha256_file(self.files[ELF])


def built(target: str) -> OnnxBuilt | None:
    """The newest one of this source for a target; None: it is to be made."""
    abi_of(target)
    for file in sorted(cache_part("native").glob(f"*/{_FACTS}"), key=os.path.getmtime, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged one is made anew
            told = json.loads(file.read_text(encoding="utf-8"))
            if (told["target"], told["source"]) == (target, source_key()):
                return _found(file.parent, told)
    return None


def built_here() -> OnnxBuilt | None:
    """The one for this computer, if it is there."""
    target = target_here()
    return built(target) if target else None


def build_here(say: Say) -> OnnxBuilt:
    """The same, made when it is not there."""
    target = target_here()
    if target is None:
        raise MissingDependency("native programs are built for Linux on x86-64 and arm64 only")
    return build(target, say=say)


def build(target: str, *, toolchain: str | None = None, say: Say = quiet) -> OnnxBuilt:
    """What a target needs, from the cache or made: a download of 30 MB and seconds of compiling.

    Raises MissingDependency: no compiler, wheel or glibc for the target, or it does not compile.
    """
    abi = abi_of(target)
    lock = cache_part("native") / f"work-onnx-{target}"
    with exclusive(lock, say), tempfile.TemporaryDirectory() as scratch:
        found = None if toolchain else built(target)
        if found is not None:
            return found
        made = Path(scratch)
        library = _library(abi, say)
        files = {LIBRARY: library, **_glibc(abi, library, made, say)}
        files[ELF] = _compiled(abi, toolchain, made, say)
        files[PROGRAM] = made / PROGRAM
        files[PROGRAM].write_text(_start(target), encoding="utf-8")
        return _keep(files, target)


def source_key() -> str:
    """What every build is made of: ONNX Runtime's version and our own sources."""
    ours = [sha256_file(SOURCE), sha256_file(HEADER)]
    return sha256_json([pinned("export", "onnxruntime"), *ours, _START])[:12]


def _start(target: str) -> str:
    loader = Path(LOADERS[abi_of(target)]).name
    return _START.format(shell=SHELLS[target.partition("-")[0]], loader=loader, elf=ELF)


def _found(place: Path, told: Mapping[str, str]) -> OnnxBuilt:
    files = {path.name: path for path in sorted(place.iterdir()) if path.name != _FACTS}
    return OnnxBuilt(path=place, key=told["key"], target=told["target"], files=files)


def _keep(files: Mapping[str, Path], target: str) -> OnnxBuilt:
    """Put what was gathered where it is looked for, whole or not at all."""
    hashes = {name: sha256_file(file) for name, file in files.items()}
    key = sha256_json(hashes)[:16]
    told = {"target": target, "key": key, "source": source_key(), "sha256": hashes}
    place = cache_part("native") / f"onnx-{target}-{key}"
    if not place.exists():
        with atomic_path(place) as part:
            part.mkdir()
            for name, file in files.items():
                shutil.copyfile(file, part / name)
                (part / name).chmod(0o755)
    with atomic_path(place / _FACTS) as part:  # the same may come of another source
        part.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return _found(place, {"target": target, "key": key})


# ONNX Runtime.


def _library(abi: str, say: Say) -> Path:
    """The wheel's library, fetched once by pip from wherever the user's pip fetches things."""
    version = pinned("export", "onnxruntime")
    kept = cache_part("native") / f"onnxruntime-{version}-{abi}" / LIBRARY
    if kept.exists():
        return kept
    say(f"fetching ONNX Runtime {version} for {abi}: 30 MB, once")
    with tempfile.TemporaryDirectory() as scratch:
        # The library in it is the same for every Python: a wheel of one that has one will do.
        asked = ["--python-version", "3.12", "--platform", f"manylinux_2_28_{MACHINES[abi]}"]
        asked += ["--no-deps", "--only-binary=:all:", "--dest", scratch, f"onnxruntime=={version}"]
        done = pip("download", "--quiet", *asked)
        wheel = next(Path(scratch).glob("*.whl"), None)
        if done.returncode or wheel is None:
            why = pip_reason(done.stdout)
            raise MissingDependency(f"ONNX Runtime {version} for {abi} can't be had: {why}")
        with zipfile.ZipFile(wheel) as inside, atomic_path(kept) as part:
            prefix = "onnxruntime/capi/libonnxruntime.so"
            name = next((name for name in inside.namelist() if name.startswith(prefix)), None)
            if name is None:
                raise MissingDependency(f"the wheel of ONNX Runtime {version} has no {prefix} any more")
            with inside.open(name) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file)
    return kept


# glibc.


def _glibc(abi: str, library: Path, scratch: Path, say: Say) -> dict[str, Path]:
    """The loader and what the library needs: this computer's, a cross compiler's, Debian's packages'."""
    found = _own(abi, library) or _in_folders(abi, Path("/"))
    if found:
        return found
    machine = f"{'amd64' if abi == 'x86_64' else abi}-cross"
    names = [f"libc6-{machine}", f"libgcc-s1-{machine}", f"libstdc++6-{machine}"]
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        say(f"fetching glibc for {abi} from this system's packages: 5 MB, once")
        unpacked = scratch / "packages"
        unpacked.mkdir()
        done = _run(["apt-get", "download", *names], cwd=unpacked)
        for package in sorted(unpacked.glob("*.deb")) if done.returncode == 0 else ():
            _run(["dpkg-deb", "-x", str(package), str(unpacked)])
        if found := _in_folders(abi, unpacked):
            return found
    raise MissingDependency(
        f"glibc for {abi} is not here, and ONNX Runtime needs it where the model is",
        f"Debian, Ubuntu: apt update && apt install {names[-1]}; elsewhere: build it in a container of one",
    )


def _own(abi: str, library: Path) -> dict[str, Path]:
    """What this computer itself would start the library with; empty: it is of another kind."""
    loader = Path(LOADERS[abi])
    here = target_here()
    if here is None or abi_of(here) != abi or not loader.exists():
        return {}
    told = _run([str(loader), "--list", str(library)]).stdout
    paths = {words[0]: Path(words[2]) for line in told.splitlines() if (words := line.split())[1:2] == ["=>"]}
    return _complete({loader.name: loader, **{name: paths[name] for name in SHARED if name in paths}})


def _in_folders(abi: str, root: Path) -> dict[str, Path]:
    """The same from where Debian's and others' cross compilers have it."""
    machine = f"{MACHINES[abi]}-linux-gnu"
    folders = [root / "usr" / machine / "lib", root / "lib" / machine, root / "usr/lib" / machine]
    paths: dict[str, Path] = {}
    for name in (Path(LOADERS[abi]).name, *SHARED):
        there = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if there is not None:
            paths[name] = there
    return _complete(paths)


def _complete(paths: dict[str, Path]) -> dict[str, Path]:
    """Libraries that belong together; none when one is missing."""
    return paths if len(paths) == 1 + len(SHARED) else {}


# Our program.


def _compiled(abi: str, toolchain: str | None, scratch: Path, say: Say) -> Path:
    chosen = choose_toolchain(abi, toolchain)
    if chosen is Toolchain.NDK:
        raise UsageError("the NDK has no glibc, which ONNX Runtime's library needs", "--toolchain gcc or zig")
    say(f"building {PROGRAM} for {abi} with {chosen}")
    if chosen is Toolchain.ZIG:
        compiler = [str(ensure_tool("native", say).python), "-m", "ziglang", "c++"]
        compiler += ["-target", f"{MACHINES[abi]}-linux-gnu.{GLIBC}"]
    else:
        compiler = [find_kit(abi, chosen, scratch).definitions["CMAKE_CXX_COMPILER"]]
    made = scratch / ELF
    flags = ["-std=c++17", "-O2", "-s", f"-ffile-prefix-map={SOURCE.parent}=native"]
    done = _run([*compiler, *flags, "-o", str(made), str(SOURCE), "-ldl"])
    if done.returncode:
        raise MissingDependency(f"{PROGRAM} did not build: {first_error(done.stdout)}")
    return made


def _run(command: Sequence[str], cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command's status and all it says, in English."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LD_")}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "LC_ALL": "C", "ZIG_GLOBAL_CACHE_DIR": str(cache_part("native") / "zig")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
