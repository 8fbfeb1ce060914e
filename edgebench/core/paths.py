"""Where things are kept: one cache folder with named parts, and files that appear whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebench.core.errors import EdgebenchError

CACHE_PARTS = (
    *("models", "hub", "suites", "checkpoints", "artifacts", "manifests"),
    *("wheels", "sdists", "source", "tools", "environments", "work", "limits", "native", "batches"),
)
"""What the cache holds, a folder each."""


def cache_dir() -> Path:
    """`$EDGEBENCH_CACHE`, else the user's cache folder for edgebench; made when it is not there."""
    named = os.environ.get("EDGEBENCH_CACHE")
    if named:
        # Absolute, because measuring processes may run in another folder.
        folder = Path(named).expanduser().absolute()
    else:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("edgebench"))
    return _made(folder)


def cache_part(name: str) -> Path:
    """The folder of one of `CACHE_PARTS`; made when it is not there."""
    if name not in CACHE_PARTS:
        raise ValueError(f"unknown part of the cache {name!r}: known are {', '.join(CACHE_PARTS)}")
    return _made(cache_dir() / name)


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds `path`, or that would hold it once it is made."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to: renamed onto it, or removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name's end is kept: some writers choose the format by it.
    part = target.with_name(f".part-{secrets.token_hex(4)}-{target.name}")
    try:
        yield part
        part.replace(target)
    finally:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def exclusive(target: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Only one process at a time makes `target`; the others wait. The lock ends with its process."""
    import fcntl  # POSIX only, and needed by nobody who merely reads

    target.parent.mkdir(parents=True, exist_ok=True)
    # The lock file stays: removing it would let a third process lock a file nobody else sees.
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {target.name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgebenchError(
            f"the cache folder {folder} can't be made: {error.strerror}",
            "set EDGEBENCH_CACHE to a folder that can be written",
        ) from error
    return folder
