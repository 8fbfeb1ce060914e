"""AMD's meters on a pretend `amdsmi`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgebench.core.energy import Absence, MeterError, Method, Scope
from edgebench.devices.meters import amd
from edgebench.devices.meters.amd import AmdSmi


class AmdSmiException(Exception):
    pass


class FakeSmi(ModuleType):
    """The functions of amdsmi that are used; a test bends the answers."""

    AmdSmiException = AmdSmiException

    def __init__(self) -> None:
        super().__init__("amdsmi")
        self.n_inits = 0
        self.count: dict[str, Any] = {
            "energy_accumulator": 10**12,
            "counter_resolution": 15.3,
            "timestamp": 1,
        }
        self.power: dict[str, Any] = {"current_socket_power": 90, "average_socket_power": "N/A"}
        self.refuses = False

    def amdsmi_init(self) -> None:
        if self.refuses:
            raise AmdSmiException("Error code:\n\t34 | AMDSMI_STATUS_DRIVER_NOT_LOADED")
        self.n_inits += 1

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["first"]

    def amdsmi_get_gpu_asic_info(self, handle: str) -> dict[str, str]:
        return {"market_name": "Pretend MI300X"}

    def amdsmi_get_gpu_device_uuid(self, handle: str) -> str:
        return "0-1-2"

    def amdsmi_get_energy_count(self, handle: str) -> dict[str, Any]:
        if not self.count:
            raise AmdSmiException("not supported")
        return self.count

    def amdsmi_get_power_info(self, handle: str) -> dict[str, Any]:
        return self.power


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(amd, "_DRIVER", tmp_path)
    amd._library.cache_clear()
    yield
    amd._library.cache_clear()


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> FakeSmi:
    fake = FakeSmi()
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    return fake


def only_status() -> tuple[Absence | None, str]:
    (status,) = AmdSmi().probe()
    assert status.why
    assert "\n" not in status.why
    assert AmdSmi().open() == []
    return status.reason, status.fix


def test_counter_and_power(smi: FakeSmi) -> None:
    counter, sampled = AmdSmi().open()
    assert (counter.facts.source, sampled.facts.source) == ("amdsmi:0", "amdsmi:0:power")
    assert (counter.facts.method, counter.facts.scope) == (Method.COUNTER, Scope.GPU_BOARD)
    assert counter.facts.step == pytest.approx(15.3e-6)
    assert "Pretend MI300X, 0-1-2, driver ?" in counter.facts.detail
    assert counter.read().value == 0.0
    smi.count = {**smi.count, "energy_accumulator": 10**12 + 1_000_000}
    assert counter.read().value == pytest.approx(15.3, rel=1e-6)
    assert sampled.read().value == 90.0


def test_library_is_started_once(smi: FakeSmi) -> None:
    for _ in range(3):
        assert all(status.usable for status in AmdSmi().probe())
        AmdSmi().open()
    assert smi.n_inits == 1


def test_key_of_before_6_2(smi: FakeSmi) -> None:
    smi.count = {"power": 4000, "counter_resolution": 15.3}
    (counter, _) = AmdSmi().open()
    smi.count = {"power": 5000, "counter_resolution": 15.3}
    assert counter.read().value == pytest.approx(0.0153)


@pytest.mark.parametrize(
    "count",
    [
        {},
        {"energy_accumulator": 0, "counter_resolution": 15.3},
        {"energy_accumulator": 5, "counter_resolution": 0},
        {"energy_accumulator": 2**64 - 1, "counter_resolution": 15.3},
    ],
)
def test_counter_that_does_not_count_is_none(smi: FakeSmi, count: dict[str, Any]) -> None:
    smi.count = count
    counter, sampled = AmdSmi().probe()
    assert (counter.reason, sampled.usable) == (Absence.NO_SENSOR, True)
    assert [meter.facts.method for meter in AmdSmi().open()] == [Method.SAMPLED]


@pytest.mark.parametrize(
    ("power", "watt"),
    [
        ({"current_socket_power": "N/A", "average_socket_power": 45}, 45.0),
        ({"current_socket_power": 65535, "average_socket_power": 0, "socket_power": 33}, 33.0),
        ({"current_socket_power": "N/A"}, None),
    ],
)
def test_power_is_the_first_that_the_board_tells(
    smi: FakeSmi, power: dict[str, Any], watt: float | None
) -> None:
    smi.power = power
    told = [meter.read().value for meter in AmdSmi().open() if meter.facts.method is Method.SAMPLED]
    assert told == ([] if watt is None else [watt])


def test_counter_that_falls_or_falls_silent_says_so(smi: FakeSmi) -> None:
    counter, _ = AmdSmi().open()
    smi.count = {"energy_accumulator": 3, "counter_resolution": 15.3}
    with pytest.raises(MeterError) as fell:
        counter.read()
    smi.count = {}
    with pytest.raises(MeterError) as silent:
        counter.read()
    assert (fell.value.reason, silent.value.reason) == (Absence.COUNTER_RESET, Absence.UNREADABLE)


def test_library_that_refuses_is_a_reason(smi: FakeSmi) -> None:
    smi.refuses = True
    assert only_status() == (Absence.UNREADABLE, "")


def test_absent_bindings_are_named_where_there_is_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert only_status() == (Absence.NOT_INSTALLED, "pip install 'edgebench[amd]'")
    monkeypatch.setattr(amd, "_DRIVER", tmp_path / "nothing")
    assert only_status() == (Absence.NO_SENSOR, "")


def test_bindings_without_their_c_library_are_named_quietly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "amdsmi.py").write_text("print('Unable to find libamd_smi.so')\n{}['libamd_smi.so']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    assert only_status() == (Absence.NOT_INSTALLED, "sudo apt install amd-smi-lib")
    assert capsys.readouterr().out == ""


def test_other_systems_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert only_status() == (Absence.OS_UNSUPPORTED, "")
