"""Tool environments: virtual environments of edgebench's own, made once into the cache.

Exporters and reference engines bring gigabytes, and need versions of one library that exclude each
other. So nobody installs them: `environments/NAME.txt` pins a whole closure, and the environment made
of it runs `edgebench.session_worker` in a child process, with nothing of it in edgebench's own.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import MissingDependency, nearest
from edgebench.core.hashing import sha256_json
from edgebench.core.own_wheel import own_parts
from edgebench.core.paths import atomic_path, cache_part, exclusive, free_bytes
from edgebench.core.pip import pip, pip_reason

Say = Callable[[str], None]

_FOLDER = Path(__file__).with_name("environments")
_OVER = {"genai": "export"}
"""Environment -> the one it is laid over."""
_DISK_BYTES = {"export": 4 * 10**9, "genai": 10**9, "native": 10**9}
"""Free disk that making one takes, pip's own downloads included."""
_TITLES = {
    "export": "ONNX export, torch, adapters: 0.5 GB to fetch, 1.3 GB on disk",
    "genai": "onnxruntime-genai's model builder: 0.1 GB to fetch",
    "native": "zig and cmake, which build programs for phones: 0.2 GB to fetch, 0.6 GB on disk",
}

QUIET = {
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What every child is told: no telemetry, no look at who the user is."""
OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool environment that is there: its interpreter, and what goes before its own packages."""

    name: str
    python: Path
    overlays: tuple[Path, ...] = ()

    def environment(self, *, offline: bool = True) -> dict[str, str]:
        """The variables of a child in it; edgebench is importable there."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        path = os.pathsep.join(map(str, (_shim(), *self.overlays)))
        return {**kept, **QUIET, **(OFFLINE if offline else {}), "PYTHONPATH": path}


def tool_names() -> list[str]:
    """Every tool environment edgebench knows how to make."""
    return sorted(path.stem for path in _FOLDER.glob("*.txt"))


def tool_title(name: str) -> str:
    """What an environment is for, and what it costs."""
    return _TITLES[name]


def pinned(name: str, package: str) -> str:
    """The version of a package in a tool environment, made or not; KeyError for one that is not in it."""
    for part in (name, _OVER.get(name)):
        lines = (_FOLDER / f"{part}.txt").read_text(encoding="utf-8").splitlines() if part else []
        for line in lines:
            distribution, _, version = line.partition("==")
            if distribution.lower().replace("_", "-") == package.lower().replace("_", "-"):
                return version.strip()
    raise KeyError(package)


def find_tool(name: str) -> Tool | None:
    """The environment, if it is there already."""
    folder, under = _place(name), _OVER.get(name)
    if under is None:
        python = folder / "bin" / "python"
        return Tool(name=name, python=python) if python.exists() else None
    below = find_tool(under)
    if below is None or not folder.is_dir():
        return None
    return Tool(name=name, python=below.python, overlays=(folder, *below.overlays))


def ensure_tool(name: str, say: Say) -> Tool:
    """The environment, made when it is not there yet; MissingDependency says which piece can't be had."""
    if name not in tool_names():
        raise nearest(name, tool_names(), kind="tool environment")
    if (found := find_tool(name)) is not None:
        return found
    below = ensure_tool(_OVER[name], say) if name in _OVER else None
    folder = _place(name)
    with exclusive(folder, say):
        for leaving in folder.parent.glob(f".part-*-{folder.name}"):
            shutil.rmtree(leaving, ignore_errors=True)  # of a process that was killed
        if not folder.exists():
            if free_bytes(folder.parent) < _DISK_BYTES[name]:
                raise MissingDependency(
                    f"{folder.parent} has no room for the tool environment {name} "
                    f"({_DISK_BYTES[name] / 1e9:.0f} GB)",
                    "free some disk, or point EDGEBENCH_CACHE at another one",
                )
            say(f"making the tool environment {name} ({_TITLES[name]}): a few minutes, once")
            with atomic_path(folder) as part:
                _install(name, part, below)
    found = find_tool(name)
    if found is None:
        raise MissingDependency(
            f"the tool environment {name} is incomplete", f"delete {folder} and try again"
        )
    return found


def _install(name: str, part: Path, below: Tool | None) -> None:
    if below is None:
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(part)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            told = (made.stdout + made.stderr).strip().splitlines() or ["no reason given"]
            raise MissingDependency(
                f"a virtual environment can't be made: {told[0]}",
                "Debian and Ubuntu: apt install python3-venv",
            )
        python, where = part / "bin" / "python", ["--no-deps"]
    else:
        python, where = below.python, ["--no-deps", "--target", str(part)]
    done = pip("install", "--quiet", *where, "-r", str(_FOLDER / f"{name}.txt"), python=python)
    if done.returncode:
        raise MissingDependency(
            f"the tool environment {name} can't be made: {pip_reason(done.stdout)}",
            f"with a network: edgebench cache prefetch {name}",
        )


def _place(name: str) -> Path:
    """Named by what is in it: other pins, another Python or another computer make another one."""
    parts = [name, *([_OVER[name]] if name in _OVER else [])]
    key = [(_FOLDER / f"{part}.txt").read_text(encoding="utf-8") for part in parts]
    key += [sys.version, sysconfig.get_platform(), str(Path(sys.executable).resolve())]
    return cache_part("environments") / f"{name}-{sha256_json(key)[:12]}"


def _shim() -> Path:
    """A folder whose `edgebench` is this very one, and nothing else of this environment.

    The rooms of a checkout stand beside `edgebench/` and are mapped into it by the installer; a link
    each puts them where another interpreter finds them. The entry points come along as metadata.
    """
    import edgebench

    points = importlib.metadata.distribution("edgebench").read_text("entry_points.txt") or ""
    told = {name: str(path.resolve()) for name, path in sorted(own_parts().items())}
    folder = cache_part("environments") / f"shim-{sha256_json([told, points])[:12]}"
    with exclusive(folder, lambda _: None):
        if folder.exists():
            return folder
        with atomic_path(folder) as part:
            package = part / "edgebench"
            package.mkdir(parents=True)
            for name, path in told.items():
                (package / name).symlink_to(path)
            metadata = part / f"edgebench-{edgebench.__version__}.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: edgebench\nVersion: {edgebench.__version__}\n",
                encoding="utf-8",
            )
            (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
    return folder
