"""Devices and types of the torch runner: what is refused, and what is proved of a loaded model.

torch itself is not here; a stand-in tells what it would on computers with GPUs and without.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from edgebench.core.errors import DeviceError, EdgebenchError, MissingDependency, ModelError, UsageError
from edgebench.core.types import Settings
from edgebench.runners import torch_model
from edgebench.runners.torch_device import device_of, gpu_facts, gpu_index
from edgebench.runners.torch_model import Weight, by_type, check_level, check_places, check_types, weights_of

UUIDS = ("6e4a1b52-0c1d-4f6e-9c57-1f2a3b4c5d6e", "0aa1b2c3-d4e5-4f60-8123-456789abcdef")
Torch = Callable[..., None]


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    """`torch(cuda="13.0", n_gpus=2, mps=False)`: the stand-in of a build on a computer."""

    def install(*, cuda: str | None = None, n_gpus: int = 0, mps: bool = False) -> None:
        gpus = [SimpleNamespace(uuid=uuid, name="RTX 9", total_memory=24 * 2**30) for uuid in UUIDS[:n_gpus]]
        fake = SimpleNamespace(
            __version__=f"2.13.0+{'cu130' if cuda else 'cpu'}",
            version=SimpleNamespace(cuda=cuda),
            cuda=SimpleNamespace(
                is_available=lambda: n_gpus > 0,
                device_count=lambda: n_gpus,
                get_device_properties=lambda device: gpus[getattr(device, "index", device)],
            ),
            backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
            device=lambda kind, index=None: SimpleNamespace(type=kind, index=index),
        )
        monkeypatch.setitem(sys.modules, "torch", fake)

    return install


def refused(kind: type[EdgebenchError], call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value.message, caught.value.hint


def test_a_torch_without_cuda_says_how_to_get_it(torch: Torch) -> None:
    torch(cuda=None)
    message, hint = refused(MissingDependency, lambda: device_of(Settings(n_threads=1, provider="cuda")))
    assert message == "torch 2.13.0+cpu was built without CUDA"
    assert hint.startswith(
        f"{sys.executable} -m pip install --force-reinstall torch==2.13.0 --index-url http"
    )


def test_a_computer_without_the_gpu_is_told_apart_from_a_torch_without_it(torch: Torch) -> None:
    torch(cuda="13.0")
    message, _ = refused(DeviceError, lambda: device_of(Settings(n_threads=1, provider="cuda")))
    assert "finds no CUDA GPU" in message
    message, _ = refused(DeviceError, lambda: device_of(Settings(n_threads=1, provider="mps")))
    assert "no Apple GPU" in message


def test_the_device_is_the_one_that_was_named(torch: Torch) -> None:
    torch(cuda="13.0", n_gpus=2, mps=True)
    for provider, gpu, expected in (
        (None, None, ("cpu", None)),
        ("cpu", "1", ("cpu", None)),
        ("cuda", None, ("cuda", 0)),
        ("cuda", f"GPU-{UUIDS[1]}", ("cuda", 1)),
        ("mps", None, ("mps", 0)),
    ):
        device = device_of(Settings(n_threads=1, provider=provider, gpu=gpu))
        assert (device.type, device.index) == expected


def test_a_gpu_is_told_by_name_uuid_and_memory(torch: Torch) -> None:
    torch(cuda="13.0", n_gpus=2)
    assert gpu_facts(SimpleNamespace(type="cpu", index=None)) == {}
    assert gpu_facts(SimpleNamespace(type="cuda", index=1)) == {
        "gpu_name": "RTX 9",
        "gpu_uuid": UUIDS[1],
        "gpu_memory_bytes": 24 * 2**30,
        "cuda_version": "13.0",
    }


def test_a_gpu_is_an_index_or_a_uuid_and_the_only_one_is_always_meant() -> None:
    assert [gpu_index(gpu, UUIDS) for gpu in (None, "0", "1", UUIDS[1].upper())] == [0, 0, 1, 1]
    assert gpu_index("3", UUIDS[:1]) == 0  # the process is shown the chosen one alone
    for unknown in ("2", "-1", "GPU-", "²"):
        message, _ = refused(UsageError, lambda gpu=unknown: gpu_index(gpu, UUIDS))
        assert repr(unknown) in message


def test_a_level_without_its_library_says_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_model.importlib.util, "find_spec", lambda name: None)
    for level, library in (("bnb-nf4", "bitsandbytes"), ("torchao-int8", "torchao")):
        message, hint = refused(MissingDependency, lambda level=level: check_level(level, "cpu"))
        assert library in message
        assert hint.startswith(f"{sys.executable} -m pip install {library}==")


def test_a_level_the_device_has_no_code_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_model.importlib.util, "find_spec", lambda name: object())
    for level in ("f32", "bnb-int8", "torchao-int8"):
        check_level(level, "cpu")
    check_level("torchao-int4", "cuda")
    message, hint = refused(UsageError, lambda: check_level("torchao-int4", "cpu"))
    assert "NVIDIA GPUs only" in message
    assert "bnb-nf4" in hint
    _, hint = refused(UsageError, lambda: check_level("f23", "cpu"))
    assert "f32" in hint


def test_a_model_that_came_in_another_type_is_refused() -> None:
    def weights(*types: str) -> list[Weight]:
        norm = Weight(type="float32", n=8, is_matrix=False)
        return [norm, *(Weight(type=kind, n=64, is_matrix=True) for kind in types)]

    check_types("bf16", weights("bfloat16", "bfloat16"))
    check_types("bnb-nf4", weights("bfloat16", "nf4"))
    with pytest.raises(ModelError, match="asked for bf16, torch keeps matrices as float32, int8"):
        check_types("bf16", weights("bfloat16", "int8", "float32"))
    with pytest.raises(ModelError, match="asked for bnb-nf4, torch quantized nothing"):
        check_types("bnb-nf4", weights("bfloat16"))


def test_a_model_that_landed_elsewhere_is_refused() -> None:
    check_places("cuda:0", ["cuda:0", "cuda:0"])
    with pytest.raises(ModelError, match="asked for cuda:0, torch put weights on cpu, meta"):
        check_places("cuda:0", ["meta", "cuda:0", "cpu"])


def test_packed_weights_are_counted_one_by_one() -> None:
    def tensor(dtype: str, *shape: int, **more: Any) -> Any:
        n = shape[0] * shape[-1] if len(shape) > 1 else shape[0]
        return SimpleNamespace(dtype=f"torch.{dtype}", numel=lambda: n, dim=lambda: len(shape), **more)

    class Int8Tensor(SimpleNamespace):
        tensor_data_names = ("qdata", "scale")

    tensors = [
        tensor("bfloat16", 8),
        tensor("uint8", 32, 1, quant_state=SimpleNamespace(quant_type="nf4", shape=(8, 8))),
        Int8Tensor(**vars(tensor("bfloat16", 8, 8))),
    ]
    weights = weights_of(SimpleNamespace(parameters=lambda: tensors))
    assert by_type(weights) == {"bfloat16": 8, "nf4": 64, "Int8Tensor": 64}
    assert [weight.is_matrix for weight in weights] == [False, True, True]
