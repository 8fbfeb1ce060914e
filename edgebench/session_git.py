"""Which code measured: the commit edgebench runs from, when it runs from a checkout of its own."""

import subprocess
from pathlib import Path


def git_state() -> tuple[str | None, bool | None]:
    """The commit, and whether files differ from it; None twice outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        state = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(state.stdout.strip())
