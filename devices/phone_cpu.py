"""A phone's processors: which instructions they have, which of them are equal, how many threads to try."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgebench.devices.phone_log import whole

CPU_FOLDER = "/sys/devices/system/cpu"
MOST_CANDIDATES = 6
USUAL = ((4, None), (2, None), (1, None))
"""Threads to try where nothing is known of the processors."""
_MOST_CPUS = 256
"""More than any phone has: what is beyond is garbage."""
_FULL_CAPACITY = 1024
"""The kernel's figure for the strongest processor at its highest clock."""
_STRONG_CAPACITY, _STRONG_FREQUENCY = 0.5, 0.75
"""Of the strongest: above it, a core takes part in a step without making all others wait for it.

Clocks tell less than capacities: a little core of 1.8 GHz does far less than 1.8/2.8 of a big one.
"""
_CPU_FILE = re.compile(r"/cpu([0-9]{1,4})/(?:cpufreq/)?([a-z_]+)$")

Candidate = tuple[int, str | None]
"""Threads, and the processors they may use: hex without a prefix, the only form toybox's taskset reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Processors that are equal."""

    cpus: tuple[int, ...]
    max_freq_hz: float | None = None
    capacity_share: float | None = None
    """Work in a second, of what the strongest one does, by the kernel's own table; None: it has none."""


def features_of(cpuinfo: str) -> frozenset[str]:
    """The instructions that every processor has, as /proc/cpuinfo calls them (Features; x86: flags)."""
    found: list[frozenset[str]] = []
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() in ("features", "flags") and value.strip():
            found.append(frozenset(value.split()))
    return frozenset.intersection(*found) if found else frozenset()


def clusters_of(files: Mapping[str, str], cpuinfo: str) -> tuple[Cluster, ...]:
    """The clusters, the strongest first; `files` of /sys/devices/system/cpu by path.

    Told apart by capacity, else by the highest clock, where every processor tells it; else they count as one.
    Empty where not even their number can be read.
    """
    capacities = _by_cpu(files, "cpu_capacity")
    clocks_khz = _by_cpu(files, "scaling_max_freq") | _by_cpu(files, "cpuinfo_max_freq")
    cpus = sorted(
        ranges(files.get(f"{CPU_FOLDER}/present", ""))
        or ranges(files.get(f"{CPU_FOLDER}/possible", ""))
        or capacities.keys() | clocks_khz.keys()
        or _listed(cpuinfo)
    )
    told = next((one for one in (capacities, clocks_khz) if all(cpu in one for cpu in cpus)), {})
    groups: dict[int, list[int]] = {}
    for cpu in cpus:
        groups.setdefault(told.get(cpu, 0), []).append(cpu)
    if told is not capacities:
        capacities = {}  # of some only: they would say nothing of the others
    made = [_cluster(tuple(group), capacities, clocks_khz) for group in groups.values()]
    return tuple(sorted(made, key=_strength, reverse=True))


def thread_candidates(clusters: Sequence[Cluster], online: Iterable[int] = ()) -> tuple[Candidate, ...]:
    """Few numbers of threads worth trying, and the processors for each; the likeliest best first.

    The strong cores together come first: a step waits for its slowest thread. Then one fewer, which leaves a
    core for what else runs, the strongest cluster by itself, half of the strong ones, all but the first
    processor, which serves most interrupts, and all. `online` are processors known to be switched on; none:
    all are taken to be.
    """
    on = set(online)
    ranked = [  # the strongest first; of equals the highest number, farthest from the first processor
        cpu for cluster in clusters for cpu in sorted(cluster.cpus, reverse=True) if not on or cpu in on
    ]
    if not ranked:
        return USUAL
    differ = sum(1 for cluster in clusters if set(cluster.cpus) & set(ranked)) > 1
    strong = [cpu for cluster in clusters if _is_strong(cluster, clusters[0]) for cpu in cluster.cpus]
    strong = [cpu for cpu in ranked if cpu in set(strong)]
    without_first = [cpu for cpu in ranked if cpu != min(ranked)]
    best = [cpu for cpu in ranked if cpu in clusters[0].cpus]
    sets = [
        strong if len(strong) < len(ranked) or len(ranked) < 3 else without_first,
        strong[:-1] if len(strong) > 2 else [],
        best if len(best) > 1 else [],
        strong[: len(strong) // 2],
        without_first,
        ranked,
    ]
    found: list[Candidate] = []
    for cpus in sets:
        mask = mask_of(cpus) if differ and len(cpus) < len(ranked) else None
        if cpus and (len(cpus), mask) not in found:
            found.append((len(cpus), mask))
    return tuple(found[:MOST_CANDIDATES])


def mask_of(cpus: Iterable[int]) -> str:
    """`f0` of 4 to 7."""
    return f"{sum(1 << cpu for cpu in set(cpus)):x}"


def ranges(text: str) -> set[int]:
    """Of `0-3,8`, as the kernel writes it: {0, 1, 2, 3, 8}; empty for what is not of that form."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = whole(first), whole(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < _MOST_CPUS:
            return set()
        found |= set(range(low, high + 1))
    return found


def governors(files: Mapping[str, str]) -> str | None:
    """The frequency governors, joined by commas; None where none can be read."""
    found = {value for path, value in files.items() if path.endswith("/scaling_governor") and value}
    return ",".join(sorted(found)) or None


def _by_cpu(files: Mapping[str, str], name: str) -> dict[int, int]:
    """Positive numbers in a file of that name, by processor."""
    found = {}
    for path, value in files.items():
        match = _CPU_FILE.search(path)
        number = whole(value)
        if match and match[2] == name and number and number > 0 and int(match[1]) < _MOST_CPUS:
            found[int(match[1])] = number
    return found


def _listed(cpuinfo: str) -> set[int]:
    found = re.findall(r"^processor\s*:\s*([0-9]{1,4})\s*$", cpuinfo, re.MULTILINE)
    return {int(number) for number in found if int(number) < _MOST_CPUS}


def _cluster(cpus: tuple[int, ...], capacities: Mapping[int, int], clocks_khz: Mapping[int, int]) -> Cluster:
    clocks = [clocks_khz[cpu] for cpu in cpus if cpu in clocks_khz]
    told = [capacities[cpu] for cpu in cpus if cpu in capacities]
    return Cluster(
        cpus=cpus,
        max_freq_hz=1e3 * max(clocks) if clocks else None,
        capacity_share=max(told) / _FULL_CAPACITY if len(told) == len(cpus) else None,
    )


def _strength(cluster: Cluster) -> tuple[float, float]:
    return cluster.capacity_share or 0.0, cluster.max_freq_hz or 0.0


def _is_strong(cluster: Cluster, best: Cluster) -> bool:
    if cluster.capacity_share is not None and best.capacity_share is not None:
        return cluster.capacity_share >= _STRONG_CAPACITY * best.capacity_share
    if cluster.max_freq_hz is not None and best.max_freq_hz is not None:
        return cluster.max_freq_hz >= _STRONG_FREQUENCY * best.max_freq_hz
    return True
