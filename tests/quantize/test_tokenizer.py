"""The nasty texts, and a tokenizer rebuilt from a GGUF: llama.cpp's ids are the checkpoint's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import ModelError
from edgebench.core.types import Settings
from edgebench.quantize.tokenizer import NASTY_TEXTS, rebuild

RunInTool = Callable[[str, Mapping[str, Any]], dict[str, Any]]


def test_nasty_texts_are_as_nasty_as_they_say() -> None:
    together = "".join(NASTY_TEXTS)
    assert len(set(NASTY_TEXTS)) == len(NASTY_TEXTS)
    for needed in (
        "\u200d",
        "\u0301",
        "\t\t",
        "\n\n\n",
        "  ",
        "'ll",
        "<|im_start|>",
        "<bos>",
        "ب",
        "漢",
        "\x01",
    ):
        assert needed in together
    assert all(text.encode().decode() == text for text in NASTY_TEXTS)


@pytest.mark.engine
def test_rebuilt_tokenizer_gives_llama_cpps_ids(
    smollm2: Path, smollm2_checkpoint: Path, run_in_tool: RunInTool
) -> None:
    from edgebench.runners.llama_cpp import LlamaCpp

    job = {"checkpoint": str(smollm2_checkpoint), "texts": list(NASTY_TEXTS)}
    ids = run_in_tool("tokenize", job)["ids"]
    assert ids[0] == [504, 3575, 282, 4649, 314, 216, 33, 34, 35, 36]
    with LlamaCpp().load(smollm2, Settings(n_threads=1)) as session:
        assert ids == [session.tokenize(text) for text in NASTY_TEXTS]


@pytest.mark.engine
def test_checkpoint_whose_tokenizer_can_not_be_opened_is_refused(
    smollm2_checkpoint: Path, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((smollm2_checkpoint / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer of .* can't be opened: .") as caught:
        run_in_tool("tokenize", {"checkpoint": str(tmp_path), "texts": ["a"]})
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("architecture", "kind", "pre"),
    [
        ("qwen2", "gpt2", "qwen2"),
        ("llama", "gpt2", "llama-bpe"),
        ("llama", "gpt2", None),
        ("llama", "llama", "default"),  # sentencepiece, but not Gemma's
        ("bert", "bert", "default"),
        ("llama", None, None),
    ],
)
def test_tokenizer_of_another_kind_is_refused_not_guessed(
    architecture: str, kind: str | None, pre: str | None, tmp_path: Path
) -> None:
    told = {"general.architecture": architecture, "tokenizer.ggml.model": kind, "tokenizer.ggml.pre": pre}
    with pytest.raises(ModelError, match="can't be rebuilt") as caught:
        rebuild({key: value for key, value in told.items() if value}, tmp_path, n_ctx=512)
    assert "smollm" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []
