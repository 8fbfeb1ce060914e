"""edgebench onto a host: this very one, in an environment of its own, all in one folder there.

* ROOT/.edgebench-host says that the folder is edgebench's: nothing is removed where it is not.
* ROOT/environments/KEY/ is a virtual environment, ROOT/wheels/ what it is made of.
* ROOT/cache/ is the remote edgebench's own cache; ROOT/models/ and ROOT/data/ have what was pushed.
* ROOT/runs/JOB/ has a job's files, ROOT/edgebench.sqlite the results of all.
"""

import importlib.metadata
import json
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgebench import __version__
from edgebench.core.errors import DeviceError, EdgebenchError
from edgebench.core.hashing import sha256_file, sha256_json
from edgebench.core.host import JobState
from edgebench.core.own_wheel import own_wheel
from edgebench.core.paths import cache_part
from edgebench.core.pip import NO_INDEX_SIGNS, pip, pip_reason
from edgebench.session_cell import Watcher
from edgebench.session_remote_link import Link

WORKER = "edgebench.session_remote_worker"
FOLDER = ".cache/edgebench-host"
"""Below the home there; EDGEBENCH_HOST_DIR names another."""
OLDEST = (3, 11)
INSTALL_JOB = "install"

_PREPARE = r"""
umask 077
if [ -e "$1" ] && [ ! -f "$1/.edgebench-host" ] && [ -n "$(ls -A "$1")" ]; then echo foreign; exit 0; fi
mkdir -p "$1" && : >>"$1/.edgebench-host" && echo ours
"""
_PROBE = r"""
PATH="$HOME/.local/bin:$PATH"
uname -s; uname -m; echo "$HOME"
for name in python3 python3.14 python3.13 python3.12 python3.11; do
  path=$(command -v $name) && told=$("$path" -c "$1" 2>/dev/null) && echo "$told $path"
done
true
"""
_PROBE_PYTHON = (
    "import importlib.util as u, platform as p, sys;"
    "print(*sys.version_info[:2], int(sys.maxsize > 2**32), p.libc_ver()[1] or '-', "
    "int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))))"
)
_INSTALL = r"""
set -e
env=$1; wheel=$2; python=$3; mark=$4; shift 4
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
if [ -f "$env/ready" ]; then
  rm "$env/ready"
  "$env/bin/python" -m pip install --quiet --no-deps --no-index --force-reinstall "$wheel" >&2
else
  rm -rf "$env"
  "$python" -m venv "$env" >&2
  "$env/bin/python" -m pip install --quiet --retries 1 "$@" "$wheel" >&2
fi
echo "$mark" >"$env/ready"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What a host has, before anything is put there."""

    root: str
    machine: str
    python: str | None
    """A Python that is new enough; None: there is none."""
    version: tuple[int, int]
    """Of the newest Python there."""
    libc: str
    has_venv: bool
    is_64_bit: bool


def find_board(link: Link) -> Board:
    """Look at the host. DeviceError for one that is no Linux computer."""
    lines = link.run(["sh", "-c", _PROBE, "sh", _PROBE_PYTHON]).splitlines()
    if len(lines) < 3 or lines[0] != "Linux":
        told = lines[0] if lines else "nothing"
        raise DeviceError(f"{link.host.name} runs {told[:40]}, not Linux", "only Linux hosts are supported")
    named = os.environ.get("EDGEBENCH_HOST_DIR") or FOLDER
    root = posixpath.join(lines[2], named.removeprefix("~/"))
    found = [m for line in lines[3:] if (m := re.fullmatch(r"(\d+) (\d+) ([01]) (\S+) ([01]) (/.+)", line))]
    pythons = sorted(found, key=lambda m: (int(m[1]), int(m[2])) >= OLDEST and m[5] == "1", reverse=True)
    best = pythons[0] if pythons else None
    version = (int(best[1]), int(best[2])) if best else (0, 0)
    return Board(
        root=posixpath.normpath(root),
        machine=lines[1],
        python=best[6] if best and version >= OLDEST else None,
        version=version,
        libc=best[4] if best else "-",
        has_venv=best is not None and best[5] == "1",
        is_64_bit=best is None or best[3] == "1",
    )


def deploy(link: Link, board: Board, watcher: Watcher, *, engine: bool) -> str:
    """Make the host ready; the interpreter that has edgebench there.

    EDGEBENCH_HOST_PYTHON names one that has it already. Raises DeviceError with what is missing there.
    """
    prepare(link, board.root)
    python = os.environ.get("EDGEBENCH_HOST_PYTHON") or _installed(link, board, watcher)
    with _hinted(f"try there: {python} -m {WORKER} facts; EDGEBENCH_HOST_PYTHON names another interpreter"):
        told = json_of(link, [python, "-P", "-m", WORKER, "facts"])
    if told.get("version") != __version__:
        raise DeviceError(
            f"{link.host.name}: {python} has edgebench {told.get('version')}, this is {__version__}",
            "install the same version in both places, or unset EDGEBENCH_HOST_PYTHON",
        )
    if engine and isinstance(told.get("engine_key"), str) and _fits(board.libc):
        _push_engine(link, board, told["engine_key"], watcher)
    return python


def prepare(link: Link, root: str, variable: str = "EDGEBENCH_HOST_DIR") -> None:
    """Make the folder; DeviceError when it is somebody else's. `variable` is what names another one."""
    with _hinted(f"name a folder you may write to with {variable}"):
        told = link.run(["sh", "-c", _PREPARE, "sh", root]).strip()
    if told != "ours":
        raise DeviceError(
            f"{link.host.name}: {root} is there and was not made by edgebench",
            f"name another folder with {variable}",
        )


@contextmanager
def _hinted(hint: str) -> Iterator[None]:
    """Say how to mend what a command there refused, where it has no hint of its own."""
    try:
        yield
    except DeviceError as error:
        error.hint = error.hint or hint
        raise


def worker_command(board: Board, python: str, *words: str) -> list[str]:
    """The command of the worker there; everything it keeps is kept in the root."""
    variables = [f"EDGEBENCH_CACHE={board.root}/cache", f"PIP_FIND_LINKS={board.root}/wheels"]
    return ["env", *variables, python, "-P", "-m", WORKER, *words]


def json_of(link: Link, argv: list[str]) -> dict[str, Any]:
    """The JSON object a worker prints; DeviceError for anything else."""
    told = link.run(argv, deadline_s=300.0)
    try:
        value = json.loads(told.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DeviceError(f"{link.host.name}: the worker's answer is not understood: {told[:120]!r}")
    return value


def _installed(link: Link, board: Board, watcher: Watcher) -> str:
    """The interpreter of an environment with this edgebench, made or renewed when needed."""
    python = _usable_python(link, board)
    name, content = own_wheel()
    mark = sha256(content).hexdigest()
    needs = importlib.metadata.requires("edgebench") or []
    env = f"{board.root}/environments/{sha256_json([needs, python, board.version])[:12]}"
    wheel = f"{board.root}/wheels/{mark[:16]}/{name}"
    ready = ["sh", "-c", 'cat "$1/ready" 2>/dev/null || true', "sh", env]
    for _ in range(2):  # a second time when the installation that ran already was of another edgebench
        if link.run(ready).strip() == mark:
            break
        watcher.say(f"putting edgebench {__version__} on {link.host.name}, in {board.root}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            _push(link, path, wheel)
            _make_environment(
                link, board, ["sh", "-c", _INSTALL, "sh", env, wheel, python, mark], path, watcher
            )
    return f"{env}/bin/python"


def _make_environment(link: Link, board: Board, command: list[str], wheel: Path, watcher: Watcher) -> None:
    """Install with the host's own package index, or with what is fetched here where it reaches none."""
    told = _install(link, board, command)
    if told is not None and any(sign in told for sign in NO_INDEX_SIGNS):
        watcher.say(f"{link.host.name} does not reach a package index: its packages are fetched here")
        _push_packages(link, board, wheel)
        told = _install(link, board, [*command, "--no-index", "--find-links", f"{board.root}/wheels"])
    if told is not None:
        raise DeviceError(
            f"{link.host.name}: edgebench can't be installed: {pip_reason(told)}",
            f"the whole story is there in {board.root}/runs/{INSTALL_JOB}/errors; EDGEBENCH_HOST_PYTHON names"
            " an interpreter that has edgebench already",
        )


def _usable_python(link: Link, board: Board) -> str:
    if not board.is_64_bit or board.machine not in ("x86_64", "aarch64"):
        bits = "" if board.is_64_bit else " with a 32-bit system"
        raise DeviceError(
            f"{link.host.name} is a {board.machine}{bits}: the engines need 64-bit x86 or ARM",
            "install a 64-bit system there, if its processor is one",
        )
    if board.python is None:
        told = f"; its newest is {board.version[0]}.{board.version[1]}" if board.version[0] else ""
        raise DeviceError(
            f"{link.host.name} needs Python {OLDEST[0]}.{OLDEST[1]} or newer{told}",
            "there: sudo apt install python3 python3-venv (Debian 12, Ubuntu 24.04 and later), or: uv python"
            " install 3.12",
        )
    if not board.has_venv:
        raise DeviceError(
            f"{link.host.name}: {board.python} can't make a virtual environment",
            "there: sudo apt install python3-venv",
        )
    return board.python


def _install(link: Link, board: Board, command: list[str]) -> str | None:
    """Run the installation as a job, so that a cut link does not leave half of one; why it failed."""
    look = link.do(command, root=board.root, job=INSTALL_JOB)
    if look.state is JobState.OVER and look.exit_status == "0":
        return None
    errors = f"{board.root}/runs/{INSTALL_JOB}/errors"
    return link.run(["tail", "-c", "8000", errors]) or "it was killed"


def _push_packages(link: Link, board: Board, wheel: Path) -> None:
    """Everything edgebench needs there, fetched here for the host's kind of computer."""
    with tempfile.TemporaryDirectory() as folder:
        engine = [r for r in _engine_needs() if ";" not in r]
        done = pip(
            *("download", "--quiet", "--only-binary", ":all:", "--dest", folder),
            *("--python-version", f"{board.version[0]}.{board.version[1]}", "--implementation", "cp"),
            *(word for tag in platform_tags(board.machine, board.libc) for word in ("--platform", tag)),
            *(str(wheel), *engine),
        )
        if done.returncode:
            raise DeviceError(
                f"{link.host.name} has no network, and its packages can't be fetched here:"
                f" {pip_reason(done.stdout)}",
                "give either of the two a package index, or name an interpreter there that has edgebench with"
                " EDGEBENCH_HOST_PYTHON",
            )
        for path in sorted(Path(folder).glob("*.whl")):
            _push(link, path, f"{board.root}/wheels/{path.name}")


def _engine_needs() -> list[str]:
    try:
        return importlib.metadata.requires("llama-cpp-python") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def platform_tags(machine: str, libc: str) -> list[str]:
    """The wheels a computer takes, by pip's names: every glibc up to its own."""
    found = re.fullmatch(r"2\.(\d+).*", libc)
    newest = int(found[1]) if found else 17
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 16, -1)]
    return [*tags, f"manylinux2014_{machine}", f"linux_{machine}"]


def _fits(libc: str) -> bool:
    """Whether what was linked here finds its libc there."""
    import platform

    ours, theirs = (re.findall(r"\d+", text) for text in (platform.libc_ver()[1], libc))
    return bool(ours) and [int(n) for n in theirs] >= [int(n) for n in ours]


def _push_engine(link: Link, board: Board, key: str, watcher: Watcher) -> None:
    """A wheel built here for a computer of the very same kind; else the host builds its own."""
    if not re.fullmatch(r"[0-9a-f]{16}", key):
        raise EdgebenchError(f"{link.host.name}: {key[:40]!r} is no key of a build")
    for wheel in sorted((cache_part("wheels") / key).glob("*.whl")):
        watcher.say(f"its processor is of this computer's kind: {wheel.name} goes there as it is")
        _push(link, wheel, f"{board.root}/cache/wheels/{key}/{wheel.name}")


def _push(link: Link, path: Path, target: str) -> None:
    digest = sha256_file(path)
    link(lambda: link.host.push(path, target, sha256=digest, sent=lambda _: None))
