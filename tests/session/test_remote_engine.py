"""The whole of it over a real ssh server: edgebench deployed from nothing, both engines on small models."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.paths import cache_dir

pytestmark = pytest.mark.slow

SMALL = ("-p", "16", "-n", "4", "--chat", "2", "-r", "1", "--rounds", "1", "-t", "1", "--limit", "8")


@pytest.fixture
def board(ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(cache_dir()))  # the developer's, whatever is called home
    monkeypatch.setenv("HOME", str(ssh_server.home))
    ssh_server.root = ssh_server.board / tmp_path.name
    return ssh_server


def test_a_bare_host_gets_an_environment_of_its_own(board, toy, rows, edgebench, tmp_path):
    """In its namespace the host has no network, so every package comes from here."""
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "click",
        "--dest",
        str(tmp_path),
    ]
    if subprocess.run(probe, capture_output=True, check=False, timeout=120).returncode:
        pytest.skip("no package index in reach")
    surroundings = {"EDGEBENCH_HOST_DIR": str(board.root)}
    command = ("run", "--device", board.device, "-m", toy(), *SMALL)
    done = edgebench(*command, env=surroundings, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"on {board.device}, in {board.root}" in done.stderr
    if board.cable:
        assert "does not reach a package index" in done.stderr
    [ready] = board.root.glob("environments/*/ready")
    assert {run["status"] for run in rows(tmp_path / "edgebench.sqlite", "SELECT status FROM run")} == {
        "complete"
    }

    ready.write_text("an older edgebench")
    again = edgebench(*command, env=surroundings, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "known already" in again.stderr
    assert ready.read_text().strip() != "an older edgebench"
    assert [path.parent for path in board.root.glob("environments/*/ready")] == [ready.parent]


@pytest.mark.engine
def test_gguf_and_onnx_run_there_and_come_back(
    board, smollm2, run_in_tool, tiny_checkpoint, rows, edgebench, tmp_path
):
    onnx = tmp_path / "tiny-onnx-fp32"
    run_in_tool("onnx", {"checkpoint": str(tiny_checkpoint), "target": str(onnx), "level": "onnx-fp32"})
    board.root.mkdir()
    (board.root / ".edgebench-host").touch()
    (board.root / "cache").symlink_to(cache_dir())  # its engines are made already
    surroundings = {"EDGEBENCH_HOST_DIR": str(board.root), "EDGEBENCH_HOST_PYTHON": sys.executable}
    for model in (smollm2, onnx):
        done = edgebench("run", "--device", board.device, "-m", model, *SMALL, env=surroundings, timeout=300)
        assert done.returncode == 0, done.stderr
    found = rows(
        tmp_path / "edgebench.sqlite",
        "SELECT runner, mode, status, evidence, artifact_id, manifest_json FROM run"
        " JOIN artifact ON artifact.id = artifact_id",
    )
    assert {(r["runner"], r["mode"], r["status"], r["evidence"]) for r in found} == {
        (runner, mode, "complete", "measured")
        for runner in ("llama_cpp", "onnx")
        for mode in ("performance", "accuracy")
    }
    for path in board.root.glob("models/*"):
        assert path.name in {r["artifact_id"] for r in found}
    assert all(json.loads(r["manifest_json"])["size_bytes"] > 0 for r in found)
