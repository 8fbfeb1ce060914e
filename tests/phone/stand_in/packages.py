"""Debian's packages: installing what is missing, and fetching files of others without installing them."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path("/etc/apt")


class NotHere(Exception):
    """Why there can be no stand-in on this machine, in one line."""


def run(*words: object, cwd: Path | None = None, timeout_s: float = 900) -> str:
    """A command's standard output; `NotHere` with the last line of its complaint when it fails."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise NotHere(f"{command[0]} is not there") from error
    except subprocess.TimeoutExpired as error:
        raise NotHere(f"{command[0]} took longer than {timeout_s:.0f} s") from error
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise NotHere(f"{' '.join(command[:1] + command[-1:])} failed ({done.returncode}): {told}")
    return done.stdout


def installed(package: str) -> bool:
    """Whether the system has it."""
    asked = ["dpkg-query", "-W", "-f=${db:Status-Abbrev}", package]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.startswith("ii")


def install(*packages: str) -> None:
    """Install those of the packages that are missing."""
    missing = [package for package in packages if not installed(package)]
    if missing:
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        with contextlib.suppress(NotHere):  # one source of several may be out of reach
            run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


@contextmanager
def private_apt(architecture: str, *, source: bool = False) -> Iterator[Sequence[str]]:
    """`apt-get` with options for an area of its own: the machine's sources of Debian, for one architecture.

    The system's own apt stays as it is.
    """
    with tempfile.TemporaryDirectory(prefix="stand-in-apt-") as name:
        area = Path(name)
        for folder in ("lists/partial", "archives/partial", "sources"):
            (area / folder).mkdir(parents=True)
        (area / "status").touch()
        _write_sources(area / "sources", source=source)
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": area / "sources",
            "Dir::State::lists": area / "lists",
            "Dir::State::status": area / "status",
            "Dir::Cache": area,
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
        }
        apt = [
            "apt-get",
            "-qq",
            *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
        ]
        run(*apt, "update")
        yield apt


def _write_sources(folder: Path, *, source: bool) -> None:
    """Debian's entries of the system's sources, for packages or for their sources."""
    kind = "deb-src" if source else "deb"
    new_form = SOURCES / "sources.list.d" / "debian.sources"
    old_form = SOURCES / "sources.list"
    if new_form.is_file():
        lines = new_form.read_text(encoding="utf-8").splitlines()
        text = "\n".join(f"Types: {kind}" if line.startswith("Types:") else line for line in lines)
        (folder / "debian.sources").write_text(text + "\n", encoding="utf-8")
    elif old_form.is_file():
        lines = old_form.read_text(encoding="utf-8").splitlines()
        text = "\n".join(f"{kind} {line.removeprefix('deb ')}" for line in lines if line.startswith("deb "))
        (folder / "debian.list").write_text(text + "\n", encoding="utf-8")
    else:
        raise NotHere("apt names no sources of Debian's packages here")
