"""The one source of engine source: llama.cpp exactly as the installed llama-cpp-python carries it.

The wheel has libraries and headers but no program and no converter; its source distribution has both.
It is fetched once, checked against the installed header, and llama.cpp's own tools are compiled from it
by one call each, linked to the wheel's libraries: the tools and Python then run the same kernels.
"""

import gzip
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from edgebench.core.errors import MissingDependency, nearest
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.paths import atomic_path, cache_part, exclusive
from edgebench.core.pip import pip, pip_reason

DISTRIBUTION = "llama-cpp-python"
BUILD_COMMAND = "edgebench runners build llama_cpp"
SDIST_SHA256 = {"0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"}
"""Source distributions this code was tested with; other versions are taken as they come."""

TOOLS = (
    *("llama-bench", "llama-quantize", "llama-perplexity", "llama-imatrix", "llama-batched-bench"),
    *("llama-gguf-split", "llama-server"),
)
LIBRARIES = ("llama-common", "llama", "ggml", "ggml-cpu", "ggml-base", "pthread")
C_COMPILER = ("CC", ("cc", "gcc", "clang"))
CXX_COMPILER = ("CXX", ("c++", "g++", "clang++"))

Say = Callable[[str], None]
"""Tells the user, in one line, what takes its time."""


def quiet(_line: str) -> None:
    """The `Say` of somebody who wants to hear nothing."""


def sdist(say: Say = quiet) -> Path:
    """The source distribution of the installed llama-cpp-python, fetched once."""
    return fetch_sdist(installed_version(), say)


def source_tree(say: Say = quiet) -> Path:
    """llama.cpp's source as a folder: unpacked once, and the one that the installed wheel was built from."""
    version = installed_version()
    target = cache_part("source") / f"llama_cpp_python-{version}"
    with exclusive(target, say):
        if not target.exists():
            archive = fetch_sdist(version, say)
            say(f"unpacking llama.cpp's source into {target}")
            with atomic_path(target) as part:
                unpack(archive, f"llama_cpp_python-{version}/vendor/llama.cpp", part)
    _check_header(target)
    return target


def tool(name: str, say: Say = quiet) -> Path:
    """One of llama.cpp's own programs, compiled on first use against the installed wheel's libraries."""
    target = tool_path(name)
    with exclusive(target, say):
        if not target.exists():
            _compile(name, target, say)
    return target


def tool_path(name: str) -> Path:
    """Where one of llama.cpp's programs lies, once it is compiled."""
    if name not in TOOLS:
        raise nearest(name, TOOLS, kind="llama.cpp tool")
    return cache_part("tools") / _tools_key() / name


def fetch_sdist(version: str, say: Say) -> Path:
    """The source distribution of one version, from the cache or, once, from the package index."""
    target = cache_part("sdists") / f"llama_cpp_python-{version}.tar.gz"
    with exclusive(target, say):
        if target.exists():
            _check_archive(target, version)
            return target
        say(f"fetching the source of {DISTRIBUTION} {version}: 77 MB and about 45 s, once")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as folder:
            options = ("--no-deps", "--no-binary", DISTRIBUTION, "--dest", folder)
            done = pip("download", *options, f"{DISTRIBUTION}=={version}")
            found = sorted(Path(folder).glob("*.tar.gz"))
            if done.returncode or not found:
                raise MissingDependency(
                    f"the source of {DISTRIBUTION} {version} can't be fetched: {pip_reason(done.stdout)}",
                    f"with a network, run it again; or put {target.name} into {target.parent}",
                )
            _check_archive(found[0], version)
            found[0].replace(target)
    return target


def installed_version() -> str:
    """The version of llama-cpp-python in this environment; MissingDependency when it is not there."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependency(f"{DISTRIBUTION} is not installed", BUILD_COMMAND) from error


def find_compiler(kind: tuple[str, Sequence[str]]) -> list[str] | None:
    """The words that call a compiler: the environment variable's, else the first name on PATH; or None."""
    variable, names = kind
    named = shlex.split(os.environ.get(variable, ""))
    if named:
        return named if shutil.which(named[0]) else None
    return next(([name] for name in names if shutil.which(name)), None)


def compiler_hint() -> str:
    """The line that installs a C and C++ compiler here."""
    return "xcode-select --install" if platform.system() == "Darwin" else "apt install g++"


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Unpack what lies under the folder `inside` of a tar file; all else in it stays out.

    Only regular files are written, each under its own name: no links, no devices, nothing outside
    `target`. (`tarfile`'s own filters are missing from the Python 3.11.2 of Debian 12.)
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isfile() or ".." in path.parts or not path.is_relative_to(inside):
                    continue
                file = target / path.relative_to(inside)
                file.parent.mkdir(parents=True, exist_ok=True)
                if content := tar.extractfile(member):
                    with content, file.open("wb") as out:
                        shutil.copyfileobj(content, out)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MissingDependency(f"{archive} is damaged: {error}", "delete it and run again") from error
    if not target.exists():
        raise MissingDependency(f"{archive} has no {inside}", "delete it and run again")


def first_error(output: str) -> str:
    """The first line in which a compiler or linker complains."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines[-1:] or ["it gave no reason"])[0]


def _site() -> Path:
    """The folder the wheel was installed to; the package itself is not imported."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise MissingDependency(f"{DISTRIBUTION} is not installed", BUILD_COMMAND)
    return Path(spec.origin).parents[1]


def _incomplete(file: Path) -> MissingDependency:
    return MissingDependency(f"the installed {DISTRIBUTION} has no {file}", f"reinstall: {BUILD_COMMAND}")


def _check_archive(archive: Path, version: str) -> None:
    expected = SDIST_SHA256.get(version)
    if expected and sha256_file(archive) != expected:
        raise MissingDependency(
            f"{archive} is not the source of {DISTRIBUTION} {version}: its sha256 is not {expected[:12]}…",
            "delete it if it is still there, and run again with the usual package index",
        )


def _check_header(tree: Path) -> None:
    """A tool built from another llama.cpp would misread the library's structures."""
    ours, installed = tree / "include" / "llama.h", _site() / "include" / "llama.h"
    if not installed.exists():
        raise _incomplete(installed)
    if not ours.exists() or ours.read_bytes() != installed.read_bytes():
        raise MissingDependency(
            f"the source in {tree} does not match the installed {DISTRIBUTION}: llama.h differs",
            f"delete {tree}; if that does not help, reinstall: {BUILD_COMMAND}",
        )


def _tools_key() -> str:
    """Tools belong to the libraries they were linked with: their bytes, and the folder they are found in."""
    folder = _site() / "lib"
    end = ".dylib" if platform.system() == "Darwin" else ".so"
    libraries = [folder / f"{name}{end}" for name in ("libllama", "libggml-cpu")]
    for library in libraries:
        if not library.exists():
            raise _incomplete(library)
    return sha256_json([installed_version(), str(folder), *map(sha256_file, libraries)])[:16]


def _compile(name: str, target: Path, say: Say) -> None:
    compiler = find_compiler(CXX_COMPILER)
    if compiler is None:
        raise MissingDependency(
            f"without a C++ compiler {name} can't be built: no $CXX, {', '.join(CXX_COMPILER[1])} on PATH",
            compiler_hint(),
        )
    tree, libraries = source_tree(say), _site() / "lib"
    folder = tree / "tools" / (name if name == "llama-bench" else name.removeprefix("llama-"))
    sources = [str(file) for file in sorted(folder.glob("*.cpp"))]
    includes = [f"-I{tree / part}" for part in ("common", "vendor", "include", "ggml/include", "src")]
    links = [f"-l{library}" for library in LIBRARIES]
    # RPATH, not RUNPATH, which is not used for the libraries of libraries: those have no path of their own.
    linker = [] if platform.system() == "Darwin" else ["-Xlinker", "--disable-new-dtags"]
    linker += ["-Xlinker", "-rpath", "-Xlinker", str(libraries)]
    server = name == "llama-server"
    say(f"compiling {name} with {compiler[-1]}: {'about two minutes' if server else 'up to a minute'}, once")
    with atomic_path(target) as part, tempfile.TemporaryDirectory() as scratch:
        options = ["-std=c++17", "-O2" if server else "-O3", "-DNDEBUG", f"-I{folder}", *includes]
        if server:
            options += _server_options(tree, libraries, Path(scratch))
            sources.append(f"{scratch}/ui.cpp")
            links.insert(0, "-lmtmd")
        command = [*compiler, *options, *sources, "-o", str(part), f"-L{libraries}", *links, *linker]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            log = target.with_name(f"{name}.log")
            log.write_text(shlex.join(command) + "\n" + done.stderr)
            reason = first_error(done.stderr)
            raise MissingDependency(f"{name} did not compile: {reason}", f"the whole log: {log}")


def _server_options(tree: Path, libraries: Path, scratch: Path) -> list[str]:
    """What llama-server needs besides: an empty web page, made in `scratch`, and its library's defines.

    Without the defines that the library was compiled with, their classes' layouts differ.
    """
    page = tree / "tools" / "ui"
    head, body = ((page / name).read_text(encoding="utf-8") for name in ("ui.h.in", "ui.cpp.in"))
    kept = [line for line in head.splitlines() if "#cmakedefine" not in line]
    (scratch / "ui.h").write_text("\n".join(kept).replace("@N_ASSETS@", "0") + "\n", encoding="utf-8")
    kept = [line for line in body.splitlines() if "@ASSET_" not in line]
    code = "\n".join(kept).replace("@N_ASSETS@", "0").replace("@USE_GZIP@", "false")
    (scratch / "ui.cpp").write_text(code + "\n", encoding="utf-8")
    common = libraries / f"libllama-common{'.dylib' if platform.system() == 'Darwin' else '.so'}"
    with_tls = b"SSL_CTX_new" in common.read_bytes()
    defines = ["-DLLAMA_SUBPROCESS", *(["-DCPPHTTPLIB_OPENSSL_SUPPORT"] if with_tls else [])]
    return [*defines, f"-I{scratch}", f"-I{tree / 'tools' / 'mtmd'}"]
