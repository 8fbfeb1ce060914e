"""ONNX Runtime as a program without Python, for phones and boards: the library of `onnx`'s own wheel.

It does whole jobs by itself and is never held as a session: `edgebench.session_native` gives it its work.
"""

from pathlib import Path
from typing import ClassVar

from edgebench.core.engine import Session
from edgebench.core.errors import ModelError
from edgebench.core.tool_env import pinned
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.native_onnx import built_here


class OnnxNative:
    """The `onnx_native` runner."""

    name: ClassVar[str] = "onnx_native"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.ONNX,)
    install: ClassVar[str] = "edgebench runners build onnx_native"
    tool: ClassVar[str | None] = None

    def available(self) -> str | None:
        """None, or why it can't be used on this computer; phones have builds of their own."""
        return None if built_here() else "it is not built for this computer yet"

    def version(self) -> str:
        """The ONNX Runtime whose library it carries."""
        return f"onnxruntime {pinned('export', 'onnxruntime')}"

    def load(self, path: Path, settings: Settings) -> Session:
        """There are no sessions of it."""
        raise ModelError("onnx_native works through whole jobs, not step by step", "--runner onnx")
