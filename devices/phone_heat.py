"""How hot, how fast and how held back a phone was while it was measured."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from edgebench.devices.phone_dumps import Heat, plausible, read_heat
from edgebench.devices.phone_log import Log, Tick
from edgebench.devices.phone_supply import on_battery
from edgebench.devices.state import DeviceState

_SERVICES = ("thermalservice", "android.hardware.thermal.")
_KNOWN_FOR_S = 5.0
"""What was said this long ago is not said of now."""
_HELD_BACK = 2
"""From `moderate` on Android holds the clocks down; at `light` it only warns."""
_SKIN_ZONES = ("skin",)
_CPU_ZONES = ("cpu", "soc", "core", "cluster", "cpuss", "apc", "big", "mid", "little")
_FOREIGN_ZONES = ("batt", "charg", "wifi", "modem", "usb", "pmic", "gpu", "npu", "tpu", "camera", "flash")


class _Reading(NamedTuple):
    celsius: float
    sensor: str


def read_states(log: Log) -> list[tuple[float, DeviceState]]:
    """(uptime_s, state) of each tick, by one kind of sensor: the HAL's, else zones, else the battery."""
    told = [_read(log, service) for service in _SERVICES]
    # The HAL is asked itself where the service has nothing of it: the first one that knows a temperature.
    hal = next((heats for heats in told if any(heat.hottest() for _, heat in heats)), None)
    has_zones = any(_zone(tick) for tick in log.ticks)
    states = []
    zone: tuple[float, _Reading] | None = None
    for tick, on in zip(log.ticks, on_battery(log), strict=True):
        reading: _Reading | None = None
        said = [heat for heats in told if (heat := _near(heats, tick.t_s))]
        if hal is not None:
            heat = _near(hal, tick.t_s)
            hottest = heat.hottest() if heat else None
            reading = _Reading(hottest.celsius, f"thermalservice:{hottest.name}") if hottest else None
        elif has_zones:
            if now := _zone(tick):
                zone = (tick.t_s, now)
            reading = zone[1] if zone and tick.t_s - zone[0] <= _KNOWN_FOR_S else None
        elif tick.battery.temperature is not None and plausible(tick.battery.temperature / 10):
            reading = _Reading(tick.battery.temperature / 10, "battery")
        status = max((heat.status for heat in said), default=None)
        state = DeviceState(
            temperature_c=reading.celsius if reading else None,
            temperature_sensor=reading.sensor if reading else None,
            frequency_hz=tick.frequency_hz,
            on_battery=on,
            throttled_now=None if status is None else status >= _HELD_BACK,
        )
        states.append((tick.t_s, state))
    return states


def _read(log: Log, service: str) -> list[tuple[float, Heat]]:
    return [(dump.at_s, heat) for dump in log.said(service) if (heat := read_heat(dump.lines))]


def _near(heats: Sequence[tuple[float, Heat]], t_s: float) -> Heat | None:
    """The last word before a moment, or the next one after it."""
    i = bisect_right(heats, t_s, key=itemgetter(0))
    near = [heat for at_s, heat in heats[max(i - 1, 0) : i + 1] if abs(at_s - t_s) <= _KNOWN_FOR_S]
    return near[0] if near else None


def _zone(tick: Tick) -> _Reading | None:
    """The hottest zone of the skin, of the processor, or of those that are not known to be elsewhere."""
    zones = [(celsius, kind) for kind, celsius in tick.zones if plausible(celsius)]
    own = [(c, kind) for c, kind in zones if not any(word in kind.lower() for word in _FOREIGN_ZONES)]
    for words in (_SKIN_ZONES, _CPU_ZONES, ("",)):
        if found := [(c, kind) for c, kind in own if any(word in kind.lower() for word in words)]:
            celsius, kind = max(found)
            return _Reading(celsius, f"zone:{kind}")
    return None
