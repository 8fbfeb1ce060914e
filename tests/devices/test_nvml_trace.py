"""A recorded trace answers as the GPUs did when it was recorded, and is `replayed`."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import Absence, Evidence, MeterError
from edgebench.devices.gpu import GpuReader, list_gpus
from edgebench.devices.meters.nvml import Nvml
from edgebench.devices.nvml_library import opened
from edgebench.devices.nvml_trace import KIND, record


@pytest.fixture
def recorded(nvml: Any, gpu: Any, fake_nvml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short recording of two pretend GPUs, which stands for NVML from now on."""
    nvml.gpus = (gpu, fake_nvml.Gpu())
    gpu.limit, gpu.busy, gpu.reasons = 310_000, 93, 0x4
    trace = record(nvml, 0.1)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace), encoding="utf-8")
    monkeypatch.setenv("EDGEBENCH_NVML", str(path))
    return path


@pytest.mark.usefixtures("recorded")
def test_a_trace_tells_what_was_recorded(gpu: Any) -> None:
    gpu.limit = gpu.busy = None  # nobody asks it any more
    first, second = list_gpus()
    assert (first.name, first.uuid, second.uuid) == ("Pretend H100", "GPU-0", "GPU-1")
    assert (first.power_limit_w, first.busy_share) == (310.0, 0.93)
    assert (first.driver, first.cuda) == ("550.54", "13.1")
    assert (first.ecc, first.partitioned, first.memory_total_bytes) == (True, False, 80 * 2**30)
    assert first.processes is None  # who else computed is not recorded
    state = GpuReader("GPU-0").read()
    assert (state.frequency_hz, state.temperature_c, state.reasons) == (1.98e9, 54.0, ("sw_power_cap",))


@pytest.mark.usefixtures("recorded")
def test_meters_of_a_trace_are_replayed() -> None:
    meters = Nvml().open()
    assert [meter.facts.source for meter in meters] == ["nvml:0", "nvml:0:power", "nvml:1", "nvml:1:power"]
    assert {meter.facts.evidence for meter in meters} == {Evidence.REPLAYED}
    assert meters[1].read().value == 250.0
    for meter in meters:
        meter.close()


def test_answers_that_moved_move_again_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = [[0.0, 300], [0.05, 1980], [0.1, 1410]]
    gpu = {"nvmlDeviceGetUUID": "GPU-x", "nvmlDeviceGetClockInfo:1": clocks}
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"edgebench": KIND, "system": {}, "gpus": [gpu]}), encoding="utf-8")
    monkeypatch.setenv("EDGEBENCH_NVML", str(path))
    reader = GpuReader("GPU-x")
    seen = []
    until_s = time.monotonic() + 30
    while (not seen or seen[-1] != 1410e6) and time.monotonic() < until_s:
        seen.append(reader.read().frequency_hz)
    assert seen[0] in (300e6, 1980e6, 1410e6)
    assert [f for f in (300e6, 1980e6, 1410e6) if f in seen] == list(dict.fromkeys(seen))
    assert reader.read().temperature_c is None  # a call that is not in the trace


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"edgebench": "nvml trace", "system": {}, "gpus": [1]}', '{"gpus": []}']
)
def test_what_is_no_trace_is_a_reason_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "trace.json"
    monkeypatch.setenv("EDGEBENCH_NVML", str(path))
    for written in (False, True):
        if written:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(MeterError) as caught, opened():
            pass
        assert caught.value.reason is Absence.UNREADABLE
        (line,) = Nvml().probe()
        assert line.reason is Absence.UNREADABLE
        assert "trace.json" in line.why
