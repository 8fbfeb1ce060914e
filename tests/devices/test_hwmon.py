"""Hwmon on trees of files: INA3221 in both layouts, amdgpu, amd_energy, and what is not used."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import Absence, Meter, MeterError, Method, Scope, SourceStatus
from edgebench.core.types import Evidence
from edgebench.devices.meters.hwmon import INA_UPDATE_S, Hwmon


def only_meter() -> Meter:
    (meter,) = Hwmon().open()
    return meter


def only_status() -> SourceStatus:
    (status,) = Hwmon().probe()
    return status


def rail(channel: int, label: str, voltage_mv: int, current_ma: int) -> dict[str, object]:
    return {
        f"in{channel}_label": label,
        f"in{channel}_enable": 1,
        f"in{channel}_input": voltage_mv,
        f"curr{channel}_input": current_ma,
    }


# Channels 4 to 7 as the driver shows them: voltages over shunts, and their sum with a label of its own.
SHUNTS = {
    "in4_input": 5,
    "in5_input": 3,
    "in6_input": 2,
    "in7_label": "sum of shunt voltages",
    "in7_input": 10,
    "curr4_input": 2000,
}


def test_rail_of_the_whole_board_is_not_summed_with_its_parts(tree: Path, fake_sysfs: Any) -> None:
    folder = fake_sysfs.hwmon(
        tree,
        1,
        "ina3221",
        **rail(1, "VDD_IN", 5000, 1200),
        **rail(2, "VDD_CPU_GPU_CV", 5000, 400),
        **rail(3, "VDD_SOC", 5000, 300),
        **SHUNTS,
        update_interval=20,
        shunt1_resistor=5000,
    )
    meter = only_meter()
    facts = meter.facts
    assert meter.read().value == pytest.approx(6.0)
    assert (facts.source, facts.scope, facts.method) == ("hwmon:ina3221", Scope.PLATFORM, Method.SAMPLED)
    assert (facts.update_s, facts.minimum_s, facts.accuracy) == (0.02, 10.0, None)
    assert facts.step == pytest.approx(40e-6 / 5e-3 * 5.0)  # 40 µV over 5 mΩ, at 5 V
    assert facts.evidence is Evidence.REPLAYED
    fake_sysfs.write_files(folder, {"in1_input": 4900, "curr1_input": 2000})
    assert meter.read().value == pytest.approx(9.8)


def test_without_such_a_rail_all_chips_are_summed_and_it_is_an_under_estimate(
    tree: Path, fake_sysfs: Any
) -> None:
    fake_sysfs.hwmon(
        tree,
        2,
        "ina3221",
        **rail(1, "VDD_GPU_SOC", 19000, 500),
        **rail(2, "VDD_CPU_CV", 19000, 300),
        **rail(3, "VIN_SYS_5V0", 5000, 800),
        **SHUNTS,
        update_interval=10,
    )
    fake_sysfs.hwmon(
        tree,
        10,
        "ina3221",
        **rail(1, "NC", 19000, 777),
        **rail(2, "VDDQ_VDD2_1V8AO", 5000, 200),
        **{**rail(3, "SPARE", 5000, 999), "in3_enable": 0},
        **SHUNTS,
        update_interval=40,
    )
    meter = only_meter()
    assert meter.read().value == pytest.approx(9.5 + 5.7 + 4.0 + 1.0)
    assert meter.facts.scope is Scope.SOC_RAILS
    assert meter.facts.update_s == 0.04  # the slowest chip's
    assert "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO: an under-estimate" in meter.facts.detail


def test_chip_found_by_its_class_and_by_its_driver_counts_once(tree: Path, fake_sysfs: Any) -> None:
    files = {"name": "ina3221", **rail(1, "VDD_GPU", 5000, 1000), **rail(2, "VDD_CPU", 5000, 600)}
    fake_sysfs.write_files(tree / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3", files)
    assert only_meter().read().value == pytest.approx(8.0)
    fake_sysfs.hwmon(tree, 3, **files)
    assert only_meter().read().value == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("labels", "power_w", "scope"),
    [
        (("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"), 4.321, Scope.PLATFORM),
        (("GPU", "NC", "SOC"), 4.321 + 0.75, Scope.SOC_RAILS),
    ],
)
def test_jetpack_4_tells_milliwatts(
    tree: Path, fake_sysfs: Any, labels: tuple[str, ...], power_w: float, scope: Scope
) -> None:
    files = {f"rail_name_{i}": label for i, label in enumerate(labels)}
    powers = {f"in_power{i}_input": power_mw for i, power_mw in enumerate((4321, 1500, 750))}
    fake_sysfs.write_files(tree / "bus/i2c/drivers/ina3221x/6-0040/iio:device0", {**files, **powers})
    meter = only_meter()
    assert meter.read().value == pytest.approx(power_w)
    assert (meter.facts.scope, meter.facts.update_s, meter.facts.step) == (scope, INA_UPDATE_S, 1e-3)


def test_chip_without_labels_is_not_used(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.hwmon(tree, 0, "ina3221", in1_input=5000, curr1_input=1000, **SHUNTS)
    status = only_status()
    assert (status.source, status.reason) == ("hwmon:ina3221", Absence.NO_SENSOR)
    assert "no rail has a label" in status.why
    assert Hwmon().open() == []


def test_chip_that_stops_answering(tree: Path, fake_sysfs: Any) -> None:
    folder = fake_sysfs.hwmon(tree, 0, "ina3221", **rail(1, "VDD_IN", 5000, 1000))
    meter = only_meter()
    (folder / "curr1_input").unlink()
    with pytest.raises(MeterError, match="curr1_input") as caught:
        meter.read()
    assert caught.value.reason is Absence.UNREADABLE
    assert only_status().reason is Absence.UNREADABLE


def test_amdgpu_average_is_preferred_and_every_gpu_is_a_meter(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.hwmon(tree, 10, "amdgpu", power1_average=211_000_000, power1_input=400_000_000)
    fake_sysfs.hwmon(tree, 9, "amdgpu", power1_input=95_000_000)
    fake_sysfs.hwmon(tree, 11, "amdgpu", temp1_input=40_000)  # no power: no meter
    meters = Hwmon().open()
    assert [(m.facts.source, m.facts.scope) for m in meters] == [
        ("hwmon:amdgpu:0", Scope.GPU_BOARD),
        ("hwmon:amdgpu:1", Scope.GPU_BOARD),
    ]
    assert [m.read().value for m in meters] == pytest.approx([95.0, 211.0])
    assert [status.source for status in Hwmon().probe()] == ["hwmon:amdgpu:0", "hwmon:amdgpu:1"]


def test_power_of_an_apu_holds_the_cpu(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.hwmon(tree, 4, "amdgpu", power1_input=28_000_000, in0_label="vddgfx", in1_label="vddnb")
    facts = only_meter().facts
    assert facts.scope is Scope.PACKAGE
    assert "CPU included" in facts.detail


def test_amd_energy_sums_sockets_not_cores(tree: Path, fake_sysfs: Any) -> None:
    labels = {f"energy{i}_label": f"Ecore{i - 1:03d}" for i in range(1, 5)}
    cores = {f"energy{i}_input": 10**9 for i in range(1, 5)}
    folder = fake_sysfs.hwmon(
        tree,
        0,
        "amd_energy",
        **labels,
        **cores,
        energy5_label="Esocket0",
        energy5_input=5_000_000_000,
        energy6_label="Esocket1",
        energy6_input=7_000_000_000,
    )
    meter = only_meter()
    assert (meter.facts.scope, meter.facts.method) == (Scope.PACKAGE, Method.COUNTER)
    assert meter.read().value == 0.0
    fake_sysfs.write_files(folder, {"energy5_input": 5_100_000_000, "energy6_input": 7_050_000_000})
    assert meter.read().value == pytest.approx(150.0)
    for counter in (10, 9_000_000_000):  # a reset can't be mended by later growth
        fake_sysfs.write_files(folder, {"energy6_input": counter})
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert caught.value.reason is Absence.COUNTER_RESET


def test_no_permission_gives_the_command(
    tree: Path, fake_sysfs: Any, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = fake_sysfs.hwmon(tree, 0, "amd_energy", energy1_label="Esocket0", energy1_input=1)
    (folder / "energy1_input").chmod(0)
    with unprivileged():
        status, opened = only_status(), Hwmon().open()
    assert (status.reason, status.facts) == (Absence.PERMISSION_DENIED, None)
    assert status.fix == f"sudo chmod o+r {folder / 'energy1_input'}"
    assert opened == []


def test_sensors_of_unknown_meaning_are_told_and_not_used(tree: Path, fake_sysfs: Any) -> None:
    fake_sysfs.hwmon(tree, 0, "zenpower", power1_input=30_000_000, power2_input=10_000_000)
    fake_sysfs.hwmon(tree, 1, "coretemp", temp1_input=50_000)
    fake_sysfs.hwmon(tree, 2, "BAT0", power1_input=9_000_000)
    fake_sysfs.battery(tree, "BAT0")
    status = only_status()
    assert (status.source, status.reason, status.scope) == ("hwmon:zenpower", Absence.NO_SENSOR, None)
    assert "power1_input, power2_input" in status.why
    assert Hwmon().open() == []


def test_nothing_there(tree: Path) -> None:
    assert (only_status().source, only_status().reason) == ("hwmon", Absence.NO_SENSOR)


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert only_status().reason is Absence.OS_UNSUPPORTED
    assert Hwmon().open() == []


@pytest.mark.parametrize("name", ["", "../../x", "a\0b", "ina3221", "amdgpu", "amd_energy"])
def test_probe_survives_any_tree(tree: Path, name: str) -> None:
    folder = tree / "class" / "hwmon" / "hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_bytes(name.encode() + b"\xff\n")
    for file in ("power1_input", "power1_average", "energy1_label", "in1_label", "in1_input", "curr1_input"):
        (folder / file).mkdir()
    assert all(not status.usable for status in Hwmon().probe())
    assert Hwmon().open() == []
