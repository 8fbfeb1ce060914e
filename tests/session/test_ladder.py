"""A ladder from the command line, on a tiny model of random weights: structure, resume, failures."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.hashing import sha256_file
from edgebench.quantize.gguf_file import inspect_gguf
from edgebench.quantize.manifest import artifact_sha256, sidecar

pytestmark = [pytest.mark.engine]

QUICK = ("-t", "1", "--check-chunks", "1", "-o", "json")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], tiny_checkpoint: Path
) -> Path:
    """`out/` with five levels of a tiny checkpoint, checked; what was printed is in `printed.json`."""
    folder = tmp_path_factory.mktemp("ladder")
    levels = "f16,q8_0,q4_0,q4_k_m,onnx-int8"
    done = edgebench_in(folder)(
        "quantize", tiny_checkpoint, "--to", levels, "--out", "out", *QUICK, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed.json").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["quant"]: row for row in json.loads((folder / "printed.json").read_text())}


def test_levels_lie_directly_in_the_folder_each_with_its_manifest(folder: Path) -> None:
    names = {path.name for path in (folder / "out").iterdir()}
    ggufs = {f"tiny-{level}.gguf" for level in ("f16", "q8_0", "q4_0", "q4_k_m")}
    assert ggufs | {"tiny-onnx-int8", "tiny-ladder.svg"} <= names
    for name in [*ggufs, "tiny-onnx-int8"]:
        path = folder / "out" / name
        manifest = json.loads(sidecar(path).read_text())
        assert manifest["sha256"] == artifact_sha256(path)
        assert manifest["derived_from"]["level"] == "f32"
        assert manifest["recipe"]["command"].startswith("edgebench quantize ")
        assert manifest["bits_per_class"]["ffn"] > 0
    assert not [name for name in names if name.startswith(".part-")]


def test_everything_that_was_made_is_stored_and_checked(
    folder: Path, rows: Callable[..., list[dict[str, Any]]]
) -> None:
    database = folder / "edgebench.sqlite"
    stored = {row["quant"] for row in rows(database, "SELECT quant FROM artifact")}
    assert {"f16", "q8_0", "q4_0", "q4_k_m", "onnx-int8", "f32"} <= stored
    statuses = rows(database, "SELECT status, count(*) AS n FROM check_run GROUP BY status")
    assert [row["status"] for row in statuses] == ["complete"]
    found = rows_of(folder)
    assert found["f16"]["kld_mean"]["value"] < found["q8_0"]["kld_mean"]["value"]
    assert found["q8_0"]["kld_mean"]["value"] < found["q4_0"]["kld_mean"]["value"]


def test_a_level_that_is_not_what_its_name_says_is_flagged(folder: Path) -> None:
    found = rows_of(folder)
    assert "not q4_k_m: " in found["q4_k_m"]["notes"]  # rows of 64 don't divide by 256
    manifest = json.loads(sidecar(folder / "out" / "tiny-q4_k_m.gguf").read_text())
    assert manifest["is_what_it_says"] is False
    assert manifest["recipe"]["fallbacks"]["q4_k → q5_0"] > 0
    assert "llama.cpp changed types" in (folder / "said.txt").read_text()
    assert json.loads(sidecar(folder / "out" / "tiny-q8_0.gguf").read_text())["is_what_it_says"] is True


def test_the_same_command_again_makes_and_checks_nothing(
    folder: Path, edgebench_in: Callable[..., Any], tiny_checkpoint: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*.gguf")}
    levels = "f16,q8_0,q4_0,q4_k_m,onnx-int8"
    done = edgebench_in(folder)(
        "quantize", tiny_checkpoint, "--to", levels, "--out", "out", *QUICK, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "making" not in done.stderr
    assert "was checked" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*.gguf")} == before
    assert json.loads(done.stdout) == json.loads((folder / "printed.json").read_text())


def test_reproduce_prints_a_command_that_gives_the_same_bytes(
    folder: Path, edgebench_in: Callable[..., Any], tmp_path: Path
) -> None:
    path = folder / "out" / "tiny-q4_0.gguf"
    told = edgebench_in(folder)("reproduce", path)
    assert told.returncode == 0, told.stderr
    words = told.stdout.split()
    assert words[:2] == ["edgebench", "quantize"]
    assert words[-2:] == ["--out", "DIR"]
    command = [*words[1:-1], tmp_path / "again", "--no-check", "-t", "2"]
    done = edgebench_in(tmp_path)(*command, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sha256_file(tmp_path / "again" / path.name) == sha256_file(path)
    by_hash = edgebench_in(folder)("reproduce", sha256_file(path)[:10])
    assert by_hash.stdout == told.stdout


def test_a_damaged_level_is_made_again(
    folder: Path, edgebench_in: Callable[..., Any], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out" / "tiny-q8_0.gguf"
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    done = edgebench_in(tmp_path)(
        *("quantize", tiny_checkpoint, "--to", "q8_0,q4_0", "--out", "out", "--no-check", "-t", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert "making 1 levels" in done.stderr
    assert path.read_bytes() == good


def test_killed_in_the_middle_it_goes_on_where_it_was(
    tmp_path: Path,
    start: Callable[..., Any],
    edgebench: Any,
    smollm2: Path,
    wait_until: Callable[..., Any],
) -> None:
    command = ("quantize", smollm2, "--to", "q8_0,iq4_nl", "--out", "out", "--no-check", "-t", "1")
    running = start(*command)
    first, second = (tmp_path / "out" / f"smollm2-135m-instruct-{level}.gguf" for level in ("q8_0", "iq4_nl"))
    wait_until(first.exists)
    wait_until(lambda: list((tmp_path / "out").glob(".part-*")))
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: not orphans())
    assert first.exists()
    assert not second.exists()
    made = first.stat().st_mtime_ns
    done = edgebench(*command, timeout=300)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == made
    assert inspect_gguf(second).level == "iq4_nl"
    assert not list((tmp_path / "out").glob(".part-*"))


def orphans() -> list[Any]:
    """Measuring processes whose parent is gone: they end by themselves when they notice."""
    import psutil

    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if "edgebench.session_worker" in (process.info["cmdline"] or []) and process.info["ppid"] == 1
    ]


def test_parts_are_cut_named_and_measured_as_one(tmp_path: Path, edgebench: Any, smollm2: Path) -> None:
    command = ("quantize", smollm2, "--to", "q4_0", "--out", "out", "--no-check", "--max-shard", "40M")
    done = edgebench(*command, timeout=300)
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "out").glob("*.gguf"))
    assert [p.name[-20:] for p in parts] == [
        f"-{i:05}-of-{len(parts):05}.gguf"[-20:] for i in range(1, len(parts) + 1)
    ]
    assert len(parts) > 1
    facts = inspect_gguf(parts[0])
    assert (facts.level, facts.n_params) == ("q4_0", inspect_gguf(smollm2).n_params)
    again = edgebench(*command, timeout=300)
    assert "making" not in again.stderr
    parts[-1].unlink()
    shown = edgebench("models", "show", parts[0])
    assert shown.returncode == 1
    assert "parts are missing" in shown.stderr


def test_an_onnx_level_is_measured_like_any_other(
    folder: Path, edgebench: Any, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]]
) -> None:
    quick = ("-p", "8", "-n", "2", "--chat", "2", "-r", "1", "--rounds", "1", "-t", "1", "--limit", "8")
    done = edgebench("run", "-m", folder / "out" / "tiny-onnx-int8", *quick, "-o", "json", timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["level"] == "onnx-int8"
    assert row["prefill_tokens_per_s"]["value"] > 0
    assert row["acc"]["n"] == 8
    runs = rows(tmp_path / "edgebench.sqlite", "SELECT DISTINCT runner, status FROM run")
    assert runs == [{"runner": "onnx", "status": "complete"}]


def test_engines_that_differ_are_not_measured_in_one_run(folder: Path, edgebench: Any) -> None:
    both = ",".join(str(folder / "out" / name) for name in ("tiny-onnx-int8", "tiny-q8_0.gguf"))
    done = edgebench("run", "-m", both)
    assert done.returncode == 2
    assert "these models need different engines: llama_cpp, onnx" in done.stderr
