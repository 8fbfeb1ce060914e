"""The package's modules: the rooms stand beside `edgebench/`, so its own folder does not list them."""

import importlib
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def modules() -> list[ModuleType]:
    """Every module of every listed package but `__main__`, imported."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    names: list[str] = []
    for package in setuptools["packages"]:
        found = importlib.import_module(package)
        names.append(package)
        for folder in found.__path__:
            names += [f"{package}.{path.stem}" for path in Path(folder).glob("[!_]*.py")]
    return [importlib.import_module(name) for name in sorted(names)]
