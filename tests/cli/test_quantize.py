"""`edgebench quantize`: what it refuses, in a line, before anything is made."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine]


def refused(done: Any, code: int, told: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert "Traceback" not in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--to", "q4_k"), 2, "unknown level 'q4_k'"),
        (("--to", "onnx-int3"), 2, "unknown level 'onnx-int3'"),
        (("--to", ""), 2, "--to names no level"),
        (("--to", "iq2_xs"), 1, "level iq2_xs needs an importance matrix"),
        (("--to", "q4_0", "--tensor-type", "ffn"), 2, "'ffn' is not PATTERN=TYPE"),
        (("--to", "q4_0", "--tensor-type", "ffn(=q8_0"), 2, "is no regular expression"),
        (("--to", "q4_0", "--output-type", "int4"), 2, "unknown tensor type 'int4'"),
        (("--to", "q4_0", "--max-shard", "500"), 2, "--max-shard '500' is no size"),
        (("--to", "q4_0", "--calibration", "nothing.txt"), 2, "no calibration text at nothing.txt"),
        (
            ("--to", "q4_0", "--calibration-suite", "everyday"),
            1,
            "suite everyday has no train or dev questions",
        ),
        (("--to", "q4_0", "--adapter", "nothing"), 1, "no adapter folder at nothing"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(
    edgebench: Any, smollm2: Path, tmp_path: Path, flags: tuple[str, ...], code: int, told: str
) -> None:
    refused(edgebench("quantize", smollm2, *flags, "--out", "out"), code, told)
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_model_nobody_knows(edgebench: Any) -> None:
    refused(edgebench("quantize", "smollm2-136m", "--to", "q8_0"), 2, "unknown model 'smollm2-136m'")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "is no checkpoint: it has no config.json"),
        ({"config.json": '{"model_type": "mamba9"}'}, "unknown model family 'mamba9'"),
        (
            {
                "config.json": '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
                "pytorch_model.bin": "x",
            },
            "has pickled weights only (pytorch_model.bin)",
        ),
        (
            {
                "config.json": '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
                "model.safetensors.index.json": '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
            },
            "lacks 1 of 1 shards",
        ),
    ],
)
def test_a_folder_that_is_no_checkpoint(
    edgebench: Any, tmp_path: Path, files: dict[str, str], told: str
) -> None:
    (tmp_path / "model").mkdir()
    for name, text in files.items():
        (tmp_path / "model" / name).write_text(text)
    refused(edgebench("quantize", "./model", "--to", "q8_0"), 1, told)


def test_terms_are_accepted_before_the_weights_are_fetched(edgebench: Any, tmp_path: Path) -> None:
    cache = {"EDGEBENCH_CACHE": str(tmp_path / "cache")}
    done = edgebench("quantize", "gemma3-270m", "--to", "q8_0", env=cache)
    refused(done, 2, "gemma3-270m comes under the Gemma Terms of Use")
    assert "--accept-licence" in done.stderr
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_the_dry_run_says_what_comes_out_and_makes_nothing(
    edgebench: Any, smollm2: Path, tmp_path: Path
) -> None:
    done = edgebench("quantize", smollm2, "--to", "q8_0,q2_k,iq2_xs,onnx-int8", "--dry-run", "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["level"]: row for row in json.loads(done.stdout)}
    assert 8 < rows["q8_0"]["bits_per_weight"] < 9
    assert "180 tensors fall back" in rows["q2_k"]["notes"]
    assert "needs --calibration" in rows["iq2_xs"]["notes"]
    assert rows["onnx-int8"]["size_bytes"] > 10**8
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_model_made_elsewhere_gets_a_name(edgebench: Any, smollm2: Path, tmp_path: Path) -> None:
    cache = {"EDGEBENCH_CACHE": str(tmp_path / "cache")}
    mine = tmp_path / "theirs-Q4_1.gguf"
    mine.write_bytes(smollm2.read_bytes())
    added = edgebench("models", "add", mine, "--name", "mine", "-o", "json", env=cache)
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["level"] == "q4_1"
    listed = json.loads(edgebench("models", "list", "-o", "json", env=cache).stdout)
    assert [row["source"] for row in listed if row["name"] == "mine"] == [str(mine)]
    assert edgebench("models", "show", "mine", env=cache).returncode == 0
    with mine.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00\x01"[:1] if mine.read_bytes()[-1] else b"\x01")
    changed = edgebench("models", "show", "mine", env=cache)
    refused(changed, 1, "is no longer the file that was added as mine")
    refused(edgebench("models", "add", mine, "--name", "smollm2-135m", env=cache), 2, "edgebench ships")


def test_prefetch_names_the_pieces_it_knows(edgebench: Any) -> None:
    refused(edgebench("cache", "prefetch", "exprt"), 2, "unknown piece 'exprt'")
