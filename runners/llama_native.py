"""llama.cpp as a program without Python, for phones and boards: `edgebench-native`, of the same source.

It does whole jobs by itself and is never held as a session: `edgebench.session_native` gives it its work.
"""

from pathlib import Path
from typing import ClassVar

from edgebench.core.engine import Session
from edgebench.core.errors import MissingDependency, ModelError
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.llama_source import installed_version
from edgebench.runners.native_build import built_here, need_target_here


class LlamaNative:
    """The `llama_native` runner."""

    name: ClassVar[str] = "llama_native"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.GGUF,)
    install: ClassVar[str] = "edgebench runners build native"
    tool: ClassVar[str | None] = None

    def available(self) -> str | None:
        """None, or why it can't be used on this computer; phones have builds of their own."""
        try:
            installed_version()  # what makes tokens of the prompts
            need_target_here()
        except MissingDependency as error:
            return error.message
        return None if built_here() else "it is not built for this computer yet"

    def version(self) -> str:
        """The llama-cpp-python whose source it is built from."""
        return installed_version()

    def load(self, path: Path, settings: Settings) -> Session:
        """There are no sessions of it."""
        raise ModelError("llama_native works through whole jobs, not step by step", "--runner llama_cpp")
