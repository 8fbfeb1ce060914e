"""A llama-server of our own: on this computer's loopback, one slot, every setting given, then gone."""

import contextlib
import os
import re
import secrets
import subprocess
import tempfile
import time
from pathlib import Path

from edgebench.core.errors import ModelError
from edgebench.core.types import Settings
from edgebench.runners.llama_source import tool
from edgebench.runners.server_http import Client

CELL_STEP = 256
"""llama.cpp rounds a cache up to this many cells."""
START_S = 900.0
"""A large model from a slow disk takes minutes."""
_LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
_CACHE_SIZE = re.compile(r"KV buffer size = +([0-9.]+) MiB")
_SYSTEM = re.compile(r"system_info: [^|]*\| (.*)")
_NOT_PASSED_ON = ("LLAMA_", "AIP_", "HF_")
"""Environment variables that llama-server takes settings from: it gets all of them by its command."""


class Launched:
    """A running llama-server with one model; `close` ends it, as does the end of our process group."""

    def __init__(self, path: Path, settings: Settings, *, n_ctx: int, swa_full: bool) -> None:
        self.n_ctx, self.swa_full = n_ctx, swa_full
        key = secrets.token_urlsafe(24)
        kept = {name: v for name, v in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            _command(tool("llama-server"), path, settings, n_ctx, swa_full),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**kept, "LLAMA_API_KEY": key},
        )
        self.pid = self._process.pid
        try:
            self.client = Client(self._wait(path), key)
        except BaseException:
            self.close()
            raise
        begun = self.log
        found, sizes = _SYSTEM.search(begun), _CACHE_SIZE.findall(begun)
        self.system_info = found[1].strip() if found else None
        """What llama.cpp was built with and uses."""
        self.kv_cache_bytes = round(sum(map(float, sizes)) * 2**20) if sizes else None
        """What it says it took for keys and values, to 10 KiB."""

    @property
    def log(self) -> str:
        """What it has printed so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode("utf-8", "replace")

    def why_dead(self) -> str | None:
        """How it ended and its log's first error; None while it runs, half a second on."""
        try:
            code = self._process.wait(0.5)  # its connections end a little before it does
        except subprocess.TimeoutExpired:
            return None
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"llama-server {ended}: {self._first_error()}"

    def close(self) -> None:
        """End it, and wait until it is gone."""
        with contextlib.suppress(AttributeError):
            self.client.close()
        self._process.kill()  # nothing of it is worth keeping
        self._process.wait()
        self._log.close()

    def _wait(self, path: Path) -> str:
        """Its URL, once the model is loaded. ModelError when it ends before, or takes too long."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if found := _LISTENING.search(self.log):
                return found[1]
            if self._process.poll() is not None:
                raise ModelError(f"llama-server can't serve {path}: {self._first_error()}")
            time.sleep(0.01)
        raise ModelError(f"llama-server did not load {path} in {START_S:g} s")

    def _first_error(self) -> str:
        """The first line that tells of an error: what follows it are consequences."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
        return (told or lines[-1:] or ["it gave no reason"])[0]


def cells(n_tokens: int) -> int:
    """The cache that holds so many tokens: llama-server leaves one cell of it empty."""
    return -(-(n_tokens + 1) // CELL_STEP) * CELL_STEP


def _command(program: Path, path: Path, settings: Settings, n_ctx: int, swa_full: bool) -> list[str]:
    """Every setting that moves a figure, and nothing that reaches out."""
    s = settings
    return [
        *(str(program), "--model", str(path), "--alias", path.name, "--host", "127.0.0.1", "--port", "0"),
        *("--threads", str(s.n_threads), "--threads-batch", str(s.n_threads), "--ctx-size", str(n_ctx)),
        *("--batch-size", str(s.n_batch), "--ubatch-size", str(s.n_ubatch), "--flash-attn", s.flash_attn),
        *("--cache-type-k", s.type_k, "--cache-type-v", s.type_v, "--gpu-layers", str(s.n_gpu_layers)),
        *("--load-mode", "mmap" if s.mmap else "none", "--parallel", "1", "--fit", "off"),
        # What it would keep of earlier requests, in memory or by moving cells.
        *("--cache-ram", "0", "--ctx-checkpoints", "0", "--no-context-shift"),
        # The template's own text, as the llama_cpp runner makes it; what the model writes, unparsed.
        *("--no-jinja", "--reasoning-format", "none"),
        *(
            "--log-verbosity",
            "4",
            "--no-warmup",
            "--no-slots",
            "--no-webui",
            "--no-mmproj",
            "--offline",
            "--log-colors",
            "off",
        ),
        *(("--swa-full",) if swa_full else ()),
    ]
