"""Where torch computes: the device a provider names, or why it is not to be had."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from edgebench.core.errors import DeviceError, MissingDependency, UsageError, nearest
from edgebench.core.types import Settings

PROVIDERS = ("cpu", "cuda", "mps")
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
"""Where torch's builds for NVIDIA GPUs are."""


def device_of(settings: Settings) -> Any:
    """The `torch.device` of the settings; never another one in its place.

    Raises UsageError for an unknown provider or GPU, MissingDependency for a torch without it, DeviceError
    when there is no such GPU. `cuda` and `mps` were written without a GPU at hand.
    """
    import torch

    provider = settings.provider or "cpu"
    if provider not in PROVIDERS:
        raise nearest(provider, PROVIDERS, kind="torch provider")
    if settings.n_gpu_layers:
        raise UsageError(
            "the torch engine puts a whole model on one device", "--provider cuda instead of -ngl"
        )
    if provider == "cpu":
        return torch.device("cpu")
    if provider == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("torch finds no Apple GPU", "leave out --provider")
        return torch.device("mps", 0)
    if not torch.cuda.is_available():
        raise _no_cuda(torch.__version__, built_for=torch.version.cuda)
    n_gpus = torch.cuda.device_count()
    uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(n_gpus)]
    return torch.device("cuda", gpu_index(settings.gpu, uuids))


def gpu_index(gpu: str | None, uuids: Sequence[str]) -> int:
    """Which of the GPUs torch sees is meant by an index or a UUID: the only one, where it sees no other."""
    if gpu is None or len(uuids) == 1:
        return 0
    if gpu.isdecimal() and int(gpu) < len(uuids):
        return int(gpu)
    wanted = gpu.lower().removeprefix("gpu-")
    found = [i for i, uuid in enumerate(uuids) if uuid.lower().removeprefix("gpu-") == wanted]
    if not found:
        raise UsageError(f"torch sees no GPU {gpu!r}", f"0 to {len(uuids) - 1}, or a UUID of nvidia-smi -L")
    return found[0]


def gpu_facts(device: Any) -> dict[str, Any]:
    """What torch says of a GPU; nothing of a CPU."""
    import torch

    if device.type != "cuda":
        return {}
    told = torch.cuda.get_device_properties(device)
    return {
        "gpu_name": told.name,
        "gpu_uuid": str(told.uuid),
        "gpu_memory_bytes": told.total_memory,
        "cuda_version": torch.version.cuda,
    }


def _no_cuda(version: str, *, built_for: str | None) -> MissingDependency | DeviceError:
    """Why torch has no CUDA: it was built without, or there is no GPU."""
    if built_for is None:
        plain = re.match(r"[0-9.]+", version)
        command = f"{sys.executable} -m pip install --force-reinstall"
        return MissingDependency(
            f"torch {version} was built without CUDA",
            f"{command} torch=={plain[0] if plain else version} --index-url {CUDA_INDEX}",
        )
    return DeviceError(f"torch {version} finds no CUDA GPU", "nvidia-smi says whether the driver sees one")
