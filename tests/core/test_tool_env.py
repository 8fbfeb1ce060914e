"""Tool environments: made once, seen by nobody else, and honest about what is missing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.core import tool_env
from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.tool_env import Tool, ensure_tool, find_tool, pinned, tool_names, tool_title


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def empty_pins(folder: Path) -> Path:
    """Two environments whose pins name nothing, so that making them needs no network."""
    folder.mkdir()
    for name in ("export", "genai"):
        (folder / f"{name}.txt").write_text("# nothing\n")
    return folder


@pytest.fixture
def empty_environments(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = empty_pins(tmp_path / "environments")
    monkeypatch.setattr(tool_env, "_FOLDER", folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tool, list[str]]]:
    """The empty `genai`, made for real, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("made")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEBENCH_CACHE", str(folder / "cache"))
        patch.setattr(tool_env, "_FOLDER", empty_pins(folder / "environments"))
        assert find_tool("genai") is None
        yield ensure_tool("genai", said.append), said


def run(tool: Tool, code: str) -> str:
    done = subprocess.run(
        [str(tool.python), "-P", "-c", code],
        env=tool.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_every_environment_pins_its_whole_closure() -> None:
    assert tool_names() == ["export", "genai", "native"]
    for name in tool_names():
        assert tool_title(name)
        lines = (Path(tool_env.__file__).with_name("environments") / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins
        assert all(line.count("==") == 1 and " " not in line for line in pins)


def test_pinned_version_is_the_uppermost() -> None:
    assert pinned("export", "transformers").startswith("4.")
    assert pinned("genai", "transformers").startswith("5.")
    assert pinned("genai", "torch") == pinned("export", "torch")
    assert pinned("export", "huggingface-hub") == pinned("export", "huggingface_hub")
    with pytest.raises(KeyError):
        pinned("export", "no-such-package")


def test_environment_is_made_once_and_runs_this_edgebench(made: tuple[Tool, list[str]]) -> None:
    tool, said = made
    assert [line.split(" (")[0] for line in said] == [
        "making the tool environment export",
        "making the tool environment genai",
    ]
    assert ensure_tool("genai", said.append) == tool == find_tool("genai")
    assert len(said) == 2
    code = (
        "import json, sys, edgebench.quantize.levels as q, edgebench.core.registry as r;"
        "print(json.dumps([sys.prefix, q.__file__, r.names('quantizers')]))"
    )
    prefix, module, quantizers = json.loads(run(tool, code))
    assert prefix != sys.prefix
    assert Path(module).resolve() == (Path(__file__).parents[2] / "quantize" / "levels.py")
    assert {"gguf", "onnx", "genai"} <= set(quantizers)


def test_nothing_of_our_environment_shines_through(made: tuple[Tool, list[str]]) -> None:
    tool, _ = made
    with pytest.raises(subprocess.CalledProcessError):
        run(tool, "import numpy")


def test_children_are_offline_and_without_telemetry(made: tuple[Tool, list[str]]) -> None:
    tool, _ = made
    told = tool.environment()
    assert told["HF_HUB_OFFLINE"] == told["HF_HUB_DISABLE_TELEMETRY"] == told["DO_NOT_TRACK"] == "1"
    assert told["ORT_DISABLE_TELEMETRY"] == "1"  # the only name onnxruntime and onnxruntime-genai heed
    assert "HF_HUB_OFFLINE" not in tool.environment(offline=False)


def test_without_an_index_the_missing_piece_is_named(
    empty_environments: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    (empty_environments / "export.txt").write_text("edgebench-no-such-package==1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingDependency, match="the tool environment export can't be made: ") as caught:
        ensure_tool("export", print)
    assert caught.value.hint == "with a network: edgebench cache prefetch export"
    assert find_tool("export") is None
    assert [p for p in (own_cache / "environments").iterdir() if p.name.startswith(".part-")] == []


def test_a_half_made_environment_of_a_killed_process_is_cleared_away(
    empty_environments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(_name: str, part: Path, _below: object) -> None:
        (part / "bin").mkdir(parents=True)
        (part / "bin" / "python").touch()

    monkeypatch.setattr(tool_env, "_install", install)
    place = tool_env._place("export")
    leaving = place.with_name(f".part-0123abcd-{place.name}")
    leaving.mkdir(parents=True)
    ensure_tool("export", print)
    assert not leaving.exists()


def test_full_disk_is_told_before_anything_is_fetched(
    empty_environments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_env, "free_bytes", lambda _: 10**6)
    with pytest.raises(MissingDependency, match="has no room for the tool environment export"):
        ensure_tool("export", print)


def test_unknown_environment_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown tool environment 'exprt'") as caught:
        ensure_tool("exprt", print)
    assert caught.value.hint == "did you mean export?"
