"""Heat, clocks and power source: trees that stand for /sys of several computers."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.devices.state import DeviceState, StateReader, ac_online, flags_between, on_battery, settled

Tell = Callable[[Mapping[str, object]], Path]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """`tell({path: content})`: /sys holds these files besides those told before."""
    root = tmp_path / "sys"
    root.mkdir()
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(root))

    def write(files: Mapping[str, object]) -> Path:
        for name, value in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{value}\n")
        return root

    return write


def zone(n: int, kind: str, value: object) -> dict[str, object]:
    return {f"class/thermal/thermal_zone{n}/type": kind, f"class/thermal/thermal_zone{n}/temp": value}


def cpu(n: int, **files: object) -> dict[str, object]:
    return {f"devices/system/cpu/cpu{n}/{name.replace('__', '/')}": value for name, value in files.items()}


def supply(name: str, **files: object) -> dict[str, object]:
    return {f"class/power_supply/{name}/{key}": value for key, value in files.items()}


def throttles(n: int, package: int, core: int, *, in_package: int, in_core: int) -> dict[str, object]:
    return cpu(
        n,
        topology__physical_package_id=package,
        topology__core_id=core,
        thermal_throttle__package_throttle_count=in_package,
        thermal_throttle__core_throttle_count=in_core,
    )


def test_system_that_tells_nothing_gives_nothing(tell: Tell) -> None:
    tell({})
    reader = StateReader()
    assert reader.read() == DeviceState()
    facts = reader.facts()
    assert facts["temperature_sensors"] == []
    assert facts["evidence"] == "replayed"
    json.dumps(facts, allow_nan=False)


def test_this_computer_can_be_read() -> None:
    reader = StateReader()
    state = reader.read()
    assert state.temperature_c is None or -40 < state.temperature_c < 125
    assert (state.temperature_c is None) == (not reader.facts()["temperature_sensors"])
    assert state.frequency_hz is None or 1e7 < state.frequency_hz < 1e11
    assert reader.facts()["evidence"] == "measured"


# Temperature ------------------------------------------------------------------------------------


def test_hottest_of_the_processors_sensors_is_named(tell: Tell) -> None:
    chip = "class/hwmon/hwmon3"
    tell(
        {
            f"{chip}/name": "coretemp",
            f"{chip}/temp1_input": 61000,
            f"{chip}/temp1_label": "Package id 0",
            f"{chip}/temp2_input": 63000,
            f"{chip}/temp2_label": "Core 0",
            "class/hwmon/hwmon1/name": "nvme",
            "class/hwmon/hwmon1/temp1_input": 80000,
        }
        | zone(0, "acpitz", 99000)
        | zone(1, "x86_pkg_temp", 62000)
    )
    reader = StateReader()
    state = reader.read()
    assert (state.temperature_c, state.temperature_sensor) == (63.0, "coretemp:Core 0")
    tell({f"{chip}/temp2_input": 50000})
    assert reader.read().temperature_sensor == "thermal_zone1:x86_pkg_temp"


@pytest.mark.parametrize("absurd", [0, -274000, 127000, 255000, 65535000, "", "n/a"])
def test_absurd_values_are_left_out(tell: Tell, absurd: object) -> None:
    tell(zone(0, "cpu-thermal", absurd) | zone(1, "soc-thermal", 45500))
    state = StateReader().read()
    assert (state.temperature_c, state.temperature_sensor) == (45.5, "thermal_zone1:soc-thermal")


def test_sensor_that_turns_absurd_later_is_none(tell: Tell) -> None:
    tell(zone(0, "cpu-thermal", 45500))
    reader = StateReader()
    assert reader.read().temperature_c == 45.5
    for absurd in (-274000, 0):
        tell(zone(0, "cpu-thermal", absurd))
        assert reader.read().temperature_c is None
    (tell({}) / "class/thermal/thermal_zone0/temp").unlink()
    assert reader.read().temperature_c is None


def test_without_a_processors_zone_others_serve_but_never_the_battery(tell: Tell) -> None:
    tell(zone(0, "battery", 90000) | zone(1, "gpu-thermal", 91000) | zone(2, "acpitz", 40000))
    assert StateReader().read().temperature_sensor == "thermal_zone2:acpitz"


@pytest.mark.parametrize(("with_die", "expected_c"), [(True, 55.0), (False, 82.0)])
def test_amds_offset_temperature_gives_way_to_the_real_one(
    tell: Tell, with_die: bool, expected_c: float
) -> None:
    chip = "class/hwmon/hwmon0"
    tell({f"{chip}/name": "k10temp", f"{chip}/temp1_input": 82000, f"{chip}/temp1_label": "Tctl"})
    if with_die:
        tell({f"{chip}/temp2_input": 55000, f"{chip}/temp2_label": "Tdie"})
    assert StateReader().read().temperature_c == expected_c


# Clocks and throttling --------------------------------------------------------------------------


def test_frequency_is_the_mean_of_the_processors_that_are_on(tell: Tell) -> None:
    root = tell({})
    for n, khz in enumerate([1_000_000, 2_000_000, 3_000_000]):
        tell(cpu(n, cpufreq__scaling_cur_freq=khz, cpufreq__scaling_governor="powersave"))
    tell({"devices/system/cpu/cpufreq/boost": 1})  # no processor of that name
    reader = StateReader()
    assert reader.read().frequency_hz == 2e9
    (root / "devices/system/cpu/cpu2/cpufreq/scaling_cur_freq").unlink()
    assert reader.read().frequency_hz == 1.5e9


def test_governors_that_differ_are_all_named(tell: Tell) -> None:
    tell(cpu(0, cpufreq__scaling_governor="schedutil") | cpu(1, cpufreq__scaling_governor="schedutil"))
    reader = StateReader()
    before = reader.read()
    assert before.governor == "schedutil"
    tell(cpu(1, cpufreq__scaling_governor="performance"))
    after = reader.read()
    assert after.governor == "performance,schedutil"
    assert flags_between(before, after) == ["governor_changed"]


def test_history_of_throttling_is_no_throttling(tell: Tell) -> None:
    tell(throttles(0, 0, 0, in_package=812, in_core=90))
    reader = StateReader()
    assert flags_between(reader.read(), reader.read()) == []


def test_event_of_a_package_counts_once(tell: Tell) -> None:
    """Two packages of two cores; the first core of each has two threads with copies of its count."""
    for n, package, core in [(0, 0, 0), (1, 0, 0), (2, 0, 1), (3, 1, 0), (4, 1, 0), (5, 1, 1)]:
        tell(throttles(n, package, core, in_package=7, in_core=3))
    reader = StateReader()
    before = reader.read()
    assert before.n_throttle_events == 2 * 7 + 4 * 3
    for n in (0, 1, 2):  # the first package, seen by all its processors
        tell(cpu(n, thermal_throttle__package_throttle_count=9))
    for n in (3, 4):  # a core of the second, seen by both its threads
        tell(cpu(n, thermal_throttle__core_throttle_count=4))
    after = reader.read()
    assert after.n_throttle_events == before.n_throttle_events + 2 + 1
    assert flags_between(before, after) == ["throttled"]
    assert flags_between(after, reader.read()) == []


def test_event_that_only_the_lower_copy_saw_is_not_missed(tell: Tell) -> None:
    tell(throttles(0, 0, 0, in_package=100, in_core=0) | throttles(1, 0, 1, in_package=4, in_core=0))
    reader = StateReader()
    before = reader.read()
    tell(cpu(1, thermal_throttle__package_throttle_count=5))
    assert flags_between(before, reader.read()) == ["throttled"]


def test_processor_that_goes_away_is_no_event(tell: Tell) -> None:
    root = tell(throttles(0, 0, 0, in_package=3, in_core=1) | throttles(1, 0, 1, in_package=3, in_core=1))
    reader = StateReader()
    before = reader.read()
    (root / "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").unlink()
    gone = reader.read()
    tell(cpu(1, thermal_throttle__core_throttle_count=1))
    assert before == gone == reader.read()


def test_kernels_cooling_of_the_processor_is_throttling_and_a_fan_is_not(tell: Tell) -> None:
    devices = [("pwm-fan", 4, 4), ("cpufreq-cpu0", 0, 20), ("intel_powerclamp", -1, 50)]
    for n, (kind, now, most) in enumerate(devices):
        device = f"class/thermal/cooling_device{n}"
        tell({f"{device}/type": kind, f"{device}/cur_state": now, f"{device}/max_state": most})
    reader = StateReader()
    before = reader.read()
    assert before.cooling_share == 0.0
    assert flags_between(before, before) == []
    tell({"class/thermal/cooling_device1/cur_state": 5})
    after = reader.read()
    assert after.cooling_share == 0.25
    assert flags_between(before, after) == flags_between(after, before) == ["throttled"]


@pytest.mark.parametrize(
    ("word", "now"),
    [("0", False), ("50000", False), ("e0008", True), ("throttled=0x50004", True), ("1", False), ("", None)],
)
def test_raspberry_pi_says_it_itself(tell: Tell, word: str, now: bool | None) -> None:
    tell({"devices/platform/soc/soc:firmware/get_throttled": word})
    state = StateReader().read()
    assert state.throttled_now is now
    assert flags_between(DeviceState(), state) == (["throttled"] if now else [])


def test_what_is_not_known_raises_no_flag() -> None:
    known = DeviceState(n_throttle_events=3, governor="powersave", on_battery=False, cooling_share=0.0)
    assert flags_between(DeviceState(), known) == flags_between(known, DeviceState()) == []


# Power source -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_battery_that_is_not_used(tell: Tell, status: str) -> None:
    tell(supply("BAT0", type="Battery", status=status) | supply("AC", type="Mains", online=1))
    assert on_battery() is False
    assert ac_online() is True


def test_one_battery_that_discharges_is_enough(tell: Tell) -> None:
    tell(supply("BAT0", type="Battery", status="Full"))
    tell(supply("BAT1", type="Battery", status="Discharging"))
    reader = StateReader()
    assert ac_online() is None
    state = reader.read()
    assert state.on_battery is True
    assert flags_between(state, replace(state, on_battery=False)) == ["on_battery"]


@pytest.mark.parametrize(("online", "expected"), [(0, True), (1, False), (2, False), ("?", None)])
def test_adapter_is_asked_where_the_battery_does_not_tell(
    tell: Tell, online: object, expected: bool | None
) -> None:
    tell(supply("BAT0", type="Battery", status="Unknown") | supply("ACAD", type="Mains", online=online))
    assert on_battery() is expected


def test_battery_of_a_mouse_is_not_ours(tell: Tell) -> None:
    tell(supply("hidpp_battery_0", type="Battery", scope="Device", status="Discharging", online=1))
    assert on_battery() is None
    assert ac_online() is None
    assert StateReader().facts()["power_supplies"] == []


# At rest ----------------------------------------------------------------------------------------


def history(
    c_per_min: float, end_c: float, *, length_s: float = 90, every_s: float = 0.5
) -> list[tuple[float, float]]:
    n = round(length_s / every_s)
    return [(100 + i * every_s, end_c + c_per_min / 60 * (i - n) * every_s) for i in range(n + 1)]


@given(st.floats(-20, 20), st.floats(-10, 10), st.sampled_from([0.1, 0.5, 5.0]))
def test_settled_is_slow_and_near(c_per_min: float, away_c: float, every_s: float) -> None:
    if min(abs(abs(c_per_min) - 0.5), abs(abs(away_c) - 2)) < 1e-6:
        return  # on the edge, rounding decides
    told = settled(history(c_per_min, 40 + away_c, every_s=every_s), 40)
    assert told is (abs(c_per_min) < 0.5 and abs(away_c) < 2)


def test_settled_forgets_what_was_before_the_window() -> None:
    hot = [(t, 90.0) for t in range(60)]
    assert not settled([*hot, *[(60 + t, 41.0) for t in range(20)]], 40)
    assert settled([*hot, *[(60 + t, 41.0) for t in range(40)]], 40)


def test_settled_needs_a_whole_window_without_a_gap() -> None:
    assert not settled([], 40)
    assert not settled(history(0, 40, length_s=25), 40)
    assert settled(history(0, 40, length_s=30), 40)
    assert not settled([(0.0, 40.0), *history(0, 40, length_s=5)], 40)
    assert not settled([(0.0, 40.0), (30.0, 40.0)], 40)
    assert not settled([(0.0, 40.0), *[(60.0, 40.0)] * 20], 40)


def test_settled_sees_through_a_sensor_of_whole_degrees() -> None:
    noise = random.Random(7)
    rest = [(t / 2, round(45.4 + noise.gauss(0, 0.05))) for t in range(200)]
    fall = [(t / 2, round(80 - 5 * t / 120 + noise.gauss(0, 0.05))) for t in range(200)]
    assert settled(rest, 45)
    assert not settled(fall, round(fall[-1][1]))
