"""Making, once, what every stand-in is built of; the cache keeps it, until its recipe changes."""

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgebench.core.paths import cache_dir, exclusive
from stand_in.build_adbd import OURS, build_adbd
from stand_in.packages import NotHere, install, run
from stand_in.userland import DEBIAN, make_userland

HERE = Path(__file__).parent
RECIPES = {
    "adbd": (HERE / "build_adbd.py", OURS / "android.h", OURS / "properties.cpp"),
    **dict.fromkeys(DEBIAN, (HERE / "userland.py",)),
}
"""What the parts are made by: the daemon, and the userland of each ABI."""
BINFMT = Path("/proc/sys/fs/binfmt_misc")
ARM64 = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
HOW = "make phone sets it up, on Debian 12 (amd64) as root"


def part(name: str) -> Path:
    """One of the parts; `NotHere` when it has not been made."""
    folder = _folder(name)
    if not folder.is_dir():
        raise NotHere(f"the stand-in's {name} is not there: {HOW}")
    return folder


def set_up() -> Path:
    """Install, fetch and compile what is missing; the folder of the parts."""
    check_machine()
    if shutil.which("apt-get") is None or platform.machine() != "x86_64":
        raise NotHere("the stand-in is made of Debian's packages for amd64")
    install("adb", "iproute2", "qemu-user-static")
    _make("adbd", build_adbd)
    for abi in DEBIAN:
        _make(abi, partial(make_userland, abi))
    register_qemu()
    return _cache()


def check_machine() -> None:
    """`NotHere` unless this process may make namespaces and mounts."""
    if os.geteuid() != 0:
        raise NotHere("a stand-in phone needs root, for namespaces and mounts")
    namespaces = ("--mount", "--net", "--pid", "--uts", "--ipc")
    try:
        run("unshare", *namespaces, "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    except NotHere as reason:
        raise NotHere(f"this machine allows no namespaces and mounts: {reason}") from reason


def register_qemu() -> None:
    """See to it that programs for arm64 run; with flag F they do inside a phone too."""
    entry = BINFMT / "qemu-aarch64"
    if not (BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
    if not entry.exists():
        if not ARM64.is_file():
            raise NotHere(f"no qemu for arm64 here (qemu-user-static): {HOW}")
        (BINFMT / "register").write_bytes(ARM64.read_bytes())
    flags = next(
        (line for line in entry.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), ""
    )
    if "F" not in flags.removeprefix("flags"):
        raise NotHere("qemu-aarch64 is registered without the flag F, so arm64 programs don't run in a phone")


def _make(name: str, make: Callable[[Path, Path], None]) -> None:
    """Make a part unless it is there: whole or not at all, and by one process at a time."""
    folder = _folder(name)
    with exclusive(folder, _say):
        if folder.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as work:
            made, scratch = Path(work) / "made", Path(work) / "scratch"
            scratch.mkdir()
            _say(f"making {name}")
            make(made, scratch)
            for old in folder.parent.glob(f"{name}-*"):
                shutil.rmtree(old)
            made.rename(folder)


def _folder(name: str) -> Path:
    recipe = b"".join(path.read_bytes() for path in RECIPES[name])
    return _cache() / f"{name}-{hashlib.sha256(recipe).hexdigest()[:12]}"


def _cache() -> Path:
    return cache_dir() / "tests" / "phone"


def _say(line: str) -> None:
    print(f"phone: {line}", flush=True)
