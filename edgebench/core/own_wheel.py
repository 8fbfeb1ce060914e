"""edgebench as a wheel, made of the very files that run here: for a computer that has none.

Neither sources nor a build backend are needed: an installation holds all there is to a wheel. The same
files make the same bytes, so a wheel's sha256 tells whether a host has this edgebench.
"""

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgebench.core.errors import MissingDependency

ROOMS = ("quantize", "runners", "devices", "results")
"""Parts that stand beside `edgebench/` in a checkout, and inside it once installed."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: edgebench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_parts() -> dict[str, Path]:
    """What stands directly in the package `edgebench`, by name, and where it lies."""
    import edgebench

    parts = {path.name: path for path in Path(edgebench.__path__[0]).iterdir() if path.name != "__pycache__"}
    for room in ROOMS:
        spec = importlib.util.find_spec(f"edgebench.{room}")
        if spec is not None and spec.submodule_search_locations:
            parts[room] = Path(next(iter(spec.submodule_search_locations)))
    return parts


def own_wheel() -> tuple[str, bytes]:
    """The wheel's file name and content; MissingDependency where edgebench is not installed."""
    try:
        distribution = importlib.metadata.distribution("edgebench")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependency("edgebench is not installed", "pip install -e .") from error
    told = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    metadata = f"edgebench-{distribution.version}.dist-info"
    files = dict(_files())
    files[f"{metadata}/METADATA"] = told.encode()
    files[f"{metadata}/WHEEL"] = _WHEEL.encode()
    files[f"{metadata}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{metadata}/RECORD"] = f"{record}{metadata}/RECORD,,\n".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return f"edgebench-{distribution.version}-py3-none-any.whl", out.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    for name, part in sorted(own_parts().items()):
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            inside = path.relative_to(part)
            hidden = any(piece == "__pycache__" or piece.startswith(".") for piece in (name, *inside.parts))
            if path.is_file() and not hidden:
                yield Path("edgebench", name, inside).as_posix(), path.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
