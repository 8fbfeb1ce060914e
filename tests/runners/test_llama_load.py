"""Layers go where they were asked for, or the model does not open: on llama.cpp's own log lines."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgebench.core.errors import MissingDependency, ModelError, UsageError
from edgebench.core.types import Settings
from edgebench.runners import llama_load
from edgebench.runners.llama_cpp import LlamaCpp
from edgebench.runners.llama_load import Log, check_offload, load_model, placement

WHOLE = """load_tensors: offloading output layer to GPU
load_tensors: offloading 30 repeating layers to GPU
load_tensors: offloaded 31/31 layers to GPU
load_tensors:   CPU_Mapped model buffer size =    28.69 MiB
load_tensors:        CUDA0 model buffer size =    90.00 MiB
load_tensors:    CUDA_Host model buffer size =     1.50 MiB"""
NOTHING_THERE = """load_tensors: offloaded 31/31 layers to GPU
load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
load_tensors:   CPU_REPACK model buffer size =    40.00 MiB"""
TEN = WHOLE.replace("31/31", "10/31")
SILENT = "load_tensors:   CPU_Mapped model buffer size =    92.10 MiB"


class Lib(ModuleType):
    """As much of llama.cpp as loading asks; it writes the log a test gives it."""

    def __init__(self, log: str = "") -> None:
        super().__init__("llama_cpp")
        self.log, self.freed = log, False
        self.params: Any = type("Params", (), {})()

    def llama_log_callback(self, write: Any) -> Any:
        self.write = write
        return write

    def llama_log_set(self, callback: Any, user: Any) -> None:
        """Nothing: `log` is written when a model is loaded."""

    def llama_model_default_params(self) -> Any:
        return self.params

    def llama_model_load_from_file(self, path: bytes, params: Any) -> str | None:
        for line in self.log.splitlines():
            self.write(0, line.encode(), None)
        return None if "failed" in self.log else "model"

    def llama_model_free(self, model: str) -> None:
        self.freed = True


def settings(n_gpu_layers: int, gpu: str | None = None) -> Settings:
    return Settings(n_threads=1, n_gpu_layers=n_gpu_layers, gpu=gpu)


def a_device(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "description": f"Pretend {name}", "kind": kind}


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`has("CUDA0:gpu", …)`: the devices that there are beside the CPU."""

    def put(*told: str) -> None:
        found = [a_device("CPU", "cpu"), *(a_device(*one.split(":")) for one in told)]
        monkeypatch.setattr(llama_load, "devices", lambda: found)

    return put


def load(lib: Lib, asked: Settings) -> Log:
    log = Log(lib)
    load_model(lib, log, Path("m.gguf"), asked)
    return log


@pytest.mark.parametrize("n_asked", [99, 31, -1])
def test_a_whole_model_on_the_gpu_is_recorded(has: Any, n_asked: int) -> None:
    has("CUDA0:gpu")
    lib = Lib(WHOLE)
    told = placement(load(lib, settings(n_asked)), settings(n_asked))
    assert (lib.params.n_gpu_layers, lib.params.split_mode, lib.params.main_gpu) == (n_asked, 0, 0)
    assert (told["n_layers_offloaded"], told["n_layers_offloadable"]) == (31, 31)
    assert told["weights_bytes"]["CUDA0"] == 90 * 2**20
    assert not lib.freed


def test_a_part_of_the_layers_is_as_good_where_it_was_asked_for(has: Any) -> None:
    has("CUDA0:gpu")
    assert placement(load(Lib(TEN), settings(10)), settings(10))["n_layers_offloaded"] == 10


@pytest.mark.parametrize(
    ("log", "n_asked", "told"),
    [
        (TEN, 99, "10 of 31 layers"),
        (TEN, -1, "10 of 31 layers"),
        (TEN, 11, "10 of 31 layers"),
        (NOTHING_THERE, 99, "0 of 31 layers"),
        (SILENT, 5, "0 of 0 layers"),
        (TEN.replace("10/31", "0/31"), 4, "0 of 31 layers"),
    ],
)
def test_falling_back_in_silence_is_an_error(has: Any, log: str, n_asked: int, told: str) -> None:
    has("CUDA0:gpu")
    lib = Lib(log)
    with pytest.raises(ModelError, match=told):
        load(lib, settings(n_asked))
    assert lib.freed


def test_no_layers_means_no_gpu_at_all(has: Any) -> None:
    has("CUDA0:gpu")
    lib = Lib(SILENT)
    told = placement(load(lib, settings(0)), settings(0))
    assert (lib.params.n_gpu_layers, lib.params.split_mode, lib.params.main_gpu) == (0, 0, -1)
    assert (told["n_layers_offloaded"], told["n_layers_offloadable"]) == (0, None)
    check_offload(Log(lib), settings(0))


@pytest.mark.parametrize(
    ("told", "gpu", "index"),
    [
        (("CUDA0:gpu",), "GPU-aa11", 0),
        (("Vulkan0:gpu", "Vulkan1:gpu"), None, 0),
        (("Vulkan0:gpu", "Vulkan1:gpu"), "1", 1),
        (("Vulkan0:igpu", "CUDA0:gpu", "BLAS:accelerator"), "GPU-aa11", 0),  # integrated ones are left out
        (("Vulkan0:igpu",), None, 0),
    ],
)
def test_the_gpu_is_llama_cpps_only_one_or_goes_by_its_number(
    has: Any, told: tuple[str, ...], gpu: str | None, index: int
) -> None:
    has(*told)
    lib = Lib(WHOLE)
    load(lib, settings(99, gpu))
    assert lib.params.main_gpu == index


@pytest.mark.parametrize(("gpu", "told"), [("GPU-aa11", "several GPUs"), ("2", "no such GPU")])
def test_a_gpu_that_cant_be_told_is_refused(has: Any, gpu: str, told: str) -> None:
    has("Vulkan0:gpu", "Vulkan1:gpu")
    with pytest.raises(UsageError, match=told) as caught:
        load(Lib(WHOLE), settings(99, gpu))
    assert "Pretend Vulkan1" in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    ("backends", "system", "told", "mend"),
    [
        ({"cpu"}, "Linux", "built for the CPU only", "edgebench runners build llama_cpp --target cuda"),
        ({"cpu"}, "Darwin", "built for the CPU only", "edgebench runners build llama_cpp --target metal"),
        ({"cpu", "cuda"}, "Linux", "cuda backend finds no GPU", "nvidia-smi"),
    ],
)
def test_without_a_gpu_layers_are_not_put_on_the_cpu_instead(
    has: Any, monkeypatch: pytest.MonkeyPatch, backends: set[str], system: str, told: str, mend: str
) -> None:
    has()
    for module in ("llama_load", "llama_backends"):
        monkeypatch.setattr(f"edgebench.runners.{module}.installed_backends", lambda: frozenset(backends))
    monkeypatch.setattr("platform.system", lambda: system)
    with pytest.raises(MissingDependency, match=told) as caught:
        load(Lib(WHOLE), settings(99))
    assert mend in (caught.value.hint or "")


def test_a_refusal_is_told_in_llama_cpps_words(has: Any) -> None:
    has()
    lib = Lib("gguf_init: hello\nload: failed to read magic\nload: error: no model")
    with pytest.raises(ModelError, match="failed to read magic"):
        load(lib, settings(0))


@pytest.mark.engine
def test_the_real_engine_proves_where_its_weights_are(smollm2: Path) -> None:
    with LlamaCpp().load(smollm2, settings(0)) as session:
        facts = session.facts
    assert facts["n_layers_offloaded"] == 0
    assert [device["kind"] for device in facts["devices"]].count("cpu") == 1
    assert sum(facts["weights_bytes"].values()) == pytest.approx(smollm2.stat().st_size, rel=0.05)
    if all(device["kind"] == "cpu" for device in facts["devices"]):
        with pytest.raises(MissingDependency, match="-ngl 99"):
            LlamaCpp().load(smollm2, settings(99))
