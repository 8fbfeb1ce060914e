"""Was the computer ours? Processor time that is busy and not ours, and a fixed spin.

On a shared machine `steal` stays 0 while a neighbour costs nine tenths of a decode rate, so the sign
to watch is CPU time: all busy ticks less those of the processes that belong to the measurement.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

NOISY_SHARE = 0.10
"""Foreign CPU time above this share of a repetition's wall time flags it `noisy_neighbour`."""
TICKS_SLACK = 3
"""Counter steps (10 ms each) that both readings may be off by."""
UNSTABLE_FACTOR = 1.25
"""A spin this much slower than the run's fastest flags the repetition `unstable_host`."""
_SPIN_STEPS = 200_000


def spin_s() -> float:
    """Seconds of a fixed piece of integer work (some 10 ms): the host's speed, engine aside."""
    start = time.perf_counter_ns()
    x = 1
    for _ in range(_SPIN_STEPS):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return (time.perf_counter_ns() - start) * 1e-9


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Processor time since boot: of everybody, and of the processes that belong to us."""

    busy_s: float
    own_s: float

    @classmethod
    def read(cls, *pids: int) -> "CpuTimes | None":
        """Now; None where there is no /proc. `pids` are ours, as are their children that have ended."""
        tick = 1 / os.sysconf("SC_CLK_TCK")
        try:
            first = Path("/proc/stat").read_text().split("\n", 1)[0]
            own = 0.0
            for pid in pids:
                # Fields after the command name, which may hold blanks: the 14th to 17th are user and system
                # time, of the process and of children it has waited for (a meter's program, run for a look).
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                own += sum(map(int, fields[11:15])) * tick
        except OSError:
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first.split()[1:9])
        return cls((user + nice + system + irq + softirq + steal) * tick, own)

    def foreign_since(self, earlier: "CpuTimes") -> float:
        """CPU seconds spent by others between two readings; small negatives are rounding."""
        return max(0.0, (self.busy_s - earlier.busy_s) - (self.own_s - earlier.own_s))


def is_noisy(foreign_cpu_s: float, wall_s: float) -> bool:
    """Whether others had enough of the processor to move the figure."""
    slack_s = TICKS_SLACK / os.sysconf("SC_CLK_TCK")
    return foreign_cpu_s - slack_s > NOISY_SHARE * wall_s
