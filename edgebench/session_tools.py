"""Call a function of the quantize room in a process of its own, in the environment that it needs."""

from collections.abc import Callable, Mapping
from typing import Any

from edgebench.core.engine import Quantizer
from edgebench.core.errors import RunFailed
from edgebench.core.tool_env import ensure_tool
from edgebench.session_child import Child

Say = Callable[[str], None]
Progress = Callable[[float], None]

TOOL_OF = dict.fromkeys(
    ("convert", "dequantize", "download", "merge", "search", "tokenize", "widen"), "export"
)
"""Job -> tool environment; a level is made in its quantizer's, everything else in edgebench's own."""


def call_tool(
    kind: str,
    job: Mapping[str, Any],
    say: Say,
    progress: Progress = lambda _: None,
    *,
    tool: str | None = None,
) -> dict[str, Any]:
    """The job's result. The environment is made when it is not there; only `download` may ask a hub."""
    named = tool or TOOL_OF.get(kind)
    place = ensure_tool(named, say) if named else None
    result: dict[str, Any] | None = None
    with Child({**job, "kind": kind}, place, offline=kind != "download") as child:
        for message in child.messages():
            if message["type"] == "progress":
                progress(message["share"])
            elif message["type"] == "result":
                result = {key: value for key, value in message.items() if key != "type"}
    if result is None:
        raise RunFailed(f"the {kind} process ended without a result")
    return result


def make_with(quantizer: Quantizer, job: Mapping[str, Any], say: Say, progress: Progress) -> dict[str, Any]:
    """A level, made by a quantizer in the environment it names."""
    return call_tool("quantize", {**job, "quantizer": quantizer.name}, say, progress, tool=quantizer.tool)
