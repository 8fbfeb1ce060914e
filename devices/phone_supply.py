"""When a phone lives on its battery alone, and the numbers the battery gave then, in units not yet known."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median
from typing import NamedTuple

from edgebench.devices.phone_dumps import BatteryService, read_battery
from edgebench.devices.phone_log import Dump, Log

_STATUS = {"Discharging": True, "Charging": False, "Full": False, "Not_charging": False}
_SLOWEST_LOOKS_S = 0.5
"""Looks that are further apart can't show that a value is renewed often."""
_STALE_LOOKS = 1.5
_FEWEST_CHANGES = 3


class Look(NamedTuple):
    """A number the battery gave."""

    t_s: float
    value: int


def on_battery(log: Log) -> list[bool | None]:
    """For each tick: whether the battery alone feeds the phone. False: a charger is in; None: nobody tells.

    Whoever says that a charger is in is believed: a weak one leaves the kernel's status at discharging.
    Between two answers of the service both count.
    """
    told = [(dump.at_s, service.discharging) for dump, service in _services(log)]
    stamps_s = [at_s for at_s, _ in told]
    states: list[bool | None] = []
    for tick in log.ticks:
        i = bisect_right(stamps_s, tick.t_s)
        words = {_STATUS.get(tick.battery.status or ""), *(word for _, word in told[max(i - 1, 0) : i + 1])}
        states.append(False if False in words else True if True in words else None)
    return states


@dataclass(frozen=True, slots=True, kw_only=True)
class Discharge:
    """The longest time without a charger, and the battery's numbers of it."""

    start_s: float
    end_s: float
    is_all: bool
    """Nothing else came before or after."""
    was_charged: bool
    """A charger was seen in the rest."""
    current: list[Look]
    current_words: str
    charge: list[Look]
    voltage: list[Look]
    level_share: float | None
    """0 to 1, at the end."""


def longest_discharge(log: Log) -> Discharge | None:
    """None when the phone never was known to be on its battery."""
    states = on_battery(log)
    runs = [list(run) for on, run in groupby(range(len(states)), key=states.__getitem__) if on]
    if not runs:
        return None
    run = max(runs, key=lambda run: log.ticks[run[-1]].t_s - log.ticks[run[0]].t_s)
    start_s, end_s = log.ticks[run[0]].t_s, log.ticks[run[-1]].t_s
    ticks = [log.ticks[i] for i in run]
    if run[-1] == len(states) - 1:  # what was asked in the last tick, too
        end_s = max([end_s, *(dump.at_s for dump in log.dumps)])
    services = [(d.at_s, service) for d, service in _services(log) if start_s <= d.at_s <= end_s]

    def of_service(number: Callable[[BatteryService], int | None]) -> list[Look]:
        return [Look(at_s, n) for at_s, service in services if (n := number(service)) is not None]

    # The kernel's files are as fresh as it gets; the service keeps what it was told last.
    files = [Look(t.t_s, t.battery.current) for t in ticks if t.battery.current is not None]
    charges = [Look(t.t_s, t.battery.charge) for t in ticks if t.battery.charge is not None]
    voltages = [Look(t.t_s, t.battery.voltage) for t in ticks if t.battery.voltage is not None]
    levels = [t.battery.capacity for t in ticks if t.battery.capacity is not None]
    levels = levels or [service.level for _, service in services if service.level is not None]
    return Discharge(
        start_s=start_s,
        end_s=end_s,
        is_all=len(run) == len(states),
        was_charged=False in states,
        current=files or of_service(lambda service: service.current),
        current_words="current_now" if files else "the battery service's current",
        charge=charges or of_service(lambda service: service.charge),
        voltage=voltages or of_service(lambda service: service.voltage),
        level_share=levels[-1] / 100 if levels and 0 <= levels[-1] <= 100 else None,
    )


def renewal_s(looks: Sequence[Look], *, fresh_s: float) -> float:
    """The usual time between two changes of a value; the whole time where it hardly changes.

    `fresh_s` when it was new at nearly every look: how often then, no look can tell.
    """
    changed_s = [later.t_s for earlier, later in pairwise(looks) if later.value != earlier.value]
    if len(changed_s) < _FEWEST_CHANGES:
        return looks[-1].t_s - looks[0].t_s if looks else 0.0
    every_s = median(b - a for a, b in pairwise(changed_s))
    looked_s = median(b.t_s - a.t_s for a, b in pairwise(looks))
    if every_s <= _STALE_LOOKS * looked_s and looked_s <= _SLOWEST_LOOKS_S:
        return fresh_s
    return every_s


def _services(log: Log) -> list[tuple[Dump, BatteryService]]:
    told = [(dump, read_battery(dump.lines)) for dump in log.said("battery")]
    return [(dump, service) for dump, service in told if service is not None]
