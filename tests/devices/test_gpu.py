"""Which GPU a run takes, who is in its way, and how it runs: on a pretend NVML."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.energy import MeterError
from edgebench.core.errors import UsageError
from edgebench.devices.environment import slow_facts
from edgebench.devices.gpu import Gpu, GpuProcess, GpuReader, GpuState, choose_gpu, list_gpus
from edgebench.devices.state import DeviceState, StateReader, flags_between


def a_gpu(index: int, uuid: str, **more: Any) -> Gpu:
    return Gpu(gpu_index=index, uuid=uuid, name="Pretend", **more)


TAKEN = {"processes": (GpuProcess(id=41, memory_bytes=3 * 2**30), GpuProcess(id=42, memory_bytes=None))}
FOUR = [
    a_gpu(0, "GPU-aa11", **TAKEN),
    a_gpu(1, "GPU-aa22", busy_share=0.5),
    a_gpu(2, "GPU-bb33", partitioned=True),
    a_gpu(3, "GPU-cc44", busy_share=0.02, processes=()),
]


@pytest.mark.usefixtures("nvml")
def test_a_gpu_tells_all_a_run_asks(gpu: Any, fake_nvml: Any) -> None:
    gpu.compute = [fake_nvml.process(7, 3 * 2**30)]
    gpu.busy = 37
    assert list_gpus() == [
        Gpu(
            gpu_index=0,
            uuid="GPU-0",
            name="Pretend H100",
            driver="550.54",
            cuda="13.1",
            vbios="96.00.A5.00.01",
            memory_total_bytes=80 * 2**30,
            memory_free_bytes=79 * 2**30,
            power_limit_w=700.0,
            persistence=True,
            ecc=True,
            busy_share=0.37,
            processes=(GpuProcess(id=7, memory_bytes=3 * 2**30),),
        )
    ]
    assert list_gpus()[0].meter == "nvml:0"


def test_what_an_old_driver_does_not_tell_stays_unknown(
    nvml: Any, gpu: Any, fake_nvml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("EnforcedPowerLimit", "EccMode", "PersistenceMode", "MigMode", "UtilizationRates", "MemoryInfo")
    lacking = [f"nvmlDeviceGet{name}" for name in names]
    gpu.compute = None
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml.Bare(nvml, *lacking))
    (found,) = list_gpus()
    assert {getattr(found, n) for n in ("power_limit_w", "ecc", "persistence", "busy_share")} == {None}
    assert (found.memory_total_bytes, found.processes, found.partitioned) == (None, None, False)
    assert found.in_the_way() is None


def test_without_nvml_there_is_a_reason_and_nobody_holds_it(nvml: Any) -> None:
    gpus, nvml.gpus = nvml.gpus, ()
    with pytest.raises(MeterError, match="knows no GPU"):
        list_gpus()
    nvml.gpus, nvml.init_code = gpus, 9
    with pytest.raises(MeterError, match="no NVIDIA driver"):
        list_gpus()
    reader = GpuReader("GPU-0")
    assert (reader.read(), reader.memory_bytes(1), reader.is_shared(1)) == (GpuState(), None, False)
    reader.close()
    assert nvml.n_held == 0


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("0", 0), ("3", 3), ("GPU-cc44", 3), ("gpu-CC", 3), ("cc", 3), ("aa2", 1), ("GPU-bb33", 2)],
)
def test_a_gpu_goes_by_index_uuid_or_its_beginning(wanted: str, index: int) -> None:
    assert choose_gpu(FOUR, wanted).gpu_index == index


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("4", "no such GPU"),
        ("GPU-dd", "no such GPU"),
        ("aa", "2 GPUs begin so"),
        ("GPU-", "no such GPU"),
        ("", "no such GPU"),
        ("-1", "no such GPU"),
        ("MIG-1234", "a part of a GPU"),
    ],
)
def test_a_name_of_none_or_of_several_is_refused(wanted: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        choose_gpu(FOUR, wanted)
    assert caught.value.hint is not None
    assert "GPU-cc44" in caught.value.hint or wanted.startswith("MIG")


def test_the_first_free_one_is_taken_and_with_none_free_the_first() -> None:
    assert choose_gpu(FOUR, None).gpu_index == 3
    assert choose_gpu(FOUR[:3], None).gpu_index == 0
    assert choose_gpu([a_gpu(0, "GPU-a"), a_gpu(1, "GPU-b")], None).gpu_index == 0


@pytest.mark.parametrize(
    ("visible", "index"), [("3", 3), ("2,0", 2), ("GPU-aa22", 1), (" 0 , 1 ", 0), ("1,9,3", 1)]
)
def test_the_choice_stays_within_what_cuda_shows(visible: str, index: int) -> None:
    busy = [a_gpu(g.gpu_index, g.uuid, **TAKEN) for g in FOUR]
    assert choose_gpu(busy, None, visible).gpu_index == index
    assert choose_gpu(FOUR, "3", visible).gpu_index == 3  # what is named is meant


@pytest.mark.parametrize("visible", ["", "-1", "9", "GPU-dd"])
def test_where_cuda_shows_none_there_is_no_choice(visible: str) -> None:
    with pytest.raises(UsageError, match="leaves none of 4 GPUs"):
        choose_gpu(FOUR, None, visible)


@given(st.none() | st.text(max_size=8), st.none() | st.text("0123456789,-GPUabc", max_size=12))
def test_no_name_breaks_the_choice_or_its_message(wanted: str | None, visible: str | None) -> None:
    try:
        found, told = choose_gpu(FOUR, wanted, visible), ""
    except UsageError as error:
        found, told = None, error.message
    assert (found in FOUR) != bool(told)
    assert told.isprintable()


def test_whoever_is_in_the_way_is_named() -> None:
    taken, busy, parted, free = (gpu.in_the_way() for gpu in FOUR)
    assert taken == "is in use by pid 41 (3.0 GiB), pid 42"
    assert busy == "is 50 % busy with a program NVML does not name"
    assert parted is not None
    assert "MIG" in parted
    assert free is None


@pytest.mark.usefixtures("nvml")
def test_programs_that_only_draw_are_in_nobodys_way(gpu: Any, fake_nvml: Any) -> None:
    gpu.graphics = [fake_nvml.process(1, 10)]
    assert list_gpus()[0].in_the_way() is None


@pytest.mark.usefixtures("nvml")
def test_state_names_what_slows_the_gpu(gpu: Any) -> None:
    gpu.reasons = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80 | 0x100
    gpu.busy = 99
    reader = GpuReader("GPU-0")
    names = ("sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "power_brake")
    full = GpuState(frequency_hz=1.98e9, temperature_c=54.0, busy_share=0.99, reasons=names)
    assert reader.read() == full
    gpu.reasons, gpu.clocks, gpu.temperature, gpu.busy = None, {}, None, None
    assert reader.read() == GpuState()
    reader.close()
    reader.close()
    assert reader.read() == GpuState()


def test_of_several_gpus_the_one_of_the_uuid_is_read(nvml: Any, gpu: Any, fake_nvml: Any) -> None:
    other = fake_nvml.Gpu()
    nvml.gpus, other.clocks = (gpu, other), {1: 345}
    reader = GpuReader("GPU-1")
    assert reader.read().frequency_hz == 345e6
    gpu.compute = [fake_nvml.process(7, 500)]
    assert reader.memory_bytes(7) is None
    other.compute, other.graphics = [fake_nvml.process(7, 3000)], [fake_nvml.process(7, 3000)]
    assert reader.memory_bytes(7) == 3000  # in both lists, held once
    assert not reader.is_shared(7)
    other.compute.append(fake_nvml.process(8, 1))
    assert reader.is_shared(7)
    assert not reader.is_shared(9)  # a container: its own id is not in the list
    other.compute = [fake_nvml.process(7, None)]
    assert reader.memory_bytes(7) is None
    reader.close()
    assert nvml.n_held == 0


@pytest.mark.usefixtures("nvml")
def test_on_a_gpu_the_state_is_the_gpus(gpu: Any) -> None:
    cool, reader = StateReader().read(), StateReader("GPU-0")
    now = reader.read()
    assert (now.temperature_c, now.temperature_sensor) == (54.0, "nvml:GPU-0")
    assert (now.frequency_hz, now.throttled_now, now.power_capped) == (1.98e9, False, False)
    assert (cool.power_capped, cool.gpu_busy_share) == (None, None)
    assert reader.facts()["gpu"] == "nvml:GPU-0"
    assert flags_between(now, now) == []
    gpu.reasons = 0x4
    assert flags_between(now, reader.read()) == ["power_capped"]
    gpu.reasons = 0x40
    assert flags_between(now, reader.read()) == ["throttled"]
    reader.close()
    assert reader.read().temperature_c is None  # rather the GPU's or none than the processor's
    assert flags_between(DeviceState(), reader.read()) == []


def test_gpus_are_part_of_the_environment_only_where_there_are_some(nvml: Any, gpu: Any) -> None:
    facts = slow_facts()["gpus"]["GPU-0"]
    assert (facts["driver"], facts["cuda"], facts["power_limit_w"]) == ("550.54", "13.1", 700.0)
    gpu.busy, gpu.memory = 80, SimpleNamespace(total=80 * 2**30, free=1, used=2)
    assert slow_facts()["gpus"]["GPU-0"] == facts  # what moves is not in it
    nvml.gpus = ()
    assert "gpus" not in slow_facts()
    nvml.init_code = 9
    assert "gpus" not in slow_facts()
