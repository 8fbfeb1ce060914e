"""Files to a phone over a link that may break: in pieces, whole or not at all, on from where they were.

A shell that was cut off may live on beside its successor, and be fed late. So each piece comes in as a file
of its own, and is appended under a lock, when it is whole and its turn; one that is late, or comes twice, is
dropped.
Only words that Android's toybox has had for ten years are used.
"""

import posixpath
import secrets
from pathlib import Path

from edgebench.core.errors import DeviceError
from edgebench.core.host import Sent
from edgebench.devices.ssh_files import PIECE_BYTES as PULLED_BYTES
from edgebench.devices.ssh_files import Run, pull

__all__ = ["PIECE_BYTES", "Run", "pull", "push"]

PIECE_BYTES = PULLED_BYTES
HASHED_BYTES_PER_S = 10e6
"""What the slowest phone's sha256sum does, for its deadline."""
N_TRIES = 3
"""For a piece that does not come to be appended."""

# How much is there: `whole`, or the size of the part. adb's shell has no umask of its own.
_HAVE = r"""
if [ -f "$1" ]; then echo whole; exit 0; fi
umask 022
mkdir -p "$(dirname "$1")" || exit 1
rm -f "$1".piece-*
if [ -f "$1.part" ]; then wc -c <"$1.part"; else echo 0; fi
"""
# $2: the piece's own name, $3: where it belongs, $4: how long it is. Tells how much is there now.
_WRITE = r"""
umask 022
piece="$1.piece-$2"
cat >"$piece" || { rm -f "$piece"; exit 1; }
{
  flock 9 || exit 1
  if [ -f "$1" ]; then rm -f "$1.part" "$piece"; echo whole; exit 0; fi
  if [ "$(wc -c <"$piece")" = "$4" ] && [ "$(wc -c <"$1.part")" = "$3" ]; then
    cat "$piece" >>"$1.part" || { rm -f "$piece"; exit 1; }
  fi
  rm -f "$piece"
  wc -c <"$1.part"
} 9>>"$1.part"
"""
_CHECK = r"""
{
  flock 9 || exit 1
  if [ -f "$1" ]; then rm -f "$1.part"; echo right; exit 0; fi
  case "$(sha256sum "$1.part")" in
    "$2 "*) chmod "$3" "$1.part" && mv "$1.part" "$1" && echo right ;;
    *) rm -f "$1.part"; echo wrong ;;
  esac
} 9>>"$1.part"
"""
_EMPTY = r"""umask 022; : >>"$1.part" """


def push(run: Run, path: Path, target: str, *, sha256: str, sent: Sent, deadline_s: float) -> None:
    """Copy a file to the phone; nothing when it is there. DeviceError when it arrives as another one.

    It may be run by whoever may run it here.
    """
    size_bytes = path.stat().st_size
    mode = "755" if path.stat().st_mode & 0o111 else "644"
    for _ in range(2):
        told = _said(run(["sh", "-c", _HAVE, "sh", target], deadline_s=deadline_s))
        if told != "whole":
            offset = _size(told)
            if offset <= size_bytes:
                _send(run, path, target, offset, sent, deadline_s)
            check = ["sh", "-c", _CHECK, "sh", target, sha256, mode]
            told = _said(run(check, deadline_s=max(deadline_s, size_bytes / HASHED_BYTES_PER_S)))
        if told == "whole":
            sent(size_bytes)
        if told in ("whole", "right"):
            return
        sent(0)  # a part of something else, or damaged on the way: once more from the start
    raise DeviceError(
        f"{posixpath.basename(target)} does not arrive as it was sent: its sha256 differs",
        "is the file being written to, or the phone's storage failing?",
    )


def _send(run: Run, path: Path, target: str, offset: int, sent: Sent, deadline_s: float) -> None:
    sent(offset)
    n_tries = 0
    with path.open("rb") as file:
        while file.seek(offset) == offset and (piece := file.read(PIECE_BYTES)):
            words = [target, secrets.token_hex(4), str(offset), str(len(piece))]
            told = _said(run(["sh", "-c", _WRITE, "sh", *words], given=piece, deadline_s=deadline_s))
            if told == "whole":  # another one was quicker
                sent(path.stat().st_size)
                return
            n_tries = n_tries + 1 if _size(told) <= offset else 0
            if n_tries == N_TRIES:
                raise DeviceError(f"{posixpath.basename(target)} does not grow there: {told[:200]!r}")
            offset = _size(told)
            sent(offset)
    if not offset:  # an empty file has no piece
        run(["sh", "-c", _EMPTY, "sh", target], deadline_s=deadline_s)


def _size(told: str) -> int:
    return int(told) if told.isdecimal() else 0


def _said(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()
