"""What a running server is and which model it serves, by its own words: nothing else is known of it.

llama-server says which file it opened and what is inside; Ollama names a digest; other servers tell a
name. The name is held against the one that was asked for before anything is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from edgebench.core.hashing import sha256_json
from edgebench.runners.server_http import Client

LLAMA_SERVER = "llama-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as a server describes it; what it does not say is None."""

    kind: str
    """`llama-server`, `ollama`, `vllm`, `lmstudio`; `openai` where the server does not give itself away."""
    version: str | None = None
    model: str
    """The name that requests carry."""
    names: tuple[str, ...] = ()
    """All names it answers to."""
    path: str | None = None
    """The model's file, on the server's computer."""
    digest: str | None = None
    size_bytes: int | None = None
    """Of the tensors (llama-server), or of the file (Ollama)."""
    n_params: int | None = None
    n_vocab: int | None = None
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    level: str | None = None

    @property
    def sha256(self) -> str:
        """The hash of what the server calls the model: never that of a file."""
        said = [self.kind, self.model, self.digest, self.size_bytes, self.n_params, self.n_vocab, self.level]
        return sha256_json(["served", *said])

    def facts(self) -> dict[str, Any]:
        """For the record."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "names"}
        return {key: value for key, value in told.items() if value is not None}


def identify(client: Client, name: str) -> Served:
    """What serves the model that is called `name`; ServerError with the names it does serve otherwise."""
    found = _served(client)
    if not found:
        raise client.error(
            "names no model: /v1/models does not answer with any", "is it a server of language models?"
        )
    wanted = _spellings(name)
    for served in found:
        if wanted & {spelling for own in served.names for spelling in _spellings(own)}:
            return served
    names = ", ".join(served.model for served in found[:8]) + (", …" if len(found) > 8 else "")
    raise client.error(f"does not serve {name}, but {names}", f"-m {found[0].model}")


def server_kind(client: Client) -> tuple[str, str | None]:
    """What kind of server it is, and its version where it tells."""
    props = client.ask("/props") or {}
    if "default_generation_settings" in props:
        return LLAMA_SERVER, _text(props.get("build_info"))
    if told := client.ask("/api/version"):
        return "ollama", _text(told.get("version"))
    owners = {_text(entry.get("owned_by")) for entry in _entries(client.ask("/v1/models"), "data")}
    if "vllm" in owners:
        return "vllm", _text((client.ask("/version") or {}).get("version"))
    return ("lmstudio" if "organization_owner" in owners else "openai"), None


def _served(client: Client) -> list[Served]:
    kind, version = server_kind(client)
    entries = _entries(client.ask("/v1/models"), "data")
    if kind == LLAMA_SERVER:
        return [_llama(entry, client.ask("/props") or {}, version) for entry in entries]
    if kind == "ollama":
        return [_ollama(entry, version) for entry in _entries(client.ask("/api/tags"), "models")]
    return [
        Served(
            kind=kind,
            version=version,
            model=name,
            names=(name,),
            n_ctx=_count(entry.get("max_model_len")),
        )
        for entry in entries
        if (name := _text(entry.get("id")))
    ]


def _llama(entry: Mapping[str, Any], props: Mapping[str, Any], version: str | None) -> Served:
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    path, model = _text(props.get("model_path")), _text(entry.get("id")) or "model"
    aliases = entry.get("aliases")
    told = [model, path, *(aliases if isinstance(aliases, list) else ())]
    settings = props.get("default_generation_settings")
    return Served(
        kind=LLAMA_SERVER,
        version=version,
        model=model,
        names=tuple(dict.fromkeys(name for name in told if isinstance(name, str) and name)),
        path=path,
        size_bytes=_count(meta.get("size")),
        n_params=_count(meta.get("n_params")),
        n_vocab=_count(meta.get("n_vocab")),
        n_ctx=_count(settings.get("n_ctx")) if isinstance(settings, dict) else None,
        n_ctx_train=_count(meta.get("n_ctx_train")),
        level=_text(meta.get("ftype")),
    )


def _ollama(entry: Mapping[str, Any], version: str | None) -> Served:
    name = _text(entry.get("name")) or _text(entry.get("model")) or "model"
    details = entry.get("details")
    return Served(
        kind="ollama",
        version=version,
        model=name,
        names=(name, name.removesuffix(":latest")),
        digest=_text(entry.get("digest")),
        size_bytes=_count(entry.get("size")),
        level=_text(details.get("quantization_level")) if isinstance(details, dict) else None,
    )


def _spellings(name: str) -> set[str]:
    """A name, and where it is a file's: the file's name, with and without its ending."""
    file = PurePosixPath(name).name
    return {name, file, file.removesuffix(".gguf")} if name.endswith(".gguf") else {name}


def _entries(answer: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    found = (answer or {}).get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _text(value: object) -> str | None:
    return value[:500] if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
