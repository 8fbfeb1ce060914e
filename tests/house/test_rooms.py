"""Imports go one way: core, then the rooms, then session, then the command line."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIBLINGS = {"quantize", "runners", "devices", "results"}
ROOMS = {
    "edgebench/core": "core",
    "edgebench/suites": "suites",
    **{name: name for name in sorted(SIBLINGS)},
}
CODE = ("edgebench", *sorted(SIBLINGS), "tests", "benchmarks", "docs")


def imported(path: Path) -> set[str]:
    """Every module a file names in an import, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import hides which room it reaches"
            # `from edgebench import suites` names a room as well as `from edgebench.suites import …` does.
            plain = node.module == "edgebench"
            names |= {f"edgebench.{alias.name}" for alias in node.names} if plain else {node.module}
    return names


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def part(name: str) -> str:
    """`suites` of `edgebench.suites.loader`."""
    return name.removeprefix("edgebench.").split(".")[0]


@pytest.mark.parametrize("folder", ROOMS)
def test_room_knows_only_the_core_and_itself(folder: str) -> None:
    assert modules(folder), f"{folder} holds no module"
    for path in modules(folder):
        for name in imported(path):
            if name.startswith("edgebench.") and part(name) != "__version__":
                assert part(name) in {"core", ROOMS[folder]}, f"{path} may not import {name}"


def test_command_line_reaches_rooms_through_session_and_results_only() -> None:
    for path in modules("edgebench/cli"):
        for name in imported(path):
            if name.startswith("edgebench.") and part(name) != "__version__":
                known = part(name) in {"cli", "core", "results"} or part(name).startswith("session")
                assert known, f"{path} may not import {name}"


def test_session_does_not_know_the_command_line() -> None:
    for path in (ROOT / "edgebench").glob("session*.py"):
        for name in imported(path):
            assert not name.startswith("edgebench.cli"), f"{path} may not import {name}"


@pytest.mark.parametrize("folder", CODE)
def test_rooms_are_imported_under_edgebench_only(folder: str) -> None:
    for path in modules(folder):
        for name in imported(path):
            assert name.split(".")[0] not in SIBLINGS, f"{path}: import edgebench.{name}"
