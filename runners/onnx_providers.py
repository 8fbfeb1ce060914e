"""Where an ONNX graph is computed: execution providers, asked for by name and proved to be at work.

onnxruntime falls back in silence: what a provider can't do, or one that can't start, is done by the CPU. So
a provider must be installed, stand first in the session, and have been given every matrix product and
attention of the graph; shapes and masks may be anyone's, and the share of nodes is recorded. The CPU's
provider and the refusal of others have been exercised; an accelerator (`cuda`, …) has not.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import MissingDependency, ModelError, UsageError, nearest
from edgebench.core.types import Settings

SUFFIX = "ExecutionProvider"
PACKAGES = {
    "cann": "onnxruntime-cann",
    "cuda": "onnxruntime-gpu",
    "dml": "onnxruntime-directml",
    "migraphx": "onnxruntime-migraphx",
    "openvino": "onnxruntime-openvino",
    "tensorrt": "onnxruntime-gpu",
}
"""Provider -> the package that brings it, in onnxruntime's place; others come with other systems' wheels."""
MEMORY = {"cuda": "cuda", "tensorrt": "cuda"}
"""Provider -> the memory its caches live in; the others take and give the CPU's."""
WITH_DEVICE_ID = frozenset({"cann", "cuda", "dml", "migraphx", "tensorrt"})
HEAVY = re.compile("MatMul|Gemm|Attention|Conv|MoE")
"""Names of the operators that are the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider of this onnxruntime, and which of its devices."""

    name: str
    """As the command line spells it: `cpu`, `cuda`, …"""
    full_name: str
    """As onnxruntime does: `CUDAExecutionProvider`."""
    device_id: int = 0

    @property
    def memory(self) -> tuple[str, int]:
        """Device type and index of the memory its caches live in."""
        return (MEMORY[self.name], self.device_id) if self.name in MEMORY else ("cpu", 0)

    @property
    def options(self) -> dict[str, str]:
        """What it is told."""
        return {"device_id": str(self.device_id)} if self.name in WITH_DEVICE_ID else {}


def onnxruntime() -> Any:
    """The library with its telemetry off: it looks at the variable once, when it is loaded."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def provider_of(settings: Settings) -> Provider:
    """The provider asked for, `cpu` by default.

    UsageError for a name nobody knows, MissingDependency for a provider that is not in this onnxruntime.
    """
    library, name = onnxruntime(), (settings.provider or "cpu").lower()
    names = {full.removesuffix(SUFFIX).lower(): full for full in library.get_all_providers()}
    if name not in names:
        raise nearest(name, names, kind="execution provider")
    installed = [one for one, full in names.items() if full in library.get_available_providers()]
    if name not in installed:
        raise MissingDependency(
            f"onnxruntime {library.__version__} has no execution provider {name} here, only"
            f" {' and '.join(sorted(installed))}",
            _how_to_install(name),
        )
    if settings.gpu is not None and name not in WITH_DEVICE_ID:
        raise UsageError(f"the execution provider {name} has no GPUs to choose from", "leave out --main-gpu")
    return Provider(name=name, full_name=names[name], device_id=_device_id(settings.gpu))


def _how_to_install(name: str) -> str:
    if name not in PACKAGES:
        return f"no package for this computer is known to bring {name}; leave out --provider"
    pip = f"{sys.executable} -m pip"
    return f"{pip} uninstall -y onnxruntime && {pip} install {PACKAGES[name]}"


def _device_id(gpu: str | None) -> int:
    """A GPU's index among those this process may see; where that is a single one, it is the one asked for."""
    seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if gpu is None or len(seen) == 1:
        return 0
    if not gpu.isdigit():
        raise UsageError(f"onnxruntime knows GPUs by index, not as {gpu!r}", "give the GPU's index")
    return int(gpu)


def open_graph(path: Path, settings: Settings, provider: Provider) -> tuple[Any, dict[str, Any]]:
    """A session on a graph's file, proved to be computed by the provider, and what is worth recording.

    ModelError when the graph can't be opened, or is computed elsewhere.
    """
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.n_threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # The CPU stands behind every other provider, for shapes and masks.
    asked = [(provider.full_name, provider.options)]
    asked += [(f"CPU{SUFFIX}", {})] if provider.name != "cpu" else []
    try:
        session = library.InferenceSession(path, options, providers=asked, enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no narrower base
        raise ModelError(f"onnxruntime can't open {path.parent}: {first_line(error)}") from error
    return session, proof(session, provider)


def proof(session: Any, provider: Provider) -> dict[str, Any]:
    """Who computes a session's graph; ModelError unless all heavy nodes are the provider's."""
    placed = [
        (subgraph.ep_name, node.op_type)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]
    heavy = [place for place, operator in placed if HEAVY.search(operator)]
    elsewhere = [place for place in heavy if place != provider.full_name]
    providers = list(session.get_providers())
    if elsewhere or not heavy or providers[:1] != [provider.full_name]:
        where = f", {elsewhere[0]} does them" if elsewhere else ""
        raise ModelError(
            f"the execution provider {provider.name} was given {len(heavy) - len(elsewhere)} of the graph's"
            f" {len(heavy)} matrix products and attentions{where}",
            "leave out --provider, or take a level this provider can compute",
        )
    n_own = sum(place == provider.full_name for place, _ in placed)
    return {"providers": providers, "n_nodes": len(placed), "provider_node_share": n_own / len(placed)}


def first_line(error: Exception) -> str:
    """An error of the library in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
