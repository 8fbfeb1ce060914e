"""A phone to test against: Google's adbd and Android's shell over a root of Debian's packages, in namespaces.

What is real: adb with its exit codes, authorisation and lost links; uid 2000; processes that outlive a
connection; permissions. What stands in: getprop, dumpsys, settings, svc, input, cmd (what they change is
noted), and a battery whose joules are known. What is not there: SELinux, Android's framework and apps, GPU,
NPU, the heat and clusters of silicon. Its kernel, memory and uptime are this machine's.
`ro.edgebench.double` is 1 on it, and on no phone.
"""

import bisect
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stand_in.adb_server import AdbServer
from stand_in.cgroup import Cgroup
from stand_in.faults import Faults
from stand_in.leftovers import claim, end, name_of, take_down
from stand_in.packages import run
from stand_in.physics import AT_REST_C
from stand_in.root_tree import TMP, forget, lay_tmp, make_root
from stand_in.setup import check_machine, register_qemu

HERE = Path(__file__).parent
PORT = 5555


class Phone:
    """A phone that is on, and known to the adb server.

    Args:
        server: the adb server that connects to it.
        abi: `x86_64`, at this machine's speed, or `arm64-v8a`, through qemu and many times slower.
        secure: it asks for a key, and knows none: see `trust`.
        cpu: what qemu pretends to be; a `cortex-a53` dies of newer instructions.
        disk_bytes: /data/local/tmp is a disk of its own, so small.
        properties: instead of, or beside, those of a Pixel 8.
        proc: texts of single files of /proc, such as `meminfo`.
        faults: see `stand_in.faults.Faults`; these can be changed by `set` while it runs.
    """

    def __init__(
        self,
        server: AdbServer,
        *,
        abi: str = "x86_64",
        secure: bool = False,
        cpu: str = "cortex-a76",
        disk_bytes: int | None = None,
        properties: Mapping[str, str] | None = None,
        proc: Mapping[str, str] | None = None,
        **faults: Any,
    ) -> None:
        self._born_with = self._faults = Faults(**faults)
        check_machine()
        if abi != "x86_64":
            register_qemu()
        self._server, self._secure = server, secure
        self.abi = abi
        self._variables = {
            "STAND_IN_CPU": cpu,
            "STAND_IN_DISK": "" if disk_bytes is None else str(disk_bytes),
        }
        self._state = claim()
        self.name = name_of(self._state)
        self._net = f"10.214.{self._state.name}"
        self.serial = f"{self._net}.2:{PORT}"
        self._cgroup = Cgroup(self.name)
        self._init: subprocess.Popen[bytes] | None = None
        self._physics: subprocess.Popen[bytes] | None = None
        self.root = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/var/tmp"))
        (self._state / "root").write_text(str(self.root), encoding="utf-8")
        known = {"ro.serialno": self.name.upper(), "ro.adb.secure": str(int(secure)), **(properties or {})}
        try:
            make_root(self.root, abi, known, proc or {})
            self._cgroup.make()
            self._check(self._faults)
            self._lay_cable()
            self._start_physics()
            self.start()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------------- what it is and did

    def path(self, inside: str) -> Path:
        """A file of the phone (`/data/local/tmp/x`) as seen from here while it is on, with its own mounts."""
        pid = (self._state / "init.pid").read_text(encoding="utf-8").strip()
        return Path(f"/proc/{pid}/root{self.root}{inside}")

    def truth_j(self, start_s: float, end_s: float) -> float:
        """Joules between two moments of the phone's uptime; waits until the model has come so far."""
        stamps_s, energies_j = self._truth(end_s)
        if not stamps_s[0] <= start_s <= end_s:
            raise ValueError(f"the model began at {stamps_s[0]} s, and was asked for {start_s} to {end_s} s")

        def energy_j(at_s: float) -> float:
            i = min(max(bisect.bisect(stamps_s, at_s), 1), len(stamps_s) - 1)
            share = (at_s - stamps_s[i - 1]) / (stamps_s[i] - stamps_s[i - 1])
            return energies_j[i - 1] + share * (energies_j[i] - energies_j[i - 1])

        return energy_j(end_s) - energy_j(start_s)

    def uptime_s(self) -> float:
        """The phone's clock: CLOCK_BOOTTIME, as in its /proc/uptime."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def shim_log(self) -> str:
        """What has been changed on it, one command a line: `settings put global airplane_mode_on 1`."""
        return (self.root / "data/misc/shim/log").read_text(encoding="utf-8")

    def settings(self) -> dict[str, str]:
        """The framework's settings as they are now: `{"global.airplane_mode_on": "0", …}`."""
        folder = self.root / "data/misc/shim/settings"
        return {path.name: path.read_text(encoding="utf-8").strip() for path in sorted(folder.iterdir())}

    # ---------------------------------------------------------------------------------- what can happen to it

    def set(self, **faults: Any) -> None:
        """Change faults while it runs (see `Faults`); done when the battery model has taken them."""
        new = dataclasses.replace(self._faults, **faults, turn=self._faults.turn + 1)
        self._check(new)
        self._faults = new
        self._faults.write(self._state / "faults.json")
        self._wait(lambda: self._last_turn() >= self._faults.turn, "the battery model does not answer")

    def cut(self) -> None:
        """Take the phone off the network, without a word to anybody."""
        run("ip", "-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put it back on the network. adb finds it again by `adb disconnect`, then `adb connect`."""
        run("ip", "-n", self.name, "link", "set", "eth0", "up")

    def stop(self) -> None:
        """Switch it off: every process of it is killed. Files stay."""
        if self._init is not None:
            end(self._state, "init")
            self._init.wait(timeout=30)
            self._init = None

    def start(self) -> None:
        """Switch it on, and connect; nothing when it is on."""
        if self.on:
            return
        # Else the server may be trying on its own, and two of its connections get in each other's way.
        self._adb("disconnect", self.serial)
        words = ["nsenter", f"--net=/run/netns/{self.name}"]
        words += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"]
        words += ["bash", str(HERE / "init.sh"), str(self.root), str(self._state)]
        self._init = self._spawn(words, {**self._variables, "STAND_IN_DOORS": " ".join(self._cgroup.doors())})
        self._wait(self._listens, "adbd does not come up")
        self.connect()

    def connect(self) -> None:
        """Have the adb server connect to it anew; where the phone asks for a key, it is left at that."""
        self._adb("disconnect", self.serial)

        def connected() -> bool:
            self._adb("connect", self.serial)
            state = self._adb("-s", self.serial, "get-state")
            return state.stdout.strip() == "device" or (self._secure and "unauthorized" in state.stderr)

        self._wait(connected, "adb does not connect to it")

    def trust(self) -> None:
        """Let the adb server's key in, as the owner's tap does."""
        (self.root / "data/misc/adb/adb_keys").write_text(self._server.public_key, encoding="utf-8")
        self._secure = False
        self.connect()

    def reset(self) -> None:
        """As it was at first: started anew and cool, its own faults and settings, /data/local/tmp empty."""
        self._adb("disconnect", self.serial)
        self.stop()
        self.mend()
        forget(self.root)
        shutil.rmtree(self.root / TMP)
        lay_tmp(self.root)
        self.set(skin_c=AT_REST_C)
        names = [each.name for each in dataclasses.fields(Faults) if each.name != "turn"]
        self.set(**{name: getattr(self._born_with, name) for name in names})
        self.start()

    def close(self) -> None:
        """Switch it off and remove all of it."""
        try:
            self._adb("disconnect", self.serial)
        finally:
            take_down(self._state)
            for process in (self._init, self._physics):
                if process is not None:
                    process.wait(timeout=30)

    @property
    def on(self) -> bool:
        """Whether it is."""
        return self._init is not None

    # ------------------------------------------------------------------------------------------------- inside

    def _check(self, faults: Faults) -> None:
        """`NotHere` when this machine can't do that to a phone."""
        if (faults.n_cpus, faults.throttle_at_c) != (None, None):
            self._cgroup.file("cpu")
        if faults.memory_bytes is not None:
            self._cgroup.file("memory")

    def _lay_cable(self) -> None:
        """Two ends of a veth pair, one in a namespace; no route leads anywhere else."""
        end = f"{self.name}h"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"{self._net}.1/30", "dev", end)
        run("ip", "link", "set", end, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self._net}.2/30", "dev", "eth0")
        for name in ("eth0", "lo"):
            run("ip", "-n", self.name, "link", "set", name, "up")

    def _start_physics(self) -> None:
        self._faults.write(self._state / "faults.json")
        words = [sys.executable, "-P", "-m", "stand_in.physics", str(self.root), str(self._state), self.name]
        self._physics = self._spawn(words, {"PYTHONPATH": str(HERE.parent)})
        (self._state / "physics.pid").write_text(str(self._physics.pid), encoding="utf-8")
        self._wait(lambda: self._last_turn() >= 0, "the battery model does not start")

    def _spawn(self, words: list[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A process that Ctrl-C does not reach: the phone has to be taken down, or to take itself down."""
        with (self._state / "log").open("ab") as log:
            return subprocess.Popen(
                words,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _listens(self) -> bool:
        noted = self._state / "init.pid"
        pid = noted.read_text(encoding="utf-8").strip() if noted.exists() else ""
        if not pid:
            return False
        rows = [Path(f"/proc/{pid}/net/{name}").read_text(encoding="utf-8") for name in ("tcp", "tcp6")]
        fields = [row.split() for row in "".join(rows).splitlines()]
        return any(each[1].endswith(f":{PORT:04X}") and each[3] == "0A" for each in fields)

    def _lines(self) -> list[dict[str, Any]]:
        path = self._state / "truth.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]

    def _last_turn(self) -> int:
        lines = self._lines()
        return int(lines[-1]["turn"]) if lines else -1

    def _truth(self, until_s: float) -> tuple[list[float], list[float]]:
        self._wait(
            lambda: self._lines()[-1]["uptime_s"] >= until_s, f"the phone's uptime is not yet {until_s} s"
        )
        lines = self._lines()
        return [line["uptime_s"] for line in lines], [line["energy_j"] for line in lines]

    def _adb(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["adb", *words],
            env=self._server.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        for _ in range(300):
            if condition():
                return
            time.sleep(0.1)
        log = (self._state / "log").read_text(encoding="utf-8").splitlines()
        raise RuntimeError(f"{otherwise}; its log ends: {' | '.join(log[-3:])}")
