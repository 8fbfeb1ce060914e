"""A run on a GPU, its NVML replayed from a trace: which one, who is in the way, what is recorded."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.energy import MeterFacts, Method, Sample, Scope
from edgebench.core.errors import RunFailed, UsageError
from edgebench.core.types import Settings
from edgebench.devices.gpu import list_gpus
from edgebench.session_child import Child
from edgebench.session_energy import Metering, open_metering
from edgebench.session_gpu import gpu_of, gpu_variables, refuse_shared
from edgebench.session_recorder import Clock

Write = Callable[..., Path]
ON_GPU = Settings(n_threads=1, n_gpu_layers=99)
QUICK = (
    *("--mode", "performance", "-p", "8", "-n", "4", "--chat", "0", "-r", "1", "--rounds", "1"),
    *("--energy", "none"),
)


def a_gpu(uuid: str, **more: Any) -> dict[str, Any]:
    answers = {
        "Name": "Replayed H100",
        "UUID": uuid,
        "VbiosVersion": "96.00",
        "EnforcedPowerLimit": 700_000,
        "UtilizationRates": {"gpu": 0, "memory": 0},
        "MemoryInfo": {"total": 80 * 2**30, "free": 79 * 2**30, "used": 2**30},
        "ComputeRunningProcesses": [],
        "ClockInfo:1": 1755,
        "Temperature:0": 61,
        "CurrentClocksEventReasons": 0,
        "TotalEnergyConsumption": [[i / 10, 10**9 + 25_000 * i] for i in range(1200)],
        "FieldValues:186:0": [{"nvmlReturn": 0, "value": {"uiVal": 250_000}}],
    }
    return {f"nvmlDeviceGet{name}": told for name, told in (answers | more).items()}


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`trace(gpu, …)`: these GPUs are what NVML tells, also to the processes that are started."""

    def write(*gpus: dict[str, Any]) -> Path:
        path = tmp_path / f"trace-{len(list(tmp_path.glob('trace-*')))}.json"
        system = {"nvmlSystemGetDriverVersion": "580.65.06", "nvmlSystemGetCudaDriverVersion": 13000}
        path.write_text(json.dumps({"edgebench": "nvml trace", "system": system, "gpus": gpus}))
        monkeypatch.setenv("EDGEBENCH_NVML", str(path))
        return path

    monkeypatch.setattr("edgebench.session_gpu.PATIENCE_S", 0.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return write


OTHERS = {"ComputeRunningProcesses": [{"pid": 4711, "usedGpuMemory": 3 * 2**30}]}


def test_the_first_free_gpu_is_taken_and_said(trace: Write) -> None:
    trace(a_gpu("GPU-a", **OTHERS), a_gpu("GPU-b"))
    gpu, told = gpu_of(ON_GPU)
    assert gpu is not None
    assert gpu.uuid == "GPU-b"
    assert told.startswith("gpu: GPU 1 (Replayed H100, GPU-b) (replayed from a trace")
    assert "the first that is free of 2; --main-gpu takes another" in told


@pytest.mark.parametrize(
    "settings",
    [
        Settings(n_threads=1),
        Settings(n_threads=1, provider="cpu"),
        Settings(n_threads=1, provider="openvino", gpu="0"),
        Settings(n_threads=1, n_gpu_layers=9, server="http://127.0.0.1:1"),
    ],
)
def test_what_no_nvidia_gpu_computes_asks_for_none(trace: Write, settings: Settings) -> None:
    trace(a_gpu("GPU-a"))
    assert gpu_of(settings) == (None, "")


def test_where_nvml_is_absent_only_an_index_means_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_NVML", "/nowhere/trace.json")
    gpu, told = gpu_of(ON_GPU)
    assert gpu is None
    assert "not watched" in told
    assert gpu_of(Settings(n_threads=1, n_gpu_layers=99, gpu="1"))[0] is None
    with pytest.raises(UsageError, match="--main-gpu 'GPU-a'"):
        gpu_of(Settings(n_threads=1, n_gpu_layers=99, gpu="GPU-a"))


@pytest.mark.parametrize(
    ("bent", "told", "mend"),
    [
        (OTHERS, "in use by pid 4711", "--main-gpu 1 is free; or stop them (kill 4711)"),
        ({"UtilizationRates": {"gpu": 80, "memory": 0}}, "80 % busy", "wait until nvidia-smi shows it idle"),
        ({"MigMode": [1, 1]}, "partitioned", "sudo nvidia-smi -i 0 -mig 0"),
    ],
)
def test_a_gpu_in_use_is_refused_with_whose_it_is_and_what_to_do(
    trace: Write, bent: dict[str, Any], told: str, mend: str
) -> None:
    trace(a_gpu("GPU-a", **bent), a_gpu("GPU-b"))
    first, second = list_gpus()
    with pytest.raises(RunFailed, match=told) as caught:
        refuse_shared(first)
    assert mend in (caught.value.hint or "")
    refuse_shared(second)
    trace(a_gpu("GPU-b"))
    with pytest.raises(RunFailed, match="not there any more"):
        refuse_shared(first)


def test_a_gpu_may_take_a_moment_to_forget_the_last_process(
    trace: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebench.session_gpu.PATIENCE_S", 30.0)
    late = [[0.0, {"gpu": 90, "memory": 0}], [0.4, {"gpu": 0, "memory": 0}]]
    trace(a_gpu("GPU-a", UtilizationRates=late))
    refuse_shared(list_gpus()[0])


def test_measuring_processes_see_the_one_gpu_or_none(trace: Write) -> None:
    only = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert gpu_variables({"n_threads": 1, "n_gpu_layers": 9, "gpu": "GPU-b"}) == only
    assert gpu_variables({"n_threads": 1, "provider": "cuda", "gpu": "GPU-b"}) == only
    assert gpu_variables({"n_threads": 1, "n_gpu_layers": 9, "gpu": "1"}) == {}  # Vulkan's number
    assert gpu_variables({"n_threads": 1, "gpu": "GPU-b"}) == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs /proc")  # noqa: PTH110
def test_a_started_process_really_has_them(wait_until: Callable[..., Any]) -> None:
    settings = {"n_threads": 1, "n_gpu_layers": 9, "gpu": "GPU-b"}
    job = {
        "kind": "performance",
        "runner": "synthetic",
        "path": "none",
        "settings": settings,
        "workloads": [],
    }
    child = Child(job)  # not entered: it waits for its job
    try:  # the kernel shows an empty one until the program is all set up
        held = wait_until(Path(f"/proc/{child.pid}/environ").read_bytes).split(b"\0")
    finally:
        child.__exit__()
    assert {b"CUDA_VISIBLE_DEVICES=GPU-b", b"CUDA_DEVICE_ORDER=PCI_BUS_ID"} <= set(held)
    assert any(one.startswith(b"PATH=") for one in held)


def test_only_the_computing_gpus_meters_are_read(trace: Write) -> None:
    trace(a_gpu("GPU-a"), a_gpu("GPU-b"))
    metering = open_metering("auto", on_gpu=True, gpu="nvml:1")
    sources = [meter.facts.source for meter in metering.meters if meter.facts.source.startswith("nvml")]
    assert sources == ["nvml:1", "nvml:1:power"]
    assert metering.chosen is not None
    assert metering.chosen.source == "nvml:1"
    assert "nvml:1 (replayed)" in metering.told()
    metering.close()
    with pytest.raises(UsageError, match="nvml:0"):
        open_metering("nvml:0", on_gpu=True, gpu="nvml:1")


class Read:
    """A recorder with these samples, and a meter of them."""

    failures: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, source: str, method: Method, samples: Sequence[Sample]) -> None:
        self.facts = MeterFacts(
            source=source, scope=Scope.GPU_BOARD, method=method, step=1e-3, update_s=0.1, minimum_s=5.0
        )
        self.kept = list(samples)

    def read(self) -> Sample:
        raise AssertionError

    def close(self) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(
    ("power_w", "disagrees"), [(250.0, False), (261.0, False), (239.0, False), (264.0, True)]
)
def test_counter_and_sampled_power_are_held_against_each_other(power_w: float, disagrees: bool) -> None:
    times = [i / 10 for i in range(301)]
    counter = Read("nvml:0", Method.COUNTER, [Sample(t, 250.0 * t) for t in times])
    power = Read("nvml:0:power", Method.SAMPLED, [Sample(t, power_w) for t in times])
    recorder: Any = type(
        "Recorded",
        (),
        {
            "failures": {},
            "samples": lambda _, source: {m.facts.source: m.kept for m in (counter, power)}[source],
        },
    )()
    metering = Metering(meters=[counter, power], chosen=counter.facts)
    rows = metering.windows(recorder, Clock(offset_s=0.0), 5.0, 25.0, {"kind": "test", "test": "tg8"})
    assert [row["energy_j"] for row in rows] == [pytest.approx(5000, rel=1e-3), pytest.approx(20 * power_w)]
    assert ("power_disagrees" in rows[0]["flags_json"]) == disagrees
    assert ("sampled power makes" in (rows[0]["energy_detail"] or "")) == disagrees
    assert "power_disagrees" not in rows[1]["flags_json"]


# The whole way, by the command line


def test_a_run_on_a_replayed_gpu_records_its_state(
    trace: Write, edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    path = trace(a_gpu("GPU-a", **OTHERS), a_gpu("GPU-b", CurrentClocksEventReasons=0x44))
    env = {"EDGEBENCH_NVML": str(path)}
    done = edgebench("run", "-m", toy(token_s=0.01), "-ngl", 99, *QUICK, "-o", "json", env=env)
    assert done.returncode == 0, done.stderr
    assert "gpu: GPU 1 (Replayed H100, GPU-b) (replayed from a trace" in done.stderr
    db = tmp_path / "edgebench.sqlite"
    (run,) = rows(db, "SELECT config_json, command, environment_id FROM run")
    assert json.loads(run["config_json"])["settings"]["gpu"] == "GPU-b"
    assert "--main-gpu" not in run["command"]
    trials = rows(db, "SELECT temperature_start_c, frequency_end_hz, throttled, flags_json FROM trial")
    assert {(t["temperature_start_c"], t["frequency_end_hz"], t["throttled"]) for t in trials} == {
        (61, 1.755e9, 1)
    }
    assert all({"throttled", "power_capped"} <= set(json.loads(t["flags_json"])) for t in trials)
    (facts,) = rows(db, "SELECT facts_json FROM environment WHERE id = ?", run["environment_id"])
    assert json.loads(facts["facts_json"])["gpus"]["GPU-b"]["power_limit_w"] == 700.0
    busy = rows(db, "SELECT value FROM reading WHERE channel = 'gpu_busy'")
    assert {row["value"] for row in busy} == {0.0}
    again = edgebench("reproduce", "latest", "-o", "json", env={"EDGEBENCH_NVML": str(trace(a_gpu("GPU-b")))})
    assert "gpus.GPU-a.driver" in again.stdout


def test_a_gpu_of_others_stops_the_run_before_anything_is_made(
    trace: Write, edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    env = {"EDGEBENCH_NVML": str(trace(a_gpu("GPU-a", **OTHERS), a_gpu("GPU-b")))}
    flags = ("run", "-m", toy(), "-ngl", 99, *QUICK)
    done = edgebench(*flags, "-mg", "GPU-a", env=env)
    assert done.returncode == 1
    assert "GPU 0 (Replayed H100, GPU-a) is in use by pid 4711 (3.0 GiB)" in done.stderr
    assert "--main-gpu 1 is free; or stop them (kill 4711)" in done.stderr
    assert rows(tmp_path / "edgebench.sqlite", "SELECT id FROM run") == []
    assert edgebench(*flags, "-mg", "7", "--dry-run", env=env).returncode == 2
