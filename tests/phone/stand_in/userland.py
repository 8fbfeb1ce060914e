"""What a phone has in /system: Android's shell and toybox, from Debian's packages of its architecture."""

import shutil
from pathlib import Path

from stand_in.packages import NotHere, install, private_apt, run

DEBIAN = {"x86_64": ("amd64", "x86_64"), "arm64-v8a": ("arm64", "aarch64")}
"""ABI: Debian's name of the architecture, and the compilers'."""


def make_userland(abi: str, folder: Path, work: Path) -> None:
    """Leave `system/bin/{sh,toybox}` and `system/lib64/` in `folder`; `work` is an empty folder."""
    install("patchelf")
    architecture, cpu = DEBIAN[abi]
    with private_apt(architecture) as apt:
        run(*apt, "download", "mksh", "toybox", "libc6", "libcrypt1", cwd=work)
    for package in work.glob("*.deb"):
        run("dpkg-deb", "-x", package, work / "unpacked")
    _lay_out(work / "unpacked", cpu, folder / "system")


def _lay_out(unpacked: Path, cpu: str, system: Path) -> None:
    (system / "bin").mkdir(parents=True)
    (system / "lib64").mkdir()
    shutil.copy2(unpacked / "usr/lib" / f"{cpu}-linux-musl" / "bin/mksh", system / "bin/sh")  # static
    toybox = system / "bin/toybox"
    shutil.copy2(unpacked / "bin/toybox", toybox)
    # Debian's toybox wants glibc. It gets its own, aside: with one in /lib, programs run that no phone runs.
    libraries = unpacked / "lib" / f"{cpu}-linux-gnu"
    loaders = [*libraries.glob("ld-linux-*.so.?")]
    if not loaders:
        raise NotHere("Debian's libc6 has no loader where it used to be")
    for library in (loaders[0], *(libraries / name for name in ("libc.so.6", "libm.so.6", "libcrypt.so.1"))):
        shutil.copy2(library.resolve(), system / "lib64" / library.name)
    loader = f"/system/lib64/{loaders[0].name}"
    run("patchelf", "--set-interpreter", loader, "--set-rpath", "/system/lib64", toybox)
