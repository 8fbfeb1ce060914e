"""What there is: models, runners, devices, the cache. Answers for the listing verbs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.energy import Method
from edgebench.core.engine import Runner
from edgebench.core.errors import EdgebenchError, UsageError, nearest
from edgebench.core.paths import CACHE_PARTS, cache_dir
from edgebench.core.tool_env import ensure_tool, find_tool, tool_names, tool_title
from edgebench.devices.local import local_environment
from edgebench.devices.meters.catalog import probe_all
from edgebench.devices.profiles import find_profile, profile_names
from edgebench.devices.state import StateReader
from edgebench.quantize.adopted import adopted_models
from edgebench.quantize.catalog import fetch, shipped_models
from edgebench.quantize.hub import is_hub_id
from edgebench.quantize.levels import ALL_LEVELS
from edgebench.quantize.manifest import manifest_of
from edgebench.runners.llama_source import source_tree
from edgebench.session_models import resolve
from edgebench.session_sources import fetch_from_hub


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
            }
        except EdgebenchError as error:
            row = {"name": name, "available": False, "why": error.message, "install": None, "version": None}
        rows.append(row)
    return rows


def why_not(runner: Runner) -> str | None:
    """None when a runner can be used here; of one that works in a tool environment, whether that is made."""
    if runner.tool is None:
        return runner.available()
    return None if find_tool(runner.tool) else f"its tool environment {runner.tool} is not made yet"


def build_runner(name: str, say: Callable[[str], None], progress: Callable[[int, int], None]) -> Path | None:
    """Build and install an engine; the wheel used, or None when it is there already."""
    if name not in registry.names("runners"):
        raise nearest(name, registry.names("runners"), kind="runner")
    if name != "llama_cpp":
        raise UsageError(f"runner {name} needs no build")
    from edgebench.runners.engine_build import ensure

    return ensure(say, progress)


def list_devices() -> list[dict[str, Any]]:
    """Every device profile."""
    return [show_device(name) for name in profile_names()]


def show_device(name: str) -> dict[str, Any]:
    """A device's facts; for this computer, as they are now."""
    profile = find_profile(name)
    environment = local_environment()
    return {
        "name": "local" if profile.transport == "local" else profile.id,
        "id": profile.id,
        "title": profile.name,
        "kind": profile.kind,
        "soc": profile.soc,
        "memory_bytes": profile.memory_bytes,
        "os": environment.os,
        "kernel": environment.kernel,
        "governor": environment.governor,
        "on_battery": environment.on_battery,
        "virtual_machine": environment.facts.get("virtual_machine"),
    }


def probe_meters() -> list[dict[str, Any]]:
    """Every possible source of energy figures on this computer: usable, or why not and what would mend it."""
    rows = []
    for status in probe_all():
        facts = status.facts
        rows.append(
            {
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
        )
    return rows


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
