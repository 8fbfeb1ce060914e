"""Models behind a server that runs already: what they are known by, and where they run."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import ServerError, UsageError
from edgebench.core.hashing import sha256_text
from edgebench.core.types import Artifact, DeviceProfile, Environment, Format, QuantSpec
from edgebench.quantize.adopted import adopted_models
from edgebench.quantize.catalog import shipped_models
from edgebench.runners.llama_server import LlamaServer, client_of
from edgebench.runners.server_http import Client
from edgebench.runners.server_identity import LLAMA_SERVER, Served, identify
from edgebench.session_models import resolve

MAX_HEAD_BYTES = 64 * 2**20
"""What a GGUF file holds besides its tensors, at most: metadata, mostly the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A running server as a plan needs to know it."""

    runner: LlamaServer
    why_texts_only: str | None
    """None: it takes token ids."""
    elsewhere: tuple[DeviceProfile, Environment] | None
    """Another computer, of which only the address is known; None: it is this one."""


def attach(url: str, runner_name: str | None, *, levels: bool) -> Attached:
    """Meet a running server. UsageError for what can't go with it, ServerError when it isn't there."""
    runner = LlamaServer()
    if runner_name not in (None, runner.name):
        raise UsageError(f"--server is asked by --runner {runner.name}, not by {runner_name}")
    if levels:
        raise UsageError(
            "a running server has its model already: levels can't be made for it", "leave out --quant"
        )
    return Attached(runner=runner, why_texts_only=runner.attach(url), elsewhere=_elsewhere(url))


def resolve_served(name: str, url: str, say: Callable[[str], None]) -> Artifact:
    """What a name stands for behind a server: a file it is shown to serve, else what it calls so itself."""
    known = {**shipped_models(), **adopted_models()}
    if name in known or Path(name).expanduser().is_file():
        return served_file(resolve(name, say), url)
    return served_model(name, url)


def served_model(name: str, url: str) -> Artifact:
    """The model a server calls `name`: known by the hash of what it says, as no file's bytes are."""
    with contextlib.closing(client_of(url)) as client:
        served = identify(client, name)
    return Artifact(
        sha256=served.sha256,
        path=Path(name),
        model=name,
        quant=QuantSpec(name="served", format=Format.SERVED),
        size_bytes=served.size_bytes or 0,
        n_params=served.n_params,
        source=f"served:{served.kind}",
        tool=served.kind,
        tool_version=served.version or "",
        recipe=served.facts(),
    )


def served_file(artifact: Artifact, url: str) -> Artifact:
    """A file, if a llama-server shows that it serves this one: by its name, its weights and their bytes.

    ServerError when it serves another, or can't show which.
    """
    with contextlib.closing(client_of(url)) as client:
        served = identify(client, artifact.path.name)
        _check_file(artifact, served, client)
    return artifact


def _elsewhere(url: str) -> tuple[DeviceProfile, Environment] | None:
    client = client_of(url)
    if client.is_local:
        return None
    name = f"server-{client.host}"
    device = DeviceProfile(id=name, name=f"a server at {client.host}", kind="server")
    return device, Environment(id=sha256_text(name), os="not known: asked over the network")


def _check_file(artifact: Artifact, served: Served, client: Client) -> None:
    name = artifact.path.name
    if served.kind != LLAMA_SERVER or served.n_params is None or served.size_bytes is None:
        raise client.error(
            f"can't show that it serves the bytes of {name}", f"-m {served.model} measures what it calls so"
        )
    head_bytes = artifact.size_bytes - served.size_bytes
    if served.n_params != artifact.n_params or not 0 <= head_bytes <= MAX_HEAD_BYTES:
        raise ServerError(
            f"the server at {client.url} serves another {name}: {served.n_params} weights in"
            f" {served.size_bytes} bytes, the file has {artifact.n_params} in {artifact.size_bytes}",
            f"start it with -m {artifact.path}",
        )
