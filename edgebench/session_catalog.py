"""What there is: models, runners, devices, the cache. Answers for the listing verbs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.energy import Method, SourceStatus
from edgebench.core.engine import Prepares, Runner
from edgebench.core.errors import EdgebenchError, MissingDependency, UsageError, nearest
from edgebench.core.paths import CACHE_PARTS, cache_dir
from edgebench.core.tool_env import Tool, ensure_tool, find_tool, tool_names, tool_title
from edgebench.core.types import Settings
from edgebench.devices.local import local_environment
from edgebench.devices.meters.catalog import probe_all
from edgebench.devices.profiles import find_profile, load_profile, profile_names
from edgebench.devices.state import StateReader
from edgebench.quantize.adopted import adopted_models
from edgebench.quantize.catalog import fetch, shipped_models
from edgebench.quantize.hub import is_hub_id
from edgebench.quantize.levels import ALL_LEVELS
from edgebench.quantize.manifest import manifest_of
from edgebench.runners.engine_build import ensure, explain
from edgebench.runners.engine_target import Target
from edgebench.runners.llama_backends import installed_backends
from edgebench.runners.llama_source import source_tree
from edgebench.session_models import resolve
from edgebench.session_sources import fetch_from_hub

LLAMA_CPP = "llama_cpp"
"""The engine that is built, not only fetched."""
_ONNX_PACKAGES = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "onnx_genai": ("onnxruntime-genai", "onnxruntime-genai-cuda"),
}
"""Engine -> its package, and the one that has CUDA."""


def list_models() -> list[dict[str, Any]]:
    """Models known by name."""
    return [
        {
            "name": m.name,
            "title": m.title,
            "size_bytes": m.size_bytes,
            "licence": m.license,
            "cached": m.path.is_file(),
            "source": f"pypi:{m.package}=={m.version}",
            "terms": m.terms,
        }
        for m in shipped_models().values()
    ] + [
        {
            "name": m.name,
            "title": "added from this computer",
            "size_bytes": m.size_bytes,
            "licence": m.license,
            "cached": Path(m.path).exists(),
            "source": m.path,
            "terms": None,
        }
        for m in adopted_models().values()
    ]


def show_model(name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """A model's manifest; fetches a catalogued model that is not in the cache yet."""
    artifact = resolve(name, say)
    return {**manifest_of(artifact), "path": str(artifact.path), "levels": list(ALL_LEVELS)}


def list_runners() -> list[dict[str, Any]]:
    """Every engine edgebench knows, usable or not."""
    rows = []
    for name in registry.names("runners"):
        try:
            runner = registry.load("runners", name)
            why = why_not(runner)
            row = {
                "name": name,
                "available": why is None,
                "why": why,
                "install": runner.install,
                "version": runner.version() if why is None else None,
                "evidence": runner.evidence.value,
                "formats": [f.value for f in runner.formats],
                "backends": sorted(installed_backends()) if name == LLAMA_CPP else None,
            }
        except EdgebenchError as error:  # somebody's plug-in
            row = {"name": name, "available": False, "why": error.message, "install": error.hint}
            row |= dict.fromkeys(("version", "evidence", "formats", "backends"))
        rows.append(row)
    return rows


def why_not(runner: Runner) -> str | None:
    """None when a runner can be used here; of one that works in a tool environment, whether that is made."""
    if runner.tool is None:
        return runner.available()
    return None if find_tool(runner.tool) else f"its tool environment {runner.tool} is not made yet"


def buildable() -> list[str]:
    """What `runners build` takes: every engine, and the tool environments some of them work in."""
    return sorted({*registry.names("runners"), *tool_names()})


def build_runner(
    name: str, target: str | None, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> None:
    """Make an engine usable: llama.cpp is built for `target`, others get the environment they work in.

    Raises:
        UsageError: no such engine, or one that is built for nothing in particular.
        MissingDependency: what it needs is not here; the hint is the command that gets it.
    """
    tool = _tool_of(name, target)
    if name == LLAMA_CPP:
        ensure(say, progress, Target(target) if target else None)
    elif tool is not None:
        ensure_tool(tool, say)
    else:
        runner: Runner = registry.load("runners", name)
        if (why := runner.available()) is not None:
            raise MissingDependency(f"runner {name}: {why}", runner.install)
        if isinstance(runner, Prepares):
            runner.prepare(Settings(n_threads=1), say)


def explain_build(name: str, target: str | None) -> dict[str, Any]:
    """What `build_runner` would do, without doing it: JSON-ready. Raises UsageError as it does."""
    tool = _tool_of(name, target)
    if name == LLAMA_CPP:
        return explain(Target(target) if target else None)
    if tool is not None:
        there = find_tool(tool) is not None
        todo = "nothing: it is there" if there else f"make the tool environment {tool}: {tool_title(tool)}"
        return {"runner": name, "todo": todo, "possible": True}
    why = registry.load("runners", name).available()
    return {"runner": name, "todo": "nothing: it is there" if why is None else why, "possible": why is None}


def _tool_of(name: str, target: str | None) -> str | None:
    """The tool environment that a name stands for or works in; UsageError for what nobody builds."""
    if name not in buildable():
        raise nearest(name, buildable(), kind="runner")
    tool = name if name in tool_names() else registry.load("runners", name).tool
    if target in (None, "cpu") or name == LLAMA_CPP:
        return tool
    if name in _ONNX_PACKAGES and target == "cuda":
        plain, for_cuda = _ONNX_PACKAGES[name]
        raise UsageError(
            f"{for_cuda} takes {plain}'s place in the tool environment {tool}: edgebench does not install it,"
            " and has not been tried with it",
            _swap(plain, for_cuda, find_tool(tool)),
        )
    raise UsageError(f"{name} is not built for a target", f"--target {target} is for {LLAMA_CPP}")


def _swap(plain: str, for_cuda: str, tool: Tool | None) -> str:
    """The command that puts one package in another's place."""
    if tool is None:
        return "edgebench runners build onnx, then ask again: the answer names its interpreter"
    pip = f"{tool.python} -m pip"
    return f"{pip} uninstall -y {plain} && {pip} install {for_cuda}"


def list_devices() -> list[dict[str, Any]]:
    """Every device profile."""
    return [show_device(name) for name in profile_names()]


def show_device(name: str) -> dict[str, Any]:
    """A device's facts; for this computer, as they are now. What is not known is None."""
    found = find_profile(name)
    device: dict[str, Any] = {
        "name": found.id if found.id in profile_names() else "local",
        "id": found.id,
        "title": found.name,
        "kind": found.kind,
        "transport": found.transport,
        "soc": found.soc,
        "memory_bytes": found.memory_bytes,
    }
    if found.id in profile_names():
        told = dict.fromkeys(("os", "kernel", "governor", "on_battery", "virtual_machine"))
        return {
            **device,
            **told,
            "facts": dict(found.facts),
            "how_reached": load_profile(found.id).how_reached,
        }
    environment = local_environment()
    return {
        **device,
        "os": environment.os,
        "kernel": environment.kernel,
        "governor": environment.governor,
        "on_battery": environment.on_battery,
        "virtual_machine": environment.facts.get("virtual_machine"),
        "facts": dict(found.facts),
        "how_reached": "edgebench run, without --device",
    }


def probe_meters() -> list[dict[str, Any]]:
    """Every possible source of energy figures on this computer: usable, or why not and what would mend it."""
    return [meter_row(status) for status in probe_all()]


def meter_row(status: SourceStatus) -> dict[str, Any]:
    """A source of energy figures, JSON-ready."""
    facts = status.facts
    return {
        "source": status.source,
        "title": status.title,
        "scope": status.scope.value if status.scope else None,
        "usable": status.usable,
        "method": facts.method.value if facts else None,
        "step": facts.step if facts else None,
        "step_unit": None if facts is None else "J" if facts.method is Method.COUNTER else "W",
        "update_s": facts.update_s if facts else None,
        "minimum_s": facts.minimum_s if facts else None,
        "accuracy": facts.accuracy if facts else None,
        "evidence": facts.evidence.value if facts else None,
        "reason": status.reason.value if status.reason else None,
        "why": status.why or (facts.detail if facts else ""),
        "fix": status.fix or None,
    }


def probe_state() -> dict[str, Any]:
    """What can be read of the computer's heat and state, and what it says now."""
    reader = StateReader()
    return {"sensors": reader.facts(), "now": asdict(reader.read())}


def list_cache() -> list[dict[str, Any]]:
    """What the cache holds, by part."""
    rows = []
    for part in CACHE_PARTS:
        files = [p for p in (cache_dir() / part).rglob("*") if p.is_file() and not p.is_symlink()]
        rows.append(
            {
                "part": part,
                "path": str(cache_dir() / part),
                "n_files": len(files),
                "size_bytes": sum(p.stat().st_size for p in files),
            }
        )
    return rows


def clear_cache(parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Empty parts of the cache (all of them when none is named); what was removed."""
    for part in parts:
        if part not in CACHE_PARTS:
            raise nearest(part, CACHE_PARTS, kind="part of the cache")
    removed = [row for row in list_cache() if not parts or row["part"] in parts]
    for row in removed:
        shutil.rmtree(row["path"], ignore_errors=True)
    return removed


def prefetchable() -> list[str]:
    """What `cache prefetch` takes."""
    return [*shipped_models(), "engine", *tool_names()]


def prefetch(pieces: Sequence[str], say: Callable[[str], None], *, accept_license: bool) -> None:
    """Get pieces while there is a network: models, the engine's source, tool environments."""
    for piece in pieces:
        if piece not in prefetchable() and not is_hub_id(piece):
            raise nearest(piece, prefetchable(), kind="piece")
    for piece in pieces:
        if piece in tool_names():
            ensure_tool(piece, say)
        elif piece == "engine":
            source_tree(say)
        elif is_hub_id(piece):
            fetch_from_hub(piece, None, say, accept_license=accept_license)
        else:
            model = shipped_models()[piece]
            if accept_license:
                model.accept()
            fetch(model, say)
        say(f"{piece} is in the cache" + (f" ({tool_title(piece)})" if piece in tool_names() else ""))
