"""One module of a package, without the package's own `__init__`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.core.lean import import_submodule


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose `__init__` must not run."""
    folder = tmp_path / "heavy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('the whole web of helpers')\n")
    (folder / "bindings.py").write_text("from heavy_package import names\nanswer = names.answer\n")
    (folder / "names.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_submodule_is_imported_without_its_package(package: str) -> None:
    assert import_submodule(package, "bindings").answer == 42
    assert import_submodule(package, "bindings") is sys.modules[f"{package}.bindings"]


def test_package_that_is_imported_already_is_used(tmp_path: Path, package: str) -> None:
    (tmp_path / package / "__init__.py").write_text("whole = True\n")
    whole = __import__(package)
    assert import_submodule(package, "names").answer == 42
    assert sys.modules[package] is whole


def test_package_that_is_not_there_is_told_by_name() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        import_submodule("no_such_package", "bindings")
    assert caught.value.name == "no_such_package"


def test_module_that_is_no_package_has_no_submodules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError):
        import_submodule("plain_module", "x")
