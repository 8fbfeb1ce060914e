"""NVIDIA's meters on a pretend `pynvml` that fails the ways the real one does."""

# ruff: noqa: N802 - the functions have NVML's own names

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgebench.core.energy import Absence, MeterError, Method, Sample, Scope
from edgebench.core.integration import energy_between
from edgebench.devices.meters.nvml import Nvml, busy_with_others, gpu_memory_bytes, gpu_state


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML code {value}")
        self.value = value


NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND = 3, 4, 9, 12


class Gpu:
    """One pretend GPU; a test bends what it answers."""

    def __init__(self) -> None:
        self.energy: int | None = 5_000_000_000
        self.instant: dict[int, int] = {0: 250_000}  # scope -> mW
        self.usage: int | None = 240_000
        self.mig = [0, 0]
        self.clocks = {1: 1980, 2: 2619}
        self.reasons: int | None = 0
        self.compute: list[Any] = []
        self.graphics: list[Any] = []


class FakeNvml(ModuleType):
    """The functions of nvidia-ml-py that are used, over pretend GPUs; counts who holds NVML."""

    NVMLError = NVMLError
    NVML_SUCCESS = 0
    NVML_ERROR_NO_PERMISSION = NO_PERMISSION
    NVML_ERROR_DRIVER_NOT_LOADED = DRIVER_NOT_LOADED
    NVML_ERROR_LIBRARY_NOT_FOUND = LIBRARY_NOT_FOUND
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE = 0, 1

    def __init__(self, *gpus: Gpu) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.n_held = 0
        self.init_code: int | None = None
        self._nvmlGetFunctionPointer = None

    def nvmlInit(self) -> None:
        if self.init_code is not None:
            raise NVMLError(self.init_code)
        self.n_held += 1

    def nvmlShutdown(self) -> None:
        self.n_held -= 1
        assert self.n_held >= 0

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"550.54"  # as older bindings answer

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if index >= len(self.gpus):
            raise NVMLError(2)
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return "Pretend H100"

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return f"GPU-{self.gpus.index(gpu)}"

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:
        return gpu.mig

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Gpu) -> int:
        return self._given(gpu.energy)

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        return self._given(gpu.usage)

    def nvmlDeviceGetFieldValues(self, gpu: Gpu, fields: list[tuple[int, int]]) -> list[Any]:
        assert [field for field, _ in fields] == [186]
        milliwatts = gpu.instant.get(fields[0][1])
        code = 0 if milliwatts is not None else NOT_SUPPORTED
        return [SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=milliwatts or 0))]

    def nvmlDeviceGetClockInfo(self, gpu: Gpu, kind: int) -> int:
        return self._given(gpu.clocks.get(kind))

    def nvmlDeviceGetTemperatureV(self, gpu: Gpu, sensor: int) -> int:
        return 54

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: Gpu) -> int:
        return self._given(gpu.reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Any]:
        return gpu.compute

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Gpu) -> list[Any]:
        return gpu.graphics

    @staticmethod
    def _given(value: int | None) -> int:
        if value is None:
            raise NVMLError(NOT_SUPPORTED)
        return value


class Bare(ModuleType):
    """Bindings of an old driver: all is there but what the test took away."""

    def __init__(self, full: FakeNvml, *lacking: str) -> None:
        super().__init__("pynvml")
        for name in {*vars(FakeNvml), *vars(full)}:
            if name.startswith(("nvml", "NVML", "_nvml")) and name not in lacking:
                setattr(self, name, getattr(full, name))


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def nvml(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(gpu)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    return fake


def process(pid: int, held: int | None) -> Any:
    return SimpleNamespace(pid=pid, usedGpuMemory=held)


def only_reason() -> Absence | None:
    (status,) = Nvml().probe()
    assert not status.usable
    assert status.why
    assert "\n" not in status.why
    assert Nvml().open() == []
    return status.reason


def test_counter_comes_with_a_sampled_cross_check(nvml: FakeNvml) -> None:
    counter, sampled = (status.facts for status in Nvml().probe())
    assert counter is not None
    assert sampled is not None
    assert (counter.source, counter.method, counter.scope) == ("nvml:0", Method.COUNTER, Scope.GPU_BOARD)
    assert (counter.step, counter.update_s, counter.minimum_s) == (1e-3, 0.1, 5.0)
    assert (sampled.source, sampled.method, sampled.scope) == (
        "nvml:0:power",
        Method.SAMPLED,
        Scope.GPU_BOARD,
    )
    for fact in ("Pretend H100", "GPU-0", "driver 550.54"):
        assert fact in counter.detail
    assert nvml.n_held == 0


def test_meters_read_joules_since_opening_and_watts(nvml: FakeNvml, gpu: Gpu) -> None:
    counter, sampled = Nvml().open()
    assert counter.read().value == 0.0
    gpu.energy = 5_000_000_000 + 1_234_567
    gpu.instant[0] = 301_500
    first, second = counter.read(), counter.read()
    assert first.value == pytest.approx(1234.567)
    assert second.t_s >= first.t_s
    assert sampled.read().value == pytest.approx(301.5)
    counter.close()
    counter.close()
    assert nvml.n_held == 1
    sampled.close()
    assert nvml.n_held == 0


@pytest.mark.usefixtures("nvml")
def test_stuck_counter_gives_no_joules_and_invents_none() -> None:
    counter, sampled = Nvml().open()
    samples = [Sample(0.1 * i, counter.read().value) for i in range(201)]
    assert {sample.value for sample in samples} == {0.0}
    reading = energy_between(samples, counter.facts, 0.0, 20.0)
    assert (reading.value_j, reading.reason) == (None, Absence.WINDOW_TOO_SHORT)
    assert sampled.read().value > 0
    counter.close()
    sampled.close()


def test_counter_that_falls_or_falls_silent_says_so(nvml: FakeNvml, gpu: Gpu) -> None:
    counter, sampled = Nvml().open()
    gpu.energy = 17
    with pytest.raises(MeterError) as fell:
        counter.read()
    gpu.energy = None
    with pytest.raises(MeterError) as silent:
        counter.read()
    gpu.instant.clear()
    with pytest.raises(MeterError) as lost:
        sampled.read()
    reasons = [caught.value.reason for caught in (fell, silent, lost)]
    assert reasons == [Absence.COUNTER_RESET, Absence.UNREADABLE, Absence.UNREADABLE]
    counter.close()
    sampled.close()


@pytest.mark.usefixtures("nvml")
def test_superchip_answers_for_its_module_and_the_counter_is_no_less(gpu: Gpu) -> None:
    gpu.instant = {1: 600_000}
    assert [status.scope for status in Nvml().probe()] == [Scope.GPU_MODULE, Scope.GPU_MODULE]


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("instant", [{}, {0: 0, 1: 0}])
def test_power_falls_back_to_the_averaged_call(gpu: Gpu, instant: dict[int, int]) -> None:
    gpu.instant = instant
    _, sampled = Nvml().open()
    assert sampled.read().value == pytest.approx(240.0)
    assert sampled.facts.update_s == 1.0
    assert "1 s average" in sampled.facts.detail


@pytest.mark.usefixtures("nvml")
def test_gpu_without_counter_keeps_its_power_and_without_both_has_nothing(gpu: Gpu) -> None:
    gpu.energy = None
    counter, sampled = Nvml().probe()
    assert (counter.reason, sampled.usable) == (Absence.NO_SENSOR, True)
    gpu.instant, gpu.usage = {}, None
    assert {status.reason for status in Nvml().probe()} == {Absence.NO_SENSOR}
    assert Nvml().open() == []


def test_missing_functions_are_no_crash(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = (
        *("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues", "NVML_FI_DEV_POWER_INSTANT"),
        *("nvmlDeviceGetMigMode", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetUUID"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", Bare(nvml, *lacking))
    counter, sampled = Nvml().probe()
    assert counter.reason is Absence.NO_SENSOR
    assert sampled.facts is not None
    assert "PowerUsage" in sampled.facts.detail
    assert gpu_state(0).throttle_reasons is None
    assert gpu_state(0).clock_hz == 1.98e9


def test_each_gpu_is_a_meter_and_a_partitioned_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    parted = Gpu()
    parted.mig = [1, 1]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(parted, Gpu()))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    refused, counter, _ = Nvml().probe()
    assert (refused.source, refused.reason) == ("nvml:0", Absence.MIG_PARTITION)
    assert refused.fix == "sudo nvidia-smi -i 0 -mig 0"
    assert counter.source == "nvml:1"
    assert [meter.facts.source for meter in Nvml().open()] == ["nvml:1", "nvml:1:power"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (DRIVER_NOT_LOADED, Absence.NO_SENSOR),
        (LIBRARY_NOT_FOUND, Absence.NO_SENSOR),
        (NO_PERMISSION, Absence.PERMISSION_DENIED),
        (18, Absence.UNREADABLE),
    ],
)
def test_library_that_does_not_start_is_a_reason(nvml: FakeNvml, code: int, reason: Absence) -> None:
    nvml.init_code = code
    assert only_reason() is reason
    assert gpu_memory_bytes(1) is None
    assert busy_with_others(0, []) is None
    assert gpu_state(0).temperature_c is None
    assert nvml.n_held == 0


def test_driver_without_gpus_is_a_reason(nvml: FakeNvml) -> None:
    nvml.gpus = ()
    assert only_reason() is Absence.NO_SENSOR


def test_unofficial_bindings_are_refused(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Bare(nvml, "_nvmlGetFunctionPointer"))
    assert only_reason() is Absence.NOT_INSTALLED
    assert "pip uninstall -y pynvml" in Nvml().probe()[0].fix


@pytest.mark.parametrize("has_driver", [True, False])
def test_absent_bindings_matter_where_there_is_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_driver: bool
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    if has_driver:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert only_reason() is (Absence.NOT_INSTALLED if has_driver else Absence.NO_SENSOR)
    assert Nvml().probe()[0].fix == ("pip install 'edgebench[nvidia]'" if has_driver else "")


def test_macos_has_no_such_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert only_reason() is Absence.OS_UNSUPPORTED


def test_memory_of_a_process_adds_its_gpus_and_counts_none_twice(nvml: FakeNvml, gpu: Gpu) -> None:
    other = Gpu()
    nvml.gpus = (gpu, other)
    gpu.compute, gpu.graphics = [process(7, 3000), process(8, 1)], [process(7, 3000)]
    other.compute = [process(7, 500)]
    assert gpu_memory_bytes(7) == 3500
    assert gpu_memory_bytes(9) is None
    other.compute = [process(7, None)]
    assert gpu_memory_bytes(7) is None


@pytest.mark.usefixtures("nvml")
def test_state_names_what_slows_the_gpu(gpu: Gpu) -> None:
    gpu.reasons = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80 | 0x100
    state = gpu_state(0)
    assert (state.clock_hz, state.memory_clock_hz, state.temperature_c) == (1.98e9, 2.619e9, 54.0)
    assert state.throttle_reasons == (
        "sw_power_cap",
        "hw_slowdown",
        "sw_thermal",
        "hw_thermal",
        "power_brake",
    )
    gpu.reasons, gpu.clocks = 0x1, {}
    assert gpu_state(0).throttle_reasons == ()
    assert gpu_state(0).clock_hz is None
    assert gpu_state(5).temperature_c is None


@pytest.mark.usefixtures("nvml")
def test_others_are_programs_that_compute(gpu: Gpu) -> None:
    gpu.graphics = [process(1, 10)]
    assert busy_with_others(0, {7}) is False
    gpu.compute = [process(7, 10)]
    assert busy_with_others(0, {7}) is False
    gpu.compute.append(process(8, 10))
    assert busy_with_others(0, {7}) is True
    assert busy_with_others(3, {7}) is None
