"""Everything edgebench raises on purpose.

    EdgebenchError            exit 1   message = what happened, hint = what to do about it
    ├─ UsageError             exit 2   unknown model, level, suite, device: names the nearest ones
    ├─ MissingDependency      exit 1   an engine, a compiler, a package: says how to get it
    ├─ DeviceError            exit 1   the computer, the phone or one of its meters refused
    │  └─ HostLost            exit 1   the link to another computer is down; a later try may do
    ├─ MeterError             exit 1   an energy meter can't be read; carries the reason that is stored
    ├─ ModelError             exit 1   a model file is absent, corrupt, or not what it claims to be
    ├─ ServerError            exit 1   a server does not answer, or not what was asked
    ├─ SuiteError             exit 1   a suite file or its data is absent or malformed (names the line)
    ├─ RunFailed              exit 1   a measuring process died; what it had sent is stored
    ├─ StoreError             exit 1   the database is locked, read-only, full, or of a newer schema
    └─ InvalidRun             exit 4   measured and stored, but the figures can't be trusted

Libraries raise; only `edgebench.cli.main` catches, prints two lines and exits.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class EdgebenchError(Exception):
    """Base of everything raised on purpose.

    `message` is one line: what happened and where. `hint` is one line: how to mend it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgebenchError):
    """The command asks for something that does not exist or can't be combined."""

    exit_code = 2


class MissingDependency(EdgebenchError):
    """Something outside this package is needed and not there."""


class DeviceError(EdgebenchError):
    """The device or one of its sensors did not do what was asked."""


class HostLost(DeviceError):
    """The link to another computer does not come up, or went down; what runs there goes on."""


class ModelError(EdgebenchError):
    """A model file is absent, corrupt, or of the wrong kind."""


class ServerError(EdgebenchError):
    """A server does not answer, or its answer is not one: says which server and what it said."""


class SuiteError(EdgebenchError):
    """A suite definition or its data can't be used."""


class RunFailed(EdgebenchError):
    """A measuring process ended before its work was done."""


class StoreError(EdgebenchError):
    """The results database can't be read or written."""


class InvalidRun(EdgebenchError):
    """A run was stored, marked invalid, and must not be used for a decision."""

    exit_code = 4


def nearest(word: str, known: Iterable[str], *, kind: str) -> UsageError:
    """The error for a name nobody knows: offers the closest known names, else all of them."""
    names = sorted(known)
    close = get_close_matches(word, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {word!r}", hint)
