"""What a phone is and has, read in one round trip by a script that any of its shells runs.

What it says is text from outside: what can't be understood is None, and only what nothing can be done
without (a 64-bit ABI, its clock) is an error.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgebench.core.errors import DeviceError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import DeviceProfile, Environment
from edgebench.core.units import data_size
from edgebench.devices import phone_battery, phone_rails
from edgebench.devices.phone_cpu import (
    CPU_FOLDER,
    Candidate,
    Cluster,
    clusters_of,
    features_of,
    governors,
    ranges,
    thread_candidates,
)
from edgebench.devices.phone_dumps import BatteryService, read_battery, read_rails
from edgebench.devices.phone_identity import (
    PROPERTIES,
    Identity,
    cleaned,
    profile_of,
    read_identity,
    read_properties,
    target_of,
)
from edgebench.devices.phone_log import whole

__all__ = ["SCRIPT", "PhoneFacts", "Run", "profile_of", "read", "read_identity", "read_text"]

Run = Callable[[Sequence[str]], str]
"""Runs a command on the phone; its output. Raises DeviceError or HostLost."""
FOLDER = "/data/local/tmp"
BATTERY_FOLDER = "/sys/class/power_supply/battery"
_MARK = "@@ edgebench "
# For mksh and toybox as for dash and coreutils: built-ins (mksh has no printf), and getprop, dumpsys, cat,
# df, grep, uname. A file that is there and can't be read is told without a value. Serial numbers are not
# asked for. The clock is last, so that it is not old when it arrives.
SCRIPT = rf"""
section() {{ echo; echo "{_MARK}$1"; }}
said() {{ section "$1"; shift; "$@" </dev/null 2>/dev/null; }}
files() {{
  for file in "$@"; do
    [ -e "$file" ] || continue
    line=
    {{ read -r line <"$file"; }} 2>/dev/null
    echo "$file:$line"
  done
}}
section properties
for name in {" ".join(PROPERTIES)}; do
  echo "[$name]: [$(getprop "$name" 2>/dev/null)]"
done
section board
files /proc/device-tree/model
section cpuinfo
grep -v '^[Ss]erial' /proc/cpuinfo
section memory
grep -e '^MemTotal:' -e '^MemAvailable:' /proc/meminfo
section cpu
cd {CPU_FOLDER} && files {CPU_FOLDER}/present {CPU_FOLDER}/possible {CPU_FOLDER}/online \
  {CPU_FOLDER}/cpu[0-9]*/cpu_capacity {CPU_FOLDER}/cpu[0-9]*/cpufreq/cpuinfo_max_freq \
  {CPU_FOLDER}/cpu[0-9]*/cpufreq/scaling_max_freq {CPU_FOLDER}/cpu[0-9]*/cpufreq/scaling_cur_freq \
  {CPU_FOLDER}/cpu[0-9]*/cpufreq/scaling_governor
section kernel
uname -m; uname -r; uname -v
section supply
for name in current_now voltage_now charge_counter capacity temp status; do files {BATTERY_FOLDER}/$name; done
section zones
files /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp
said storage df -Pk {FOLDER}
said battery dumpsys battery
said rails dumpsys android.hardware.power.stats.IPowerStats/default
said thermal dumpsys thermalservice
section screen
dumpsys power 2>/dev/null | grep mWakefulness=
section uptime
cat /proc/uptime
exit 0
"""
"""A shell script that prints all that `read_text` reads."""
_SECTION = re.compile(rf"^{re.escape(_MARK)}([a-z]+)$", re.MULTILINE)
_SECONDS = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(?:\s|$)")
_SOLD_GIB = (1, 2, 3, 4, 6, 8, 12, 16, 18, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneFacts:
    """A phone now; None: it does not tell."""

    identity: Identity
    target: str
    """What its native program is built for: `android-arm64`."""
    features: frozenset[str]
    """Instructions all its processors have, as /proc/cpuinfo calls them; empty: it does not tell."""
    clusters: tuple[Cluster, ...]
    """The strongest first."""
    online: frozenset[int]
    """Processors that are switched on; empty: it does not tell."""
    uptime_s: float
    memory_bytes: int | None
    available_bytes: int | None
    """Memory that could be had now."""
    free_bytes: int | None
    """Storage in the folder where programs may run."""
    kernel: str | None
    kernel_build: str | None
    governor: str | None
    rails_j: Mapping[str, float]
    """Joules since boot by rail; empty where there is no meter of rails."""
    texts: Mapping[str, str] = field(repr=False)
    """What it said, by section."""

    @property
    def is_double(self) -> bool:
        """Whether it is a stand-in, whose figures are nobody's."""
        return self.identity.is_double

    @property
    def n_cpus(self) -> int:
        """Processors, switched on or not; 0: it does not tell."""
        return sum(len(cluster.cpus) for cluster in self.clusters)

    def files(self, section: str) -> dict[str, str]:
        """Path -> first line, of a section of files; empty: it is there and can't be read."""
        return read_files(self.texts.get(section, ""))

    def supply(self, name: str) -> int | None:
        """The number in the battery's file of that name; None: it is not there, or can't be read."""
        return whole(self.files("supply").get(f"{BATTERY_FOLDER}/{name}"))

    def battery_service(self) -> BatteryService | None:
        """What `dumpsys battery` says; None: nothing, or nothing of now."""
        return read_battery(self.texts.get("battery", "").splitlines())

    def told(self) -> str:
        """One line for a person."""
        who = self.identity
        cores = "+".join(str(len(cluster.cpus)) for cluster in self.clusters)
        memory = data_size(self.memory_bytes) + " of memory"
        if self.available_bytes is not None:
            memory += f", {data_size(self.available_bytes)} of it free"
        parts = [
            who.soc,
            f"{cores} cores" if cores else None,
            memory if self.memory_bytes is not None else None,
            f"Android {who.android}" if who.android else None,
            "a stand-in: its figures are nobody's" if who.is_double else None,
        ]
        return f"{who.title} ({'; '.join(part for part in parts if part) or 'it tells nothing'})"

    def thread_candidates(self) -> tuple[Candidate, ...]:
        """Numbers of threads to try and their processors, the likeliest best first; see phone_cpu."""
        return thread_candidates(self.clusters, self.online)

    def device_profile(self) -> DeviceProfile:
        """The device as the database knows it: all phones of a model and size are one. No serial number."""
        who, profile = self.identity, profile_of(self.identity)
        model = {
            "manufacturer": who.manufacturer,
            "model": who.model,
            "device": who.device,
            "soc": who.soc_model or who.soc,
            "abi": who.abi,
            "n_cores": self.n_cpus or None,
            "memory_gib": sold_gib(self.memory_bytes),
            "double": who.is_double,
        }
        named = profile.name if profile is not None and profile.recognise else who.model or who.device or ""
        slug = re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-")[:40].strip("-")
        return DeviceProfile(
            id=f"{slug or 'device'}-{sha256_json(model)[:8]}",
            name=who.title + (" (stand-in)" if who.is_double else ""),
            kind="phone" if profile is not None else "computer",
            transport="adb" if profile is not None else "ssh",
            soc=who.soc,
            memory_bytes=self.memory_bytes,
            facts={
                **model,
                "profile": profile.name if profile is not None else None,
                "soc_manufacturer": who.soc_manufacturer,
                "platform": who.platform,
                "cpu_flags": sorted(self.features),
                "clusters": [_cluster_facts(cluster) for cluster in self.clusters],
            },
        )

    def environment(self, *, unit: str | None = None) -> Environment:
        """Its software, and which of several alike it is, by a mark that edgebench left there.

        Whether a cable is in belongs to the moment: it is read beside every run instead.
        """
        who = self.identity
        facts = {
            "os": f"Android {who.android}" if who.android else "Android" if who.sdk else "Linux",
            "sdk": who.sdk,
            "fingerprint": who.fingerprint,
            "security_patch": who.security_patch,
            "kernel": self.kernel,
            "kernel_build": self.kernel_build,
            "cpu": who.soc,
            "governor": self.governor,
            "unit": unit,
        }
        return Environment(
            id=sha256_json(facts)[:16],
            os=str(facts["os"]),
            kernel=self.kernel,
            cpu=who.soc,
            governor=self.governor,
            facts=facts,
        )

    def minimum_window_s(self) -> float:
        """How long a test's window must be for the meters its energy will come from; 0: there will be none.

        Rails alone need less, but the battery's figures stand beside theirs where there are both.
        Whether it charges now does not matter: the cable may be pulled once a batch runs.
        """
        service = self.battery_service()
        current, voltage = self.supply("current_now"), self.supply("voltage_now")
        if service is not None:
            current = service.current if current is None else current
            voltage = service.voltage if voltage is None else voltage
        if current is not None and voltage is not None:
            return phone_battery.MINIMUM_S
        return phone_rails.MINIMUM_S if any(self.rails_j.values()) else 0.0


def read(run: Run) -> PhoneFacts:
    """Ask a phone, in one round trip.

    Raises:
        DeviceError: it has 32 bits only, or does not tell what it is; HostLost when it can't be reached.
    """
    return read_text(run(["sh", "-c", SCRIPT]))


def read_text(text: str) -> PhoneFacts:
    """What a phone's shell printed for SCRIPT. Raises DeviceError as `read` does, and nothing else."""
    texts = _sections(text)
    identity = read_identity(read_properties(texts.get("properties", "")))
    machine, kernel, build = (*map(cleaned, texts.get("kernel", "").splitlines()[:3]), None, None, None)[:3]
    cpuinfo, files = texts.get("cpuinfo", ""), read_files(texts.get("cpu", ""))
    if profile_of(identity) is None:  # no phone: a board is named by its device tree, a PC by its processor
        board = "".join(read_files(texts.get("board", "")).values()) or _processor(cpuinfo)
        identity = replace(identity, model=identity.model or cleaned(board))
    target = target_of(identity, machine)
    memory = _kib(texts.get("memory", ""))
    uptime = _SECONDS.match(texts.get("uptime", "").strip())
    if uptime is None:
        raise DeviceError(f"{identity.title} does not tell its clock: /proc/uptime can't be read")
    return PhoneFacts(
        identity=identity,
        target=target,
        features=features_of(cpuinfo),
        clusters=clusters_of(files, cpuinfo),
        online=frozenset(ranges(files.get(f"{CPU_FOLDER}/online", ""))),
        uptime_s=float(uptime[1]),
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        free_bytes=_free_bytes(texts.get("storage", "")),
        kernel=kernel,
        kernel_build=build,
        governor=governors(files),
        rails_j=read_rails(texts.get("rails", "").splitlines()),
        texts=texts,
    )


def read_files(text: str) -> dict[str, str]:
    """Path -> value, of lines `path:value`; others are passed over."""
    found = {}
    for line in text.splitlines():
        path, colon, value = line.partition(":")
        if colon and path.startswith("/"):
            found[path] = cleaned(value) or ""
    return found


def sold_gib(memory_bytes: int | None) -> int | None:
    """The size it was sold with: the kernel's total is less, by what firmware keeps, which updates move."""
    if not memory_bytes:
        return None
    return next((gib for gib in _SOLD_GIB if gib * 2**30 >= memory_bytes), None)


def _sections(text: str) -> dict[str, str]:
    """Name -> text; what a device prints before the first is its own business."""
    parts = _SECTION.split(text.replace("\r\n", "\n"))
    return {name: body.strip("\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _kib(text: str) -> dict[str, int]:
    """Bytes by name, of lines as /proc/meminfo has them."""
    found = {}
    for line in text.splitlines():
        match line.split():
            case [name, count, "kB"] if (number := whole(count)) is not None and 0 <= number < 2**40:
                found[name.rstrip(":")] = number * 1024
    return found


def _processor(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:(.{1,200})$", cpuinfo, re.MULTILINE)
    return found[1] if found else ""


def _free_bytes(text: str) -> int | None:
    """Of `df -Pk`: the fourth column of its last line."""
    columns = (text.splitlines() or [""])[-1].split()
    number = whole(columns[3]) if len(columns) > 4 else None
    return number * 1024 if number is not None and 0 <= number < 2**50 else None


def _cluster_facts(cluster: Cluster) -> dict[str, Any]:
    return {
        "cpus": list(cluster.cpus),
        "max_freq_hz": cluster.max_freq_hz,
        "capacity_share": cluster.capacity_share,
    }
