"""How much of a file the kernel already holds in memory: what makes a load cold or warm.

`mincore` answers for a mapping without touching its pages. Since Linux 5.2 it tells others than a file's
owner (and who may write to it) that every page is there: such an answer is not given here.
"""

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLD_SHARE = 0.01
"""A file with less than this in memory counts as cold."""


def resident_share(path: Path) -> float | None:
    """The share of a file's pages, or of all files' in a folder, that are in the page cache; 0 to 1.

    None where it can't be known: no such file, an empty one, not Linux, or not ours to ask.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        counted = [_count(file) for file in _files(path)]
    except (OSError, ValueError, OverflowError):  # the last two: larger than the address space
        return None
    known = [count for count in counted if count is not None]
    n_pages = sum(n for _, n in known)
    return sum(n for n, _ in known) / n_pages if n_pages and len(known) == len(counted) else None


def evict(path: Path) -> bool:
    """Ask the kernel to forget a file, or a folder's files; True only if less than COLD_SHARE is left.

    Pages that any process has mapped stay, as do those of a tmpfs, which have no other place.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        for file in _files(path):
            _forget(file)
    except OSError:
        return False
    left = resident_share(path)
    return left is not None and left < COLD_SHARE


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or the files below it; links are followed, as a loader does."""
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    else:
        yield path


def _forget(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system that is never written to has no fsync
            os.fsync(descriptor)  # what is not written yet can't be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _count(file: Path) -> tuple[int, int] | None:
    """(pages in memory, pages); None where the system can't or won't tell."""
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        if status.st_size == 0:
            return 0, 0
        if not _may_know(file, status):
            return None
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as view:
            resident = _mincore(view)
    return None if resident is None else (int((resident & 1).sum(dtype=int)), resident.size)


def _may_know(file: Path, status: os.stat_result) -> bool:
    """Whether the kernel tells this process the truth. It asks for the effective user, as must we."""
    effective = os.access in os.supports_effective_ids
    return os.geteuid() == status.st_uid or os.access(file, os.W_OK, effective_ids=effective)


def _mincore(view: mmap.mmap) -> "NDArray[np.uint8] | None":
    """One byte a page, its lowest bit set where the page is in memory; None where asking is forbidden."""
    import numpy as np

    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    pages = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
    address = np.frombuffer(view, np.uint8).ctypes.data  # ctypes itself takes no read-only buffer
    return pages if mincore(address, len(view), pages.ctypes.data) == 0 else None
