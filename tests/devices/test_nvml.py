"""NVIDIA's meters on a pretend `pynvml` that fails the ways the real one does."""

import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import Absence, MeterError, Method, Sample, Scope
from edgebench.core.integration import energy_between
from edgebench.devices.meters.nvml import Nvml

NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND = 4, 9, 12


def only_reason() -> Absence | None:
    (status,) = Nvml().probe()
    assert not status.usable
    assert status.why
    assert "\n" not in status.why
    assert Nvml().open() == []
    return status.reason


def test_counter_comes_with_a_sampled_cross_check(nvml: Any) -> None:
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


def test_meters_read_joules_since_opening_and_watts(nvml: Any, gpu: Any) -> None:
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


def test_counter_that_falls_or_falls_silent_says_so(nvml: Any, gpu: Any) -> None:
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
def test_superchip_answers_for_its_module_and_the_counter_is_no_less(gpu: Any) -> None:
    gpu.instant = {1: 600_000}
    assert [status.scope for status in Nvml().probe()] == [Scope.GPU_MODULE, Scope.GPU_MODULE]


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("instant", [{}, {0: 0, 1: 0}])
def test_power_falls_back_to_the_averaged_call(gpu: Any, instant: dict[int, int]) -> None:
    gpu.instant = instant
    _, sampled = Nvml().open()
    assert sampled.read().value == pytest.approx(240.0)
    assert sampled.facts.update_s == 1.0
    assert "1 s average" in sampled.facts.detail


@pytest.mark.usefixtures("nvml")
def test_gpu_without_counter_keeps_its_power_and_without_both_has_nothing(gpu: Any) -> None:
    gpu.energy = None
    counter, sampled = Nvml().probe()
    assert (counter.reason, sampled.usable) == (Absence.NO_SENSOR, True)
    gpu.instant, gpu.usage = {}, None
    assert {status.reason for status in Nvml().probe()} == {Absence.NO_SENSOR}
    assert Nvml().open() == []


def test_missing_functions_are_no_crash(nvml: Any, fake_nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = (
        *("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues", "NVML_FI_DEV_POWER_INSTANT"),
        *("nvmlDeviceGetMigMode", "nvmlDeviceGetUUID"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml.Bare(nvml, *lacking))
    counter, sampled = Nvml().probe()
    assert counter.reason is Absence.NO_SENSOR
    assert sampled.facts is not None
    assert "PowerUsage" in sampled.facts.detail


def test_each_gpu_is_a_meter_and_a_partitioned_one_is_not(nvml: Any, fake_nvml: Any) -> None:
    parted = fake_nvml.Gpu()
    parted.mig = [1, 1]
    nvml.gpus = (parted, fake_nvml.Gpu())
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
def test_library_that_does_not_start_is_a_reason(nvml: Any, code: int, reason: Absence) -> None:
    nvml.init_code = code
    assert only_reason() is reason
    assert nvml.n_held == 0


def test_driver_without_gpus_is_a_reason(nvml: Any) -> None:
    nvml.gpus = ()
    assert only_reason() is Absence.NO_SENSOR


def test_unofficial_bindings_are_refused(nvml: Any, fake_nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml.Bare(nvml, "_nvmlGetFunctionPointer"))
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
