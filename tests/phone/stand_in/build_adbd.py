"""Android's own adbd, compiled for this machine from Debian's source package; no file of it is edited."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stand_in.packages import NotHere, install, private_apt, run

PACKAGE = "android-platform-tools"
VERSION = "29.0.6"
NEEDED = (
    *("g++", "dpkg-dev", "libcap-dev", "android-libbase-dev", "android-libcutils-dev", "android-liblog-dev"),
    *("android-libboringssl-dev", "android-platform-system-core-headers"),
)
OURS = Path(__file__).with_name("adbd")

ADB = "system/core/adb"
SOURCES = (
    *(
        f"{ADB}/{name}.cpp"
        for name in (
            *("adb", "adb_io", "adb_listeners", "adb_trace", "adb_unique_fd", "adb_utils"),
            *("fdevent/fdevent", "fdevent/fdevent_poll", "fdevent/fdevent_epoll"),
            *("services", "sockets", "socket_spec", "sysdeps/errno", "sysdeps/posix/network", "sysdeps_unix"),
            *("transport", "transport_fd", "transport_local", "transport_usb", "types"),
            *("daemon/auth", "daemon/file_sync_service", "daemon/jdwp_service", "daemon/main"),
            *("daemon/services", "daemon/shell_service", "daemon/usb_dummy"),
            *("shell_service_protocol", "adbconnection/adbconnection_server"),
        )
    ),
    "system/core/diagnose_usb/diagnose_usb.cpp",
    "frameworks/native/libs/adbd_auth/adbd_auth.cpp",
    "system/core/libcrypto_utils/android_pubkey.c",
)
HEADERS = (
    *(ADB, f"{ADB}/daemon/include", f"{ADB}/adbconnection/include", "system/core/diagnose_usb/include"),
    *("system/core/libcrypto_utils/include", "system/core/libasyncio/include"),
    *("frameworks/native/libs/adbd_auth/include", "system/core/base/include", "system/core/include"),
    *("system/core/libcutils/include", "system/core/liblog/include", "/usr/include/android"),
)
DEFINED = ("-D_GNU_SOURCE", "-DADB_HOST=0", "-DALLOW_ADBD_ROOT=0", "-DALLOW_ADBD_NO_AUTH")
LIBRARIES = ("base", "cutils", "log", "crypto", "cap", "resolv", "util", "pthread")


def build_adbd(folder: Path, work: Path) -> None:
    """Leave `bin/adbd` and `lib64/` (its loader and libraries) in `folder`; `work` is an empty folder."""
    install(*NEEDED)
    with private_apt("amd64", source=True) as apt:
        run(*apt, "source", "--download-only", PACKAGE, cwd=work)
    found = [*work.glob(f"{PACKAGE}_{VERSION}-*.dsc")]
    if not found:
        raise NotHere(f"Debian's source package {PACKAGE} is not of version {VERSION}")
    # apt has checked the files against the archive's signature.
    run("dpkg-source", "--no-check", "-x", found[0].name, "source", cwd=work)
    adbd = _compile(work / "source", work / "objects")
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(adbd, folder / "bin" / "adbd")
    _copy_libraries(adbd, folder / "lib64")


def _compile(source: Path, objects: Path) -> Path:
    objects.mkdir()
    units = [*(source / name for name in SOURCES), OURS / "properties.cpp"]

    def compiled(unit: Path) -> Path:
        target = objects / f"{units.index(unit)}-{unit.stem}.o"
        c_plus_plus = unit.suffix == ".cpp"
        run(
            *(("g++", "-std=gnu++2a", "-fpermissive") if c_plus_plus else ("gcc",)),
            *("-w", "-O1", *DEFINED, "-include", OURS / "android.h", *(f"-I{name}" for name in HEADERS)),
            *("-c", unit, "-o", target),
            cwd=source,
        )
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        made = list(pool.map(compiled, units))
    linked = objects / "adbd"
    libraries = Path("/usr/lib") / run("g++", "-dumpmachine").strip() / "android"
    run(
        *("g++", "-s", "-o", linked, *made, f"-L{libraries}", f"-Wl,-rpath={libraries}"),
        *(f"-l{name}" for name in LIBRARIES),
    )
    return linked


def _copy_libraries(program: Path, folder: Path) -> None:
    folder.mkdir()
    for word in run("ldd", program).split():
        if word.startswith("/"):
            shutil.copy2(word, folder)
