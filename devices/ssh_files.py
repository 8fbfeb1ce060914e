"""Files over a link that may break: in pieces, each written at its place, whole or not at all.

A piece that arrives twice, even from a connection thought dead, puts the same bytes in the same place.
"""

import posixpath
from collections.abc import Callable
from pathlib import Path

from edgebench.core.errors import DeviceError
from edgebench.core.hashing import sha256_file
from edgebench.core.host import Sent

PIECE_BYTES = 4 * 2**20

Run = Callable[..., bytes]
"""`run(argv, given=…, deadline_s=…)`: a command's output; DeviceError when it fails."""

# How much is there: `whole`, or the size of the part.
_HAVE = r"""
if [ -f "$1" ]; then echo whole; exit 0; fi
mkdir -p "$(dirname "$1")" || exit 1
if [ -f "$1.part" ]; then wc -c <"$1.part"; else echo 0; fi
"""
_WRITE = r"""dd of="$1.part" bs=65536 seek="$2" oflag=seek_bytes conv=notrunc 2>"$1.told" || {
  tail -n 1 "$1.told" >&2; rm -f "$1.told"; exit 1; }
rm -f "$1.told"
"""
_CHECK = r"""
case "$(sha256sum "$1.part")" in
  "$2 "*) mv "$1.part" "$1" && echo right ;;
  *) rm -f "$1.part"; echo wrong ;;
esac
"""
_READ = r"""
[ -f "$1" ] || { echo "No such file: $1" >&2; exit 1; }
tail -c "+$(($2 + 1))" "$1" | head -c "$3"
"""


def push(run: Run, path: Path, target: str, *, sha256: str, sent: Sent, deadline_s: float) -> None:
    """Copy a file to the host; nothing when it is there. DeviceError when it arrives as another one."""
    size_bytes = path.stat().st_size
    for _ in range(2):
        told = _said(run(["sh", "-c", _HAVE, "sh", target], deadline_s=deadline_s))
        if told == "whole":
            sent(size_bytes)
            return
        offset = int(told) if told.isdecimal() else 0
        if offset <= size_bytes:
            _send(run, path, target, offset, sent, deadline_s)
        check = ["sh", "-c", _CHECK, "sh", target, sha256]
        if _said(run(check, deadline_s=max(deadline_s, size_bytes / 10e6))) == "right":
            return
        sent(0)  # a part of something else, or damaged on the way: once more from the start
    raise DeviceError(
        f"{posixpath.basename(target)} does not arrive as it was sent: its sha256 differs",
        "is the file being written to, or the host's disk failing?",
    )


def _send(run: Run, path: Path, target: str, offset: int, sent: Sent, deadline_s: float) -> None:
    sent(offset)
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE_BYTES):
            run(["sh", "-c", _WRITE, "sh", target, str(offset)], given=piece, deadline_s=deadline_s)
            offset += len(piece)
            sent(offset)
    if not offset:  # an empty file has no piece
        run(["sh", "-c", _WRITE, "sh", target, "0"], deadline_s=deadline_s)


def pull(run: Run, source: str, path: Path, *, sha256: str, sent: Sent, deadline_s: float) -> None:
    """Copy a file from the host to `path`, by way of `path.part`. DeviceError when its hash differs."""
    part = path.with_name(f"{path.name}.part")
    for _ in range(2):
        with part.open("ab") as file:
            while piece := run(
                ["sh", "-c", _READ, "sh", source, str(file.tell()), str(PIECE_BYTES)], deadline_s=deadline_s
            ):
                file.write(piece)
                file.flush()
                sent(file.tell())
        if sha256_file(part) == sha256:
            part.replace(path)
            return
        part.unlink()
    raise DeviceError(f"{posixpath.basename(source)} does not arrive as it is there: its sha256 differs")


def _said(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()
