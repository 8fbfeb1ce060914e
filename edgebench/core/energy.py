"""The contract between energy meters and what is made of them: a value or a reason, never a guess.

A meter is either a counter (joules since it was opened) or sampled (watts now). Its samples are kept;
`edgebench.core.integration` turns those of a window into an `EnergyReading`. All stamps are those of
`time.perf_counter` in seconds: one clock for every process of a computer, which no clock set moves.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Evidence


class Scope(StrEnum):
    """What a meter's joules are of. Different scopes are never ranked together or summed."""

    WALL = "wall"
    """Everything, from the outlet."""
    BATTERY = "battery"
    """The whole device, from its battery: screen included."""
    PLATFORM = "platform"
    """The whole board (RAPL's psys, the SMC's system power, VDD_IN)."""
    PACKAGE = "package"
    """The processor's packages, with its memory where that is counted."""
    GPU_BOARD = "gpu_board"
    GPU_MODULE = "gpu_module"
    """A superchip: GPU and CPU."""
    SOC_MODEL = "soc_model"
    """What the vendor's firmware models of a system on chip: comparable within one chip only."""
    RAILS = "rails"
    """A phone's rails behind its battery."""
    SOC_RAILS = "soc_rails"
    """A board's rails that are measured, without peripherals and the converter's loss."""


class Method(StrEnum):
    """How joules come about."""

    COUNTER = "counter"
    SAMPLED = "sampled"


class Absence(StrEnum):
    """Why there is no figure."""

    NO_SENSOR = "no_sensor"
    PERMISSION_DENIED = "permission_denied"
    NOT_INSTALLED = "not_installed"
    """The sensor's library or program is not there."""
    OS_UNSUPPORTED = "os_unsupported"
    PLUGGED_IN = "plugged_in"
    WINDOW_TOO_SHORT = "window_too_short"
    BELOW_RESOLUTION = "below_resolution"
    COUNTER_RESET = "counter_reset"
    INCONSISTENT_SENSOR = "inconsistent_sensor"
    UNREADABLE = "unreadable"
    """The sensor was there and could not be read any more."""
    GAP = "gap"
    """More than a tenth of the window has no samples."""
    THERMAL_NOT_SETTLED = "thermal_not_settled"
    MIG_PARTITION = "mig_partition"
    NO_BASELINE = "no_baseline"
    """Net of idle needs an idle baseline: --rigorous."""
    SWITCHED_OFF = "switched_off"
    """The user asked for no meter."""
    NOT_ALIGNED = "not_aligned"
    """An external meter's log could not be laid over the run."""


class MeterError(EdgebenchError):
    """A meter that can't be read (any more), with the reason code that is stored."""

    def __init__(self, reason: Absence, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.reason = reason


class Sample(NamedTuple):
    """One look at a meter."""

    t_s: float
    value: float
    """J since the meter was opened (counter), or W (sampled)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterFacts:
    """What a meter is and how far it can be trusted."""

    source: str
    """Unique among the meters of a device: `rapl:package`, `nvml:0`, `battery:BAT0`."""
    scope: Scope
    method: Method
    step: float
    """The smallest change it shows: J of a counter, W of a sampled one."""
    update_s: float
    """Seconds between two changes of its value."""
    minimum_s: float
    """Shortest window its source is trusted for (5 s RAPL and GPU, 10 s INA3221, 60 s phone currents)."""
    accuracy: float | None = None
    """Relative error the vendor documents; None: precision only."""
    detail: str = ""
    """What is inside, what is not: for the record."""
    evidence: Evidence = Evidence.MEASURED
    """`replayed` when read from a made-up or recorded tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """The energy of a window, or why there is none."""

    value_j: float | None
    reason: Absence | None = None
    """Set exactly when value_j is None."""
    detail: str = ""
    hint: str = ""
    """How to get a figure next time."""
    source: str | None = None
    scope: Scope | None = None
    method: Method | None = None
    resolution_j: float | None = None
    u95_j: float | None = None
    """Half of a 95 % interval, from what is known: step, edges, documented accuracy."""
    duration_s: float = 0.0
    n_samples: int = 0
    evidence: Evidence | None = None
    flags: tuple[str, ...] = ()
    """`gap`: an interval between samples was over three times the usual one, but not enough to refuse."""

    @property
    def mean_w(self) -> float | None:
        """Average power over the window."""
        return None if self.value_j is None or not self.duration_s else self.value_j / self.duration_s


class Meter(Protocol):
    """An open meter."""

    facts: MeterFacts

    def read(self) -> Sample:
        """Now. Raises MeterError; a counter that wraps is unwrapped here."""

    def close(self) -> None:
        """Give back what is held open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """What `devices probe` says of one possible source."""

    source: str
    """`rapl:package`, `nvml:0`; the family's name (`rapl`) where there is nothing to name."""
    title: str
    """In words: `Intel/AMD RAPL, processor package`."""
    scope: Scope | None
    facts: MeterFacts | None = None
    """Of a usable source."""
    reason: Absence | None = None
    """Of one that is not."""
    why: str = ""
    fix: str = ""
    """The exact command (or act) that would make it usable; empty where nothing would."""

    @property
    def usable(self) -> bool:
        """Whether it can be read now."""
        return self.reason is None


class MeterSource(Protocol):
    """A family of meters (`rapl`, `nvml`, …); found by entry point `edgebench.meters`."""

    name: str

    def probe(self) -> list[SourceStatus]:
        """Every source of this family, or one line that says why there is none. Never raises."""

    def open(self) -> list[Meter]:
        """The usable ones. Never raises for what probe calls unusable."""
