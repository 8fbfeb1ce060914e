"""What `phone/sampler.sh` wrote, as ticks and answers of dumpsys. It is a device's and may hold anything.

A line that is not understood is passed over, so is one that was cut. Stamps are seconds of the device's
uptime and rise; where they go back the device was started anew, and nothing more is read.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_STAMP = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_JIFFY_S = 0.01
_IDLE, _IOWAIT = 3, 4
_N_TIMES = 8
"""User, nice, system, idle, iowait, irq, softirq, steal."""
_MOST_HZ = 1e11
_LONGEST_LINE = 1000


class BatteryFiles(NamedTuple):
    """The kernel's files of a battery as they are: units and signs differ between phones."""

    current: int | None = None
    voltage: int | None = None
    charge: int | None = None
    status: str | None = None
    """`Discharging`, `Not_charging`, …"""
    temperature: int | None = None
    capacity: int | None = None


_NOTHING = BatteryFiles()


class ProcessLook(NamedTuple):
    """The process that is measured."""

    anon_bytes: int | None
    file_bytes: int | None
    cpu_s: float


@dataclass(slots=True, kw_only=True)
class Tick:
    """One look at everything that is cheap to read; None: the device doesn't tell."""

    t_s: float
    battery: BatteryFiles = _NOTHING
    frequency_hz: float | None = None
    """Mean of all processors that are on."""
    busy_s: float | None = None
    """CPU seconds since boot, of everybody."""
    process: ProcessLook | None = None
    zones: tuple[tuple[str, float], ...] = ()
    """(type, °C) of thermal zones."""
    available_bytes: int | None = None


@dataclass(slots=True, kw_only=True)
class Dump:
    """An answer of dumpsys. It is of some moment while it was asked: the middle is taken."""

    words: str
    at_s: float
    lines: Sequence[str]


@dataclass(slots=True, kw_only=True)
class Log:
    """All of it, oldest first."""

    ticks: list[Tick]
    dumps: list[Dump]

    def said(self, *services: str) -> Iterator[Dump]:
        """Answers of services, by how their names begin."""
        return (dump for dump in self.dumps if dump.words.startswith(services))


def read_log(text: str) -> Log:
    """Read it; never raises. A last line without its end is passed over."""
    log = Log(ticks=[], dumps=[])
    now_s = 0.0
    words: str | None = None
    lines: list[str] = []
    for line in text.split("\n")[:-1]:
        mark, _, rest = line.partition(" ")
        if mark in ("t", "<"):
            stamp_s = _stamp_s(rest)
            if stamp_s is None:
                words = None
                continue
            if stamp_s < now_s:
                break
            if mark == "t":
                if not log.ticks or stamp_s > log.ticks[-1].t_s:
                    log.ticks.append(Tick(t_s=stamp_s))
            elif words is not None:
                log.dumps.append(Dump(words=words, at_s=(now_s + stamp_s) / 2, lines=lines))
            now_s, words = stamp_s, None
        elif mark == ">":
            words, lines = rest.strip(), []
        elif mark == "|":
            lines.append(rest[:_LONGEST_LINE])
        elif log.ticks:
            _note(log.ticks[-1], mark, rest.split())
    return log


def whole(word: str | None) -> int | None:
    """A whole number of at most 18 digits; None for anything else."""
    return int(word) if word is not None and _WHOLE.fullmatch(word) else None


def between(stamps: Sequence[float], values: Sequence[float], at: float) -> float:
    """On a straight line between the two values beside a stamp; beyond all of them the nearest one."""
    i = bisect_left(stamps, at)
    if i == 0 or i == len(stamps):
        return values[min(i, len(stamps) - 1)]
    share = (at - stamps[i - 1]) / (stamps[i] - stamps[i - 1])  # bisect_left: the left one is before it
    return values[i - 1] + share * (values[i] - values[i - 1])


def _stamp_s(text: str) -> float | None:
    return float(text) if _STAMP.fullmatch(text.strip(" ")) else None


def _note(tick: Tick, mark: str, words: Sequence[str]) -> None:
    numbers = [whole(word) for word in words]
    match mark:
        case "b" if len(words) == 6:
            status = None if words[3] == "-" else words[3][:40]
            current, voltage, charge, _, temperature, capacity = numbers
            tick.battery = BatteryFiles(current, voltage, charge, status, temperature, capacity)
        case "f":
            known_hz = [1e3 * khz for khz in numbers if khz is not None and 0 < 1e3 * khz < _MOST_HZ]
            tick.frequency_hz = fmean(known_hz) if known_hz else None
        case "c":
            times = [n for n in numbers if n is not None]
            if len(times) == len(numbers) == _N_TIMES:
                tick.busy_s = _JIFFY_S * (sum(times) - times[_IDLE] - times[_IOWAIT])
        case "p" if len(words) == 4:
            anon_kb, file_kb, user, system = numbers
            if user is not None and system is not None:
                tick.process = ProcessLook(_bytes(anon_kb), _bytes(file_kb), _JIFFY_S * (user + system))
        case "z":
            pairs = zip(words[::2], numbers[1::2], strict=False)
            tick.zones = tuple((kind[:60], milli / 1e3) for kind, milli in pairs if milli is not None)
        case "m" if len(words) == 1:
            tick.available_bytes = _bytes(numbers[0])


def _bytes(kb: int | None) -> int | None:
    return None if kb is None or kb < 0 else 1024 * kb
