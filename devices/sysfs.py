"""Files under /sys, read defensively: what is absent, forbidden and broken is told apart.

The environment variable `EDGEBENCH_SYSFS` names a tree that stands for /sys itself: it holds
`class/powercap/…`, not `sys/class/…`. Plain folders will do, no symlinks are needed. What is read
from such a tree is `replayed`, never `measured`.
"""

import errno
import os
import platform
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from edgebench.core.energy import Absence, MeterError
from edgebench.core.types import Evidence

VARIABLE = "EDGEBENCH_SYSFS"
_MOST_BYTES = 4096
"""An attribute of sysfs is a page at most; a larger file is none."""


def sysfs(*parts: str) -> Path:
    """A path below /sys, or below the tree that stands for it."""
    return Path(os.environ.get(VARIABLE) or "/sys", *parts)


def has_sysfs() -> bool:
    """Whether there is a /sys to read: on Linux, or where a tree stands for it."""
    return bool(os.environ.get(VARIABLE)) or platform.system() == "Linux"


def evidence() -> Evidence:
    """What a figure read now would be: `replayed` from a tree, `measured` from this computer's /sys."""
    return Evidence.REPLAYED if os.environ.get(VARIABLE) else Evidence.MEASURED


class Look(NamedTuple):
    """One try to read a file."""

    text: str | None
    """Without surrounding blanks; None where it could not be read."""
    error: int | None = None
    """The `errno` of the refusal."""

    @property
    def number(self) -> int | None:
        """The whole number it holds; None where it could not be read or holds something else."""
        try:
            return None if self.text is None else int(self.text)
        except ValueError:
            return None

    @property
    def denied(self) -> bool:
        """Whether other file permissions would help. EPERM is a driver's word for a device asleep."""
        return self.error == errno.EACCES

    @property
    def absent(self) -> bool:
        """Whether there is no such file."""
        return self.error == errno.ENOENT

    @property
    def why(self) -> str:
        """The trouble in words, for a file that should have held a number."""
        return "holds no number" if self.error is None else os.strerror(self.error).lower()


def look(path: Path) -> Look:
    """Try to read a file. Never raises."""
    try:
        with path.open("rb") as file:
            return Look(file.read(_MOST_BYTES).decode("utf-8", errors="replace").strip())
    except OSError as error:
        return Look(None, error.errno or errno.EIO)
    except ValueError:  # a name read from elsewhere that can't be a path
        return Look(None, errno.ENOENT)


def read_text(path: Path) -> str | None:
    """What a file says; None where it can't be read."""
    return look(path).text


def read_int(path: Path) -> int | None:
    """The whole number a file holds, in the file's own unit; None where there is none."""
    return look(path).number


def must_read_int(path: Path) -> int:
    """The whole number in a meter's file, in the file's own unit.

    Raises:
        MeterError: `permission_denied`, or `unreadable` for every other trouble.
    """
    seen = look(path)
    if (number := seen.number) is not None:
        return number
    reason = Absence.PERMISSION_DENIED if seen.denied else Absence.UNREADABLE
    hint = open_command([path]) if seen.denied else "`edgebench devices probe` shows what can be read"
    raise MeterError(reason, f"{path}: {seen.why}", hint)


class Refusal(NamedTuple):
    """Why a meter's files can't be read, and the command that would mend it ("" where none would)."""

    reason: Absence
    why: str
    fix: str


def entries(folder: Path, pattern: str) -> list[Path]:
    """What a glob pattern finds below a folder, numbers in their order (hwmon2 before hwmon10)."""
    try:
        return sorted(folder.glob(pattern), key=_natural)
    except OSError:
        return []


def blocked(files: Iterable[Path]) -> Refusal | None:
    """Why these files don't all hold a number that may be read now; None when they do."""
    bad = {file: seen for file in files if (seen := look(file)).number is None}
    if denied := [file for file, seen in bad.items() if seen.denied]:
        why = f"{denied[0]} is for root alone; the command opens it to every user until the next boot"
        return Refusal(Absence.PERMISSION_DENIED, why, open_command(denied))
    if bad:
        file, seen = next(iter(bad.items()))
        return Refusal(Absence.UNREADABLE, f"{file}: {seen.why}", "")
    return None


def open_command(paths: Iterable[Path]) -> str:
    """The command that lets every user read these files, until the next boot."""
    return shlex.join(["sudo", "chmod", "o+r", *map(str, paths)])


def _natural(path: Path) -> list[tuple[str, int]]:
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", str(path))]
