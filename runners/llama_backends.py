"""What an installed llama.cpp can compute on: the backends its wheel carries, read off its libraries' names.

Nothing is loaded for it. What those backends find on this computer is asked in the measuring process.
"""

import importlib.util
import platform
import re
from pathlib import Path

from edgebench.core.errors import MissingDependency

GPU_BACKENDS = frozenset({"cuda", "vulkan", "metal", "hip", "sycl", "opencl", "musa", "cann"})
"""Of ggml's backends, those that are a GPU's."""
_LIBRARY = re.compile(r"libggml-(\w+)\.(?:so|dylib)")


def installed_backends() -> frozenset[str]:
    """`{"cpu", "cuda"}`; empty when llama-cpp-python is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    return backends_in(Path(next(iter(spec.submodule_search_locations))))


def check_gpu_backend(n_gpu_layers: int) -> None:
    """MissingDependency when layers are to go to a GPU and llama.cpp was built for the CPU only."""
    if n_gpu_layers and not installed_backends() & GPU_BACKENDS:
        target = "metal" if platform.system() == "Darwin" else "cuda"
        raise MissingDependency(
            f"this llama.cpp was built for the CPU only: -ngl {n_gpu_layers} would compute there",
            f"edgebench runners build llama_cpp --target {target}",
        )


def backends_in(package: Path) -> frozenset[str]:
    """Those of the package folder `llama_cpp`, wherever it was unpacked."""
    names = (_LIBRARY.fullmatch(path.name) for path in (package / "lib").glob("libggml-*"))
    return frozenset(match[1] for match in names if match and match[1] != "base")
