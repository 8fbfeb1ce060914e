"""Batteries on trees of files: four ways to joules, signs, and that a charger ends the measurement."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import Absence, Meter, MeterError, Method, Scope, SourceStatus
from edgebench.core.types import Evidence
from edgebench.devices.meters.battery import MINIMUM_S, UPDATE_S, Battery

ENERGY = {"energy_now": 40_000_000}
POWER = {"power_now": 7_500_000}
CURRENT = {"current_now": 600_000, "voltage_now": 12_500_000}
CHARGE = {"charge_now": 4_000_000, "voltage_now": 12_500_000}


def only_meter() -> Meter:
    (meter,) = Battery().open()
    return meter


def only_status() -> SourceStatus:
    (status,) = Battery().probe()
    return status


@pytest.mark.parametrize(
    ("files", "words", "method", "step"),
    [
        ({**CHARGE, **CURRENT, **POWER, **ENERGY}, "energy_now", Method.COUNTER, 36.0),
        ({**CHARGE, **CURRENT, **POWER}, "power_now", Method.SAMPLED, 1e-3),
        ({**CHARGE, **CURRENT}, "current_now x voltage_now", Method.SAMPLED, 12.5e-3),
        (CHARGE, "charge_now", Method.COUNTER, 3.6 * 12.5),
    ],
)
def test_best_of_what_the_battery_tells(
    tree: Path, fake_sysfs: Any, files: dict[str, int], words: str, method: Method, step: float
) -> None:
    fake_sysfs.battery(tree, **files)
    facts = only_meter().facts
    assert words in facts.detail
    assert (facts.source, facts.scope, facts.method) == ("battery:BAT0", Scope.BATTERY, method)
    assert facts.step == pytest.approx(step)
    assert (facts.update_s, facts.minimum_s) == (UPDATE_S, MINIMUM_S) == (30.0, 600.0)
    assert "BAT0 at 83 %" in facts.detail
    assert facts.evidence is Evidence.REPLAYED


def test_file_without_a_number_is_passed_over(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.battery(tree, **{**CURRENT, **POWER, **ENERGY, "energy_now": "unknown", "power_now": ""})
    assert "current_now" in only_meter().facts.detail


def test_energy_falls_by_milliwatt_hours(tree: Path, fake_sysfs: Any) -> None:
    folder = fake_sysfs.battery(tree, **ENERGY)
    meter = only_meter()
    assert meter.read().value == 0.0
    for used_uwh, joules in ((10_000, 36.0), (10_000, 36.0), (1_250_000, 4500.0)):
        fake_sysfs.write_files(folder, {"energy_now": ENERGY["energy_now"] - used_uwh})
        assert meter.read().value == pytest.approx(joules)


def test_charge_counts_at_the_voltage_between_two_readings(tree: Path, fake_sysfs: Any) -> None:
    folder = fake_sysfs.battery(tree, charge_now=4_000_000, voltage_now=12_000_000)
    meter = only_meter()
    # 0.1 Ah at 11.9 V, then 0.2 Ah at 11.6 V; a voltage that sags without charge is no energy.
    for charge_uah, voltage_uv in ((3_900_000, 11_800_000), (3_700_000, 11_400_000), (3_700_000, 10_000_000)):
        fake_sysfs.write_files(folder, {"charge_now": charge_uah, "voltage_now": voltage_uv})
        sample = meter.read()
    assert sample.value == pytest.approx(3600 * (0.1 * 11.9 + 0.2 * 11.6))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("files", [POWER, CURRENT], ids=["power", "current"])
def test_sign_is_the_drivers_whim(tree: Path, fake_sysfs: Any, files: dict[str, int], sign: int) -> None:
    signed = {name: value if name == "voltage_now" else sign * value for name, value in files.items()}
    fake_sysfs.battery(tree, **signed)
    assert only_meter().read().value == pytest.approx(7.5)


def test_samples_are_stamped_by_the_common_clock(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    fake_sysfs.battery(tree, **POWER)
    meter = only_meter()
    clock.now_s = 12.5
    assert meter.read().t_s == 12.5


@pytest.mark.parametrize("state", ["Charging", "Full", "Not charging", "Unknown"])
@pytest.mark.parametrize("files", [ENERGY, POWER], ids=["counter", "sampled"])
def test_charger_plugged_in_midway_ends_it(
    tree: Path, fake_sysfs: Any, files: dict[str, int], state: str
) -> None:
    folder = fake_sysfs.battery(tree, **files)
    meter = only_meter()
    meter.read()
    for status in (state, "Discharging"):  # unplugging again can't bring back what the charger gave
        fake_sysfs.write_files(folder, {"status": status})
        with pytest.raises(MeterError, match=f"BAT0 is {state.lower()}") as caught:
            meter.read()
        assert caught.value.reason is Absence.PLUGGED_IN
        assert "unplug" in str(caught.value.hint)


def test_plugged_in_from_the_start(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.battery(tree, **ENERGY, status="Charging")
    status = only_status()
    assert (status.source, status.reason, status.facts) == ("battery:BAT0", Absence.PLUGGED_IN, None)
    assert "unplug" in status.fix
    assert Battery().open() == []


def test_status_that_can_not_be_read_is_no_charger(tree: Path, fake_sysfs: Any) -> None:
    folder = fake_sysfs.battery(tree, **ENERGY)
    meter = only_meter()
    (folder / "status").unlink()
    with pytest.raises(MeterError, match="status") as caught:
        meter.read()
    assert caught.value.reason is Absence.UNREADABLE
    assert only_status().reason is Absence.UNREADABLE
    fake_sysfs.write_files(folder, {"status": "Discharging", "energy_now": 39_990_000})
    assert meter.read().value == pytest.approx(36.0)


def test_sensor_that_turns_unreadable(tree: Path, fake_sysfs: Any) -> None:
    folder = fake_sysfs.battery(tree, **POWER)
    meter = only_meter()
    (folder / "power_now").unlink()
    with pytest.raises(MeterError, match="power_now") as caught:
        meter.read()
    assert caught.value.reason is Absence.UNREADABLE


def test_discharging_with_no_power_is_no_zero(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.battery(tree, power_now=0)
    with pytest.raises(MeterError) as caught:
        only_meter().read()
    assert caught.value.reason is Absence.INCONSISTENT_SENSOR


def test_two_batteries_are_one_device(tree: Path, fake_sysfs: Any) -> None:
    first = fake_sysfs.battery(tree, "BAT0", **ENERGY, **POWER, status="Not charging")
    second = fake_sysfs.battery(tree, "BAT1", **ENERGY, capacity=12)
    meter = only_meter()
    assert meter.facts.source == "battery:BAT0+BAT1"
    assert meter.facts.detail.endswith("BAT0 at 83 %; BAT1 at 12 %")
    fake_sysfs.write_files(second, {"energy_now": 39_900_000, "status": "Not charging"})
    fake_sysfs.write_files(first, {"energy_now": 39_950_000, "status": "Discharging"})
    assert meter.read().value == pytest.approx(3.6 * 150)
    fake_sysfs.write_files(first, {"status": "Charging"})
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason is Absence.PLUGGED_IN


def test_other_supplies_are_no_battery_of_this_device(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.battery(tree, "AC", type="Mains", online=1)
    fake_sysfs.battery(tree, "hidpp_battery_0", **ENERGY, scope="Device")
    fake_sysfs.battery(tree, "BAT1", **ENERGY, present=0)
    status = only_status()
    assert (status.source, status.reason, status.scope) == ("battery", Absence.NO_SENSOR, None)
    assert Battery().open() == []


def test_battery_under_another_name(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.battery(tree, "macsmc-battery", **POWER)
    assert only_meter().facts.source == "battery:macsmc-battery"


def test_no_permission_gives_the_command(
    tree: Path, fake_sysfs: Any, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = fake_sysfs.battery(tree, **ENERGY)
    (folder / "energy_now").chmod(0)
    with unprivileged():
        status, opened = only_status(), Battery().open()
    assert status.reason is Absence.PERMISSION_DENIED
    assert status.fix == f"sudo chmod o+r {folder / 'energy_now'}"
    assert opened == []


def test_battery_that_tells_nothing(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.battery(tree)
    assert only_status().reason is Absence.UNREADABLE
    assert Battery().open() == []


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert only_status().reason is Absence.OS_UNSUPPORTED
