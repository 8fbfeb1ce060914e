"""Apple's meters: a pretend IOReport library, and a pretend `macmon` that is a real process on the PATH."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.energy import Absence, MeterError, Method, Scope
from edgebench.devices.meters import apple
from edgebench.devices.meters.apple import Apple, SocCounter, SystemPower, system_w

# The keys are those of macmon's documentation of `pipe`.
LINE: dict[str, Any] = {
    "timestamp": "2026-02-24T20:38:15.427569+00:00",
    "temp": {"cpu_temp_avg": 43.73614, "gpu_temp_avg": 36.95167},
    "memory": {"ram_total": 25769803776, "ram_usage": 20985479168, "swap_total": 0, "swap_usage": 0},
    "cpu_power": 0.20486385,
    "gpu_power": 0.017451683,
    "ane_power": 0.0,
    "all_power": 0.22231553,
    "sys_power": 5.876533,
    "ram_power": 0.11635789,
    "gpu_ram_power": 0.0009615385,
}
MACMON = """\
#!{python} -SE
import sys, time
lines = {lines!r}
if sys.argv[1:] == ["--version"]:
    print({version!r})
elif sys.argv[1:4] == ["pipe", "-s", "1"]:
    print(lines[0])
elif sys.argv[1] == "pipe":
    for line in lines:
        print(line, flush=True)
        time.sleep(0.01)
    if {stays!r}:
        time.sleep(60)
"""


class Write:
    """Puts a `macmon` on an otherwise empty PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, *lines: dict[str, Any] | str, version: str = "macmon 0.8.2", stays: bool = True
    ) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        text = MACMON.format(python=sys.executable, lines=texts, version=version, stays=stays)
        (self.folder / "macmon").write_text(text)
        (self.folder / "macmon").chmod(0o755)


@pytest.fixture
def macmon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Write(folder)


@pytest.fixture(autouse=True)
def _a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pretend IOReport counts, in mJ."""
    told: dict[str, Any] = {
        "cpu_total_mj": 9000,
        "gpu_mj": 100,
        "dram_mj": 50,
        "ane_mj": 0,
        "gpu_sram_mj": None,
    }
    library = ModuleType("zeus_apple_silicon")
    monitor = SimpleNamespace(get_cumulative_energy=lambda: SimpleNamespace(**told))
    vars(library)["AppleEnergyMonitor"] = lambda: monitor
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", library)
    return told


def test_counter_adds_the_parts_that_are_counted(counts: dict[str, Any]) -> None:
    meter = SocCounter()
    assert (meter.facts.scope, meter.facts.method) == (Scope.SOC_MODEL, Method.COUNTER)
    assert "cpu_total, gpu, dram, ane;" in meter.facts.detail
    assert "within one chip only" in meter.facts.detail
    assert meter.read().value == 0.0
    counts.update(cpu_total_mj=11000, gpu_mj=600, dram_mj=51)
    assert meter.read().value == pytest.approx(2.501)
    meter.close()


def test_counter_that_can_not_be_right_says_so(
    counts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = SocCounter()
    monkeypatch.setattr(apple, "COUNTER_MINIMUM_S", -1.0)  # as if the window were over
    counts["gpu_mj"] += 10
    with pytest.raises(MeterError) as stuck:
        meter.read()
    counts["cpu_total_mj"] = 1
    with pytest.raises(MeterError) as fell:
        meter.read()
    counts["cpu_total_mj"] = None
    with pytest.raises(MeterError) as lost:
        meter.read()
    reasons = [caught.value.reason for caught in (stuck, fell, lost)]
    assert reasons == [Absence.INCONSISTENT_SENSOR, Absence.COUNTER_RESET, Absence.UNREADABLE]


def test_chip_without_a_known_part_is_a_reason(counts: dict[str, Any], macmon: Write) -> None:
    counts.update(dict.fromkeys(counts))
    counter, _ = Apple().probe()
    assert counter.reason is Absence.NO_SENSOR


def test_system_power_is_read_from_a_running_macmon(macmon: Write) -> None:
    macmon(LINE, "not json", {**LINE, "sys_power": 7.25})
    meter = SystemPower()
    try:
        assert (meter.facts.source, meter.facts.scope) == ("apple:system", Scope.PLATFORM)
        assert "macmon 0.8.2" in meter.facts.detail
        seen = [meter.read()]
        while seen[-1].value != 7.25:
            seen.append(meter.read())
        assert {sample.value for sample in seen} <= {5.876533, 7.25}
        assert meter.read() == meter.read()
    finally:
        meter.close()
        meter.close()
    with pytest.raises(MeterError, match="has ended"):
        meter.read()


def test_macmon_that_ends_or_falls_silent_is_unreadable(
    macmon: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    macmon(LINE, stays=False)
    ended = SystemPower()
    ended._process.wait(30)
    with pytest.raises(MeterError, match="has ended"):
        ended.read()
    ended.close()
    macmon(LINE)
    silent = SystemPower()
    monkeypatch.setattr(apple, "SILENT_S", 0.0)
    with pytest.raises(MeterError, match="silent"):
        silent.read()
    silent.close()


def test_mac_without_the_sensor_is_told_apart(counts: dict[str, Any], macmon: Write) -> None:
    macmon({**LINE, "sys_power": 0.0}, stays=False)
    counter, system = Apple().probe()
    assert (counter.usable, system.reason) == (True, Absence.NO_SENSOR)
    assert [meter.facts.source for meter in Apple().open()] == ["apple:soc"]


def test_all_there_is_all_usable(counts: dict[str, Any], macmon: Write) -> None:
    macmon(LINE)
    assert [status.source for status in Apple().probe() if status.usable] == ["apple:soc", "apple:system"]
    meters = Apple().open()
    assert [meter.facts.scope for meter in meters] == [Scope.SOC_MODEL, Scope.PLATFORM]
    for meter in meters:
        meter.close()


@pytest.mark.parametrize("version", ["macmon, version 1.1.4", "usage: macmon [-h]", ""])
def test_another_program_of_that_name_is_not_it(counts: dict[str, Any], macmon: Write, version: str) -> None:
    macmon(LINE, version=version)
    _, system = Apple().probe()
    assert (system.reason, system.fix) == (
        Absence.NOT_INSTALLED,
        "pip uninstall -y macmon && brew install macmon",
    )


@pytest.mark.usefixtures("macmon")
def test_nothing_installed_names_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    found = Apple().probe()
    assert [status.reason for status in found] == [Absence.NOT_INSTALLED] * 2
    assert [status.fix for status in found] == ["pip install 'edgebench[apple]'", "brew install macmon"]
    assert Apple().open() == []


@pytest.mark.parametrize(("system", "machine"), [("Linux", "aarch64"), ("Darwin", "x86_64")])
def test_elsewhere_there_is_one_line(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    (status,) = Apple().probe()
    assert (status.reason, status.source) == (Absence.OS_UNSUPPORTED, "apple")
    assert Apple().open() == []


@pytest.mark.parametrize(
    "line",
    [
        *("", "null", "[]", "{}", '{"sys_power": null}', '{"sys_power": true}', '{"sys_power": "5"}'),
        *(
            '{"sys_power": NaN}',
            '{"sys_power": 1e999}',
            '{"sys_power": -3}',
            '{"sys_power": 0}',
            "[" * 100_000,
        ),
    ],
)
def test_line_without_a_power_is_none(line: str) -> None:
    assert system_w(line) is None


@given(st.floats(min_value=1e-3, max_value=1e4))
def test_line_gives_its_power(watt: float) -> None:
    assert system_w(json.dumps({**LINE, "sys_power": watt})) == watt
