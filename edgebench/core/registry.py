"""Plug-ins by entry point, loaded only when asked for.

A package adds a runner with `[project.entry-points."edgebench.runners"]  mine = "pkg.mod:Class"`.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgebench.core.errors import MissingDependency, nearest


def names(kind: str) -> list[str]:
    """Known plug-ins of a kind (`runners`, `quantizers`, …), sorted; nothing is imported."""
    return sorted(_points(kind))


def load(kind: str, name: str) -> Any:
    """A fresh instance of the plug-in class; UsageError with the nearest names when unknown."""
    points = _points(kind)
    if name not in points:
        raise nearest(name, points, kind=kind.rstrip("s"))
    try:
        return points[name].load()()
    except ImportError as error:
        raise MissingDependency(f"{kind.rstrip('s')} {name!r} can't be imported: {error}") from error


def _points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"edgebench.{kind}")}
