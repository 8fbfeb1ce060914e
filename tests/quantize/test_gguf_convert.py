"""llama.cpp's converter as a process: the same bytes from the same files, and failures in its own words."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_file
from edgebench.quantize.gguf_convert import convert
from edgebench.quantize.gguf_file import inspect_gguf

RunInTool = Callable[[str, Mapping[str, Any]], dict[str, Any]]
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def converter(smollm2: Path) -> Path:
    """llama.cpp's own converter. (Where the embedded model is, the engine is too.)"""
    from edgebench.runners.llama_source import source_tree

    return source_tree() / "convert_hf_to_gguf.py"


@pytest.fixture(scope="module")
def small(
    smollm2_checkpoint: Path, run_python_in_tool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny Qwen3 of random weights."""
    folder = tmp_path_factory.mktemp("small")
    run_python_in_tool(Path(__file__).with_name("tiny_models.py"), "qwen3", folder, smollm2_checkpoint)
    return folder / "checkpoint"


def test_same_files_give_the_same_bytes_wherever_they_lie(
    small: Path, converter: Path, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "Another-Name-7B"
    shutil.copytree(small, elsewhere)
    (elsewhere / "README.md").write_text("---\nlicense: mit\n---\n")
    ran = tmp_path / "ran"
    (elsewhere / "modeling_qwen3.py").write_text(f"open({str(ran)!r}, 'w')")
    for name in ("config.json", "tokenizer_config.json"):
        file = elsewhere / name
        told = json.loads(file.read_text())
        told["auto_map"] = {
            "AutoConfig": "modeling_qwen3.Config",
            "AutoTokenizer": ["modeling_qwen3.Tokenizer", None],
        }
        file.write_text(json.dumps(told))
    hashes = set()
    for folder in (small, elsewhere):
        target = tmp_path / f"{folder.name}.gguf"
        job = {"script": str(converter), "checkpoint": str(folder), "outtype": "f16", "target": str(target)}
        told = run_in_tool("convert", {**job, "name": "a name"})
        assert told == {"size_bytes": target.stat().st_size, "name": "a name", "notes": []}
        hashes.add(sha256_file(target))
    assert len(hashes) == 1
    assert inspect_gguf(target).level == "f16"
    assert not ran.exists()


def test_converters_refusal_is_told_in_its_words_and_leaves_nothing(
    small: Path, converter: Path, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(small, odd)
    tokenizer = json.loads((odd / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    job = {"script": str(converter), "checkpoint": str(odd), "outtype": "f32"}
    with pytest.raises(ModelError, match="BPE pre-tokenizer was not recognized") as caught:
        run_in_tool("convert", {**job, "target": str(tmp_path / "out" / "odd.gguf")})
    assert "\n" not in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_type_the_converter_is_not_asked_for_is_refused(small: Path, tmp_path: Path) -> None:
    job = {"script": "x", "checkpoint": str(small), "outtype": "q8_0", "target": str(tmp_path / "x.gguf")}
    with pytest.raises(ModelError, match="q8_0"):
        convert(job, lambda _: None)
