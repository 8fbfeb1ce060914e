"""The torch runner on the embedded model, against transformers asked plainly and against llama.cpp."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.core import registry
from edgebench.core.errors import ModelError
from edgebench.core.types import Evidence, Format, Settings
from edgebench.quantize.gguf_quantize import quantize
from edgebench.runners.llama_cpp import LlamaCpp
from edgebench.runners.torch_runner import Torch

TEXT = "The capital of France is 1234, naïve 日本語 \t x\n\n  <|im_start|>user I'll"
"""What the probe is asked to take apart."""
PROBE = Path(__file__).with_name("probe_torch.py")
GROUPS = Path(__file__).with_name("probe_groups.py")
TOLERANCE = 1e-3
"""Largest difference of a logit or of a log-likelihood in torch; 8e-5 was seen."""
ACROSS = 2e-3
"""The same between torch and llama.cpp, both in f32."""


@pytest.fixture(scope="module")
def told(smollm2_checkpoint: Path, run_python_in_tool: Callable[..., str]) -> dict[str, Any]:
    """All the probe has to tell: one process for every test."""
    found: dict[str, Any] = json.loads(run_python_in_tool(PROBE, smollm2_checkpoint))
    return found


@pytest.fixture(scope="module")
def f32(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("levels") / "f32.gguf"
    job = {"source": str(smollm2), "target": str(path), "level": "f32", "n_threads": 1}
    quantize(job, lambda _: None)
    yield path
    path.unlink()


def test_the_runner_is_found_by_its_name_and_says_what_it_needs() -> None:
    runner = registry.load("runners", "torch")
    assert isinstance(runner, Torch)
    assert (runner.formats, runner.tool, runner.evidence) == (
        (Format.SAFETENSORS,),
        "export",
        Evidence.MEASURED,
    )
    if importlib.util.find_spec("torch") is None:
        assert "not installed" in (runner.available() or "")


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no checkpoint"):
        Torch().load(tmp_path, Settings(n_threads=1))


@pytest.mark.engine
def test_facts_say_what_was_computed_and_how(told: dict[str, Any]) -> None:
    assert told["available"] is None
    assert "torch" in told["version"]
    facts = told["facts"]
    assert (facts["n_vocab"], facts["n_ctx_train"], facts["n_params"]) == (49152, 8192, 134_515_008)
    assert (facts["compute_dtype"], facts["attention"], facts["n_threads"]) == ("float32", "eager", 1)
    assert facts["chat_template"]
    assert told["bos"] is None


@pytest.mark.engine
def test_log_likelihoods_are_those_of_the_whole_text_at_once(told: dict[str, Any]) -> None:
    for scores, oracle in zip(told["scores"], told["oracle"], strict=True):
        for score, expected in zip(scores, oracle, strict=True):
            assert score["logprob"] == pytest.approx(expected["logprob"], abs=TOLERANCE)
            assert score["is_greedy"] == expected["is_greedy"]
    assert told["scores"][1][-1] == {"logprob": 0, "is_greedy": True}  # nothing is said with certainty


@pytest.mark.engine
def test_greedy_says_what_generate_says_without_the_ends(told: dict[str, Any]) -> None:
    assert told["said"] == told["expected"]
    assert {0, 2} <= set(told["enders"])


@pytest.mark.engine
def test_logits_are_the_models_in_whatever_parts_they_are_made(told: dict[str, Any]) -> None:
    assert told["shape"] == [len(told["tokens"]) - 5, 49152]
    assert told["difference"] <= TOLERANCE
    assert told["same_bits"]
    assert told["refused"] == "the context of 128 tokens is full (129 needed)"


@pytest.mark.engine
def test_pieces_are_the_bytes_of_the_text_and_control_tokens_have_none(told: dict[str, Any]) -> None:
    text = b"".join(bytes.fromhex(piece) for piece in told["pieces"]).decode()
    assert text == TEXT.replace("<|im_start|>", "")


@pytest.mark.engine
def test_a_chat_goes_through_the_checkpoints_template(told: dict[str, Any]) -> None:
    prompt, known = told["chat"]
    assert known
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.engine
def test_torch_and_llama_cpp_agree_on_tokens_and_log_likelihoods(told: dict[str, Any], f32: Path) -> None:
    settings = Settings(n_threads=1, flash_attn="off", type_k="f32", type_v="f32")
    with LlamaCpp().load(f32, settings) as session:
        session.open(n_ctx=256, n_seq_max=8)
        assert session.tokenize(TEXT) == told["tokens"]
        group = [(context, [o for o in options if o]) for context, options in told["group"]]
        found = session.loglikelihoods(group, n_cells=0)
    largest = 0.0
    for scores, ours in zip(found, told["scores"], strict=True):
        for score, own in zip(scores, ours, strict=False):
            largest = max(largest, abs(score.logprob - own["logprob"]))
            assert score.is_greedy == own["is_greedy"]
    print(f"torch and llama.cpp: largest difference of a log-likelihood {largest:.2g}")
    assert largest <= ACROSS


@pytest.mark.engine
def test_rows_of_a_batch_and_a_kept_beginning_score_as_a_text_does_alone(
    tiny_checkpoint: Path, run_python_in_tool: Callable[..., str]
) -> None:
    found = json.loads(run_python_in_tool(GROUPS, "torch", tiny_checkpoint))
    assert max(found["difference"].values()) < 1e-4
    assert min(found["n_rows"][name] for name in ("letter", "cloze")) > 3
    assert found["n_rows"]["held_down"] <= 3
    assert found["kept_is_fresh"] == dict.fromkeys(("letter", "rotated", "cloze"), True)
    assert found["generate_is_argmax"]
    assert found["n_written"] == [6] * 7
    assert found["ended_by_token"]
    assert found["ended_by_caller"]
