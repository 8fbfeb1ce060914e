"""Laying out a phone's file system: Android's folders, users, properties and commands."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from stand_in.packages import run
from stand_in.setup import part

SHELL = 2000
TMP = "data/local/tmp"
SHIMS = Path(__file__).with_name("shims")
NOTED = ("am", "logcat", "pm", "setprop", "wm")
FOLDERS = (
    *("system/bin", "data/local", "data/misc/adb", "data/misc/shim", "apex/com.android.adbd", "dev", "proc"),
    *("sys", "sys_rw", "replay/proc", "replay/dumpsys", "replay/said", "sdcard", "vendor", "etc", "bin"),
)
PROPERTIES = {
    "ro.product.name": "shiba",
    "ro.product.model": "Pixel 8",
    "ro.product.device": "shiba",
    "ro.product.manufacturer": "Google",
    "ro.product.brand": "google",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
    "ro.hardware": "shiba",
    "ro.board.platform": "zuma",
    "ro.build.fingerprint": "google/shiba/shiba:14/UQ1A.240105.004/11206848:user/release-keys",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.adb.secure": "0",
    "sys.boot_completed": "1",
    # adbd would listen on a vsock too, which no network namespace confines.
    "service.adb.listen_addrs": "tcp:5555",
    # On no real phone: a report must say that its figures come from a stand-in.
    "ro.edgebench.double": "1",
}
SETTINGS = {
    "global.airplane_mode_on": "0",
    "global.low_power": "0",
    "global.stay_on_while_plugged_in": "0",
    "system.screen_brightness": "102",
    "system.screen_brightness_mode": "1",
    "system.screen_off_timeout": "60000",
}
GROUPS = {
    "root": 0,
    "input": 1004,
    "log": 1007,
    "adb": 1011,
    "sdcard_rw": 1015,
    "shell": SHELL,
    "inet": 3003,
    "readproc": 3009,
}
# What qemu's Cortex-A76 has, so that what is chosen by it runs; it has neither i8mm nor sve2.
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)


def make_root(root: Path, abi: str, properties: Mapping[str, str], proc: Mapping[str, str]) -> None:
    """Lay out a phone in the empty folder `root`; `proc` replaces single files of /proc."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    shutil.copytree(part(abi), root, dirs_exist_ok=True, symlinks=True)
    shutil.copytree(part("adbd"), root / "apex/com.android.adbd", dirs_exist_ok=True)
    (root / "bin/sh").symlink_to("/system/bin/sh")
    _commands(root)
    for path, mode in ((root, 0o755), (root / "data/local", 0o771), (root / "sdcard", 0o1777)):
        path.chmod(mode)
    for name in ("data/local", "data/misc/shim"):
        os.chown(root / name, SHELL, SHELL)
    lay_tmp(root)
    _write(root / "etc/passwd", "root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/:/system/bin/sh\n")
    _write(root / "etc/group", "".join(f"{name}:x:{number}:\n" for name, number in GROUPS.items()))
    told = {**PROPERTIES, "ro.product.cpu.abi": abi, "ro.product.cpu.abilist": abi, **properties}
    _write(root / "system/build.prop", "".join(f"{key}={value}\n" for key, value in told.items()))
    _cpus(root, abi)
    for name, text in proc.items():
        _write(root / "replay/proc" / name, text)
    forget(root)


def lay_tmp(root: Path) -> None:
    """Make the folder where adb's user may write, and run programs."""
    folder = root / TMP
    folder.mkdir()
    folder.chmod(0o771)
    os.chown(folder, SHELL, SHELL)


def forget(root: Path) -> None:
    """The framework's settings as they come, and an empty log of what was changed."""
    shim = root / "data/misc/shim"
    for path in (*shim.glob("settings/*"), *(root / "replay/said").iterdir()):
        path.unlink()
    (shim / "settings").mkdir(exist_ok=True)
    (shim / "battery").unlink(missing_ok=True)
    texts = {f"settings/{name}": f"{value}\n" for name, value in SETTINGS.items()}
    for name, text in {**texts, "wakefulness": "Awake\n", "log": ""}.items():
        _write(shim / name, text)
    for path in (shim, *shim.rglob("*")):
        os.chown(path, SHELL, SHELL)


def _commands(root: Path) -> None:
    """Toybox under each of its names, then stand-ins for the framework's commands, some in place of those."""
    folder = root / "system/bin"
    for name in run("chroot", root, "/system/bin/toybox").split():
        if not (folder / name).exists():
            (folder / name).symlink_to("toybox")
    sources = {path.name: path for path in SHIMS.iterdir() if path.name != "noted"}
    for name, source in {**sources, **dict.fromkeys(NOTED, SHIMS / "noted")}.items():
        (folder / name).unlink(missing_ok=True)
        shutil.copyfile(source, folder / name)
        (folder / name).chmod(0o755)


def _cpus(root: Path, abi: str) -> None:
    """As many CPUs as here, else masks of affinity fail; the lower half is called little."""
    n = os.cpu_count() or 1
    folder = root / "sys_rw/devices/system/cpu"
    for name in ("possible", "present", "online"):
        _write(folder / name, f"0-{n - 1}\n")
    cpuinfo = ""
    for i in range(n):
        little = i < n // 2
        _write(folder / f"cpu{i}/cpu_capacity", "377\n" if little else "1024\n")
        for name in ("cpuinfo_max_freq", "scaling_max_freq", "scaling_cur_freq"):
            _write(folder / f"cpu{i}/cpufreq/{name}", "1704000\n" if little else "2914000\n")
        cpuinfo += (
            f"processor\t: {i}\nBogoMIPS\t: 49.15\nFeatures\t: {FEATURES}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {'0xd46' if little else '0xd4e'}\n"
            "CPU revision\t: 1\n\n"
        )
    if abi != "x86_64":  # there the machine's own is as true
        _write(root / "replay/proc/cpuinfo", cpuinfo)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
