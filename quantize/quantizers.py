"""The quantizers that work in a tool environment: what they are called, and nothing heavy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from edgebench.core.tool_env import pinned
from edgebench.quantize.levels import GENAI_LEVELS, ONNX_LEVELS


class OnnxQuantizer:
    """The `onnx` quantizer: optimum's export, onnxruntime's quantizers."""

    name: ClassVar[str] = "onnx"
    tool: ClassVar[str | None] = "export"

    def levels(self) -> Sequence[str]:
        """Widest first."""
        return ONNX_LEVELS

    def version(self) -> str:
        """The two libraries that do the work."""
        return ", ".join(f"{name} {pinned('export', name)}" for name in ("optimum-onnx", "onnxruntime"))

    def make(self, job: Mapping[str, Any], progress: Callable[[float], None]) -> dict[str, Any]:
        """See `onnx_export.export`."""
        from edgebench.quantize.onnx_export import export

        return export(job, progress)


class GenaiQuantizer:
    """The `genai` quantizer: onnxruntime-genai's model builder."""

    name: ClassVar[str] = "genai"
    tool: ClassVar[str | None] = "genai"

    def levels(self) -> Sequence[str]:
        """Widest first."""
        return GENAI_LEVELS

    def version(self) -> str:
        """The library that does the work."""
        return f"onnxruntime-genai {pinned('genai', 'onnxruntime-genai')}"

    def make(self, job: Mapping[str, Any], progress: Callable[[float], None]) -> dict[str, Any]:
        """See `genai_export.export`."""
        from edgebench.quantize.genai_export import export

        return export(job, progress)
