"""llama-server: launched here for a file, or whatever model server runs already at a URL.

Launched, it is built from the installed llama-cpp-python's own source and linked to its libraries, so it
computes what the `llama_cpp` runner computes, plus what a server costs. A running llama-server is asked in
the same way; servers of other kinds speak OpenAI's dialect and take texts only (`openai_server`).
"""

import contextlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from edgebench.core.engine import Session
from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Evidence, Format, Settings
from edgebench.runners.llama_server_session import LlamaServerSession
from edgebench.runners.llama_source import CXX_COMPILER, compiler_hint, find_compiler, tool, tool_path
from edgebench.runners.openai_server import OpenAiSession
from edgebench.runners.server_http import KEY_VARIABLE, Client
from edgebench.runners.server_identity import LLAMA_SERVER, identify, server_kind
from edgebench.runners.server_launch import Launched, cells

FIRST_CELLS = cells(512)
"""The cache it is launched with: what pp512 takes. Another size is another launch."""


class LlamaServer:
    """The `llama_server` runner."""

    name: ClassVar[str] = "llama_server"
    evidence: ClassVar[Evidence] = Evidence.MEASURED
    formats: ClassVar[tuple[Format, ...]] = (Format.GGUF, Format.SERVED)
    install: ClassVar[str] = "edgebench runners build llama_cpp"
    tool: ClassVar[str | None] = None

    def __init__(self) -> None:
        self._version: str | None = None

    def available(self) -> str | None:
        """None, or why no llama-server can be launched here; one that runs already needs nothing."""
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed (a server that runs already needs none: --server URL)"
        with contextlib.suppress(EdgebenchError):
            if tool_path(LLAMA_SERVER).exists() or find_compiler(CXX_COMPILER):
                return None
        return f"{LLAMA_SERVER} is built on first use, and there is no C++ compiler: {compiler_hint()}"

    def version(self) -> str:
        """llama-cpp-python's version, whose llama.cpp it is; of a running server, what that says."""
        return self._version or importlib.metadata.version("llama-cpp-python")

    def attach(self, url: str) -> str | None:
        """Take a running server's version for this runner's; None, or why it takes no token ids."""
        with contextlib.closing(client_of(url)) as client:
            kind, version = server_kind(client)
        self._version = f"{kind} {version or '(version not told)'}"
        return None if kind == LLAMA_SERVER else f"{kind} takes texts and no token ids"

    def prepare(self, settings: Settings, say: Callable[[str], None]) -> None:
        """Build llama-server, once; nothing for a server that runs already."""
        if settings.server is None:
            tool(LLAMA_SERVER, say)

    def load(self, path: Path, settings: Settings) -> Session:
        """Launch a server for a GGUF file, or meet the one at `settings.server` that serves `path`.

        There, `path` may be a file or the model's name. ServerError when it serves something else.
        """
        if settings.server is None:
            launch = partial(Launched, path, settings)
            own = launch(n_ctx=FIRST_CELLS, swa_full=False)
            try:
                return LlamaServerSession(own.client, identify(own.client, path.name), own=own, launch=launch)
            except BaseException:
                own.close()
                raise
        client = client_of(settings.server)
        try:
            served = identify(client, path.name if path.is_file() else str(path))
            if served.kind == LLAMA_SERVER:
                return LlamaServerSession(client, served)
            return OpenAiSession(client, served)
        except BaseException:
            client.close()
            raise


def client_of(url: str) -> Client:
    """A client for a running server, with the user's key where there is one."""
    return Client(url, os.environ.get(KEY_VARIABLE))
