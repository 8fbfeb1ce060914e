"""What is in the tree is in the package: modules, data files, entry points."""

import importlib.metadata
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgebench

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {"edgebench", "quantize", "runners", "devices", "results"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def folder_of(package: str, mapping: dict[str, str]) -> Path:
    """Where a listed package's files lie, by the longest mapped beginning of its name."""
    head = next(n for n in sorted(mapping, key=len, reverse=True) if f"{package}.".startswith(f"{n}."))
    return ROOT.joinpath(mapping[head], *package.removeprefix(head).strip(".").split("."))


def test_every_package_folder_is_listed_and_every_listed_one_is_there(project: dict[str, Any]) -> None:
    setuptools = project["tool"]["setuptools"]
    listed = {folder_of(name, setuptools["package-dir"]) for name in setuptools["packages"]}
    found = {path.parent for top in TOP_LEVEL for path in (ROOT / top).rglob("__init__.py")}
    assert listed == found


def test_every_data_file_of_the_rooms_is_packaged(project: dict[str, Any]) -> None:
    setuptools = project["tool"]["setuptools"]
    packaged: set[Path] = set()
    for package, patterns in setuptools["package-data"].items():
        for pattern in patterns:
            found = set(folder_of(package, setuptools["package-dir"]).glob(pattern))
            assert found, f"{package}: {pattern} matches nothing"
            packaged |= found
    there = {
        path
        for top in TOP_LEVEL
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and not path.name.startswith(".")
    }
    assert there == packaged


def test_entry_points_load_and_are_the_installed_ones(project: dict[str, Any]) -> None:
    declared = project["project"]["entry-points"] | {"console_scripts": project["project"]["scripts"]}
    for group, points in declared.items():
        installed = {p.name: p for p in entry_points(group=group) if p.value.startswith("edgebench.")}
        assert {name: p.value for name, p in installed.items()} == points, "pip install -e . again"
        assert all(callable(point.load()) for point in installed.values())


def test_plug_ins_go_by_the_name_they_are_listed_under(project: dict[str, Any]) -> None:
    for group in project["project"]["entry-points"]:
        for point in entry_points(group=group):
            assert point.load().name == point.name


def test_every_module_can_be_imported_from_where_the_tree_has_it(modules: list[ModuleType]) -> None:
    there = {path for top in TOP_LEVEL for path in (ROOT / top).rglob("*.py") if path.stem != "__main__"}
    assert {Path(module.__file__ or "").resolve() for module in modules} == there


def test_version_is_the_packages() -> None:
    assert importlib.metadata.version("edgebench") == edgebench.__version__
