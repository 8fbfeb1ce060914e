"""pip, as a program: the one way anything is fetched from the package index."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from edgebench.core.errors import MissingDependency

NO_INDEX_SIGNS = ("connection broken by", "Max retries exceeded", "name resolution", "Network is unreachable")
"""In pip's output: no package index can be reached."""


def pip(*arguments: str, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run pip; its output, errors included, is `stdout`. `python`: another environment's interpreter."""
    return subprocess.run(
        pip_command(*arguments, python=python),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def pip_command(*arguments: str, python: Path | None = None) -> list[str]:
    """The command line of an environment's pip; MissingDependency where this one's has none."""
    if python is None and importlib.util.find_spec("pip") is None:
        raise MissingDependency(f"{sys.executable} has no pip", f"{sys.executable} -m ensurepip")
    call = [str(python or sys.executable), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    return [*call, *arguments]


def pip_reason(output: str) -> str:
    """Why pip failed, in one line of its output."""
    if any(sign in output for sign in NO_INDEX_SIGNS):
        return "the package index can't be reached (no network?)"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or ["pip gave no reason"])[0]
