import importlib.metadata

import pytest

from edgebench.core import registry
from edgebench.core.errors import MissingDependency, UsageError


def test_known_plug_ins_are_the_installed_entry_points() -> None:
    assert {"llama_cpp", "synthetic"} <= set(registry.names("runners"))
    assert "gguf" in registry.names("quantizers")
    assert registry.names("nonsense") == []


def test_each_load_gives_a_fresh_instance() -> None:
    first, second = registry.load("runners", "synthetic"), registry.load("runners", "synthetic")
    assert first.name == "synthetic"
    assert first is not second


def test_unknown_plug_in_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown runner 'lama_cpp'") as caught:
        registry.load("runners", "lama_cpp")
    assert caught.value.hint == "did you mean llama_cpp or llama_server or llama_native?"


def test_plug_in_that_cannot_be_imported_is_a_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "no_such_package.engine:Mine", "edgebench.runners")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    with pytest.raises(MissingDependency, match=r"runner 'mine' .*no_such_package"):
        registry.load("runners", "mine")
