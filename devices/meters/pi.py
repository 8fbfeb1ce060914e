"""The Raspberry Pi 5's power chip: volts times amperes of its measured rails, by `vcgencmd`.

The sum leaves out the 5 V peripherals, USB and the converter's own loss, so its scope is `soc_rails`.
The regression that makes the wall's watts of it is a model and is not used. Older boards measure no
current.
"""

import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.energy import Absence, Meter, MeterError, MeterFacts, Method, Sample, Scope, SourceStatus

MINIMUM_S = 10.0
UPDATE_S = 0.1
"""Every call converts anew; ten processes a second are as much as a measured board should bear."""
STEP_W = 0.003
"""One count of the core rail's current (3.6 mA) at 0.87 V, from recorded readings."""
_TIMEOUT_S = 5.0
_READ = ("vcgencmd", "pmic_read_adc")
_MODEL = Path("/proc/device-tree/model")
_CHANNEL = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)([AV])\s*$", re.MULTILINE)
_THROTTLED = re.compile(r"^throttled=0x([0-9a-fA-F]{1,8})\s*$", re.MULTILINE)
_FLAGS = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
_BOOT_SHIFT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleFlags:
    """What holds the processor back: under_voltage, frequency_capped, throttled, soft_temperature_limit."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]
    """Has happened since the board was started."""


class PiPmic:
    """The family `pi`: one sampled meter, `pi:pmic`."""

    name = "pi"

    def probe(self) -> list[SourceStatus]:
        """One line: usable, or why it is not."""
        title = "Raspberry Pi 5 power chip (PMIC rails)"
        try:
            facts = _facts(_rails())
        except MeterError as error:
            return [
                SourceStatus(
                    source=self.name,
                    title=title,
                    scope=None,
                    reason=error.reason,
                    why=error.message,
                    fix=error.hint or "",
                )
            ]
        return [SourceStatus(source=facts.source, title=title, scope=facts.scope, facts=facts)]

    def open(self) -> list[Meter]:
        """The meter, where there is one."""
        try:
            return [_PiMeter(_rails())]
        except MeterError:
            return []


class _PiMeter:
    """An open meter: each reading starts one short process."""

    def __init__(self, rails: dict[str, float]) -> None:
        self.facts = _facts(rails)
        self._names = rails.keys()

    def read(self) -> Sample:
        """W now, stamped with the middle of the call."""
        before = time.perf_counter()
        rails = _rails()
        after = time.perf_counter()
        if rails.keys() != self._names:
            raise MeterError(Absence.UNREADABLE, f"{self.facts.source}: other rails than at the start")
        return Sample((before + after) / 2, sum(rails.values()))

    def close(self) -> None:
        """Nothing is held open."""


def rail_watts(text: str) -> dict[str, float]:
    """Rail -> W, of every rail with both a current and a voltage in the output of `pmic_read_adc`.

    Empty when the text has no such pair. `EXT5V` and `BATT` are voltages only.
    """
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for rail, letter, value, unit in _CHANNEL.findall(text):
        if letter == unit:
            (amperes if unit == "A" else volts)[rail] = float(value)
    return {rail: amperes[rail] * volts[rail] for rail in amperes if rail in volts}


def throttle_flags(text: str) -> ThrottleFlags | None:
    """The bits of `vcgencmd get_throttled` (`throttled=0x50005`): 0-3 now, 16-19 since boot.

    None when the text is something else.
    """
    found = _THROTTLED.search(text)
    if found is None:
        return None
    bits = int(found[1], 16)
    return ThrottleFlags(
        now=tuple(flag for i, flag in enumerate(_FLAGS) if bits >> i & 1),
        since_boot=tuple(flag for i, flag in enumerate(_FLAGS) if bits >> (_BOOT_SHIFT + i) & 1),
    )


def read_throttle_flags() -> ThrottleFlags | None:
    """This board's flags; None where it is no Raspberry Pi or does not tell."""
    if shutil.which("vcgencmd") is None:
        return None
    try:
        return throttle_flags(_output(("vcgencmd", "get_throttled")))
    except MeterError:
        return None


def _facts(rails: dict[str, float]) -> MeterFacts:
    return MeterFacts(
        source="pi:pmic",
        scope=Scope.SOC_RAILS,
        method=Method.SAMPLED,
        step=STEP_W,
        update_s=UPDATE_S,
        minimum_s=MINIMUM_S,
        detail=f"{', '.join(sorted(rails))}; without 5 V peripherals, USB, converter loss",
    )


def _rails() -> dict[str, float]:
    """The rails read now; MeterError says why not."""
    if platform.system() != "Linux":
        raise MeterError(Absence.OS_UNSUPPORTED, "a Raspberry Pi's power chip is read on its Linux")
    if shutil.which("vcgencmd") is None:
        if "Raspberry Pi" not in _board():
            raise MeterError(Absence.NO_SENSOR, "this is no Raspberry Pi")
        raise MeterError(Absence.NOT_INSTALLED, "vcgencmd is not installed", "sudo apt install raspi-utils")
    text = _output(_READ)
    rails = rail_watts(text)
    if rails:
        return rails
    if "/dev/vc" in text:  # its own words when the device file can't be opened
        fix = "sudo usermod -aG video $USER  # then log in again"
        raise MeterError(Absence.PERMISSION_DENIED, "vcgencmd may not open the firmware's device", fix)
    raise MeterError(Absence.NO_SENSOR, "this board measures no currents: a Raspberry Pi 5 does")


def _output(command: tuple[str, str]) -> str:
    """All that a command prints, error lines included."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeterError(Absence.UNREADABLE, f"{' '.join(command)} does not answer") from error
    return done.stdout


def _board() -> str:
    try:
        return _MODEL.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
