"""One set of weights in several engines, by the path a user takes: known to be the same, and in agreement."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.session_sources import gguf_base, open_source

pytestmark = [pytest.mark.engine, pytest.mark.slow]

F32 = ("-t", "1", "-fa", "off", "-ctk", "f32", "-ctv", "f32")
ASKED = ("--mode", "accuracy", "--scorer", "letter", "--limit", "16")


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory,
    edgebench_in: Callable[[Path], Any],
    tiny_checkpoint: Path,
    smollm2: Path,
) -> Callable[..., Any]:
    """A checkpoint and the GGUF file made of it, asked in three engines; the verbs beside them."""
    edgebench = edgebench_in(tmp_path_factory.mktemp("agree"))
    gguf = gguf_base(open_source(str(tiny_checkpoint), print), print).path
    for engine, path in (("torch", tiny_checkpoint), ("llama_cpp", gguf), ("llama_server", gguf)):
        done = edgebench("run", "-m", path, "--runner", engine, *ASKED, *F32, timeout=600)
        assert done.returncode == 0, done.stderr
    call: Callable[..., Any] = edgebench
    return call


def test_three_engines_agree_on_one_checkpoint(asked: Callable[..., Any]) -> None:
    done = asked("compare", "--by", "engine", "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["engine"]: row for row in json.loads(done.stdout)}
    assert [row["engine"] for row in rows.values() if row["base"]] == ["torch"]
    assert rows["llama_cpp"]["artifact_sha256"] == rows["llama_server"]["artifact_sha256"]
    for engine in ("llama_cpp", "llama_server"):
        found = rows[engine]["parity"]
        assert (found["gate"], found["in_f32"], found["agree"]["n"]) == ("PASS", True, 16)
        assert 0 < found["largest_nats"] < 1e-3  # other sums of the same products
    assert "left out" not in done.stderr


def test_one_file_in_two_engines_needs_no_origin(asked: Callable[..., Any]) -> None:
    shown = asked("compare", "--by", "engine", "--base", "llama_cpp")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("PASS") == 2
    assert "t/s" not in shown.stdout  # nothing was timed
