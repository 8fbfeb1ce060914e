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
from edgebench.runners.torch_model import QUANTIZED
from edgebench.runners.torch_runner import Torch

TEXT = "The capital of France is 1234, naïve 日本語 \t x\n\n  <|im_start|>user I'll"
"""What the probe is asked to take apart."""
PROBE = Path(__file__).with_name("probe_torch.py")
GROUPS = Path(__file__).with_name("probe_groups.py")
TOLERANCE = 1e-3
"""Largest difference of a logit or of a log-likelihood in torch; 8e-5 was seen."""
ACROSS = 1e-3
"""The same between torch and llama.cpp, both in f32; 1e-5 was seen."""


@pytest.fixture(scope="module")
def probed(
    smollm2_checkpoint: Path, tiny_checkpoint: Path, run_python_in_tool: Callable[..., str]
) -> dict[str, Any]:
    """All the probe has to tell: one process for every test."""
    found: dict[str, Any] = json.loads(run_python_in_tool(PROBE, smollm2_checkpoint, tiny_checkpoint))
    return found


@pytest.fixture(scope="module")
def told(probed: dict[str, Any]) -> dict[str, Any]:
    """Of the embedded model, as other formats are compared with it."""
    found: dict[str, Any] = probed["yardstick"]
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
    assert facts["n_params_by_type"] == {"float32": 134_515_008}
    assert (facts["dtype"], facts["compute_dtype"], facts["cache_dtype"]) == ("f32", "float32", "float32")
    assert (facts["attention"], facts["device"], facts["matmul_precision"]) == ("eager", "cpu", "highest")
    assert (facts["n_threads"], facts["n_interop_threads"]) == (1, 1)
    assert not facts["cuda_graph"]
    assert facts["why_no_cuda_graph"] == "only on NVIDIA GPUs"
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
    assert told["refused"]["message"] == "the context of 128 tokens is full (129 needed)"


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


@pytest.mark.engine
@pytest.mark.parametrize(("level", "kept"), [("f32", "float32"), ("bf16", "bfloat16"), ("f16", "float16")])
def test_weights_are_kept_in_the_type_asked_for(probed: dict[str, Any], level: str, kept: str) -> None:
    found, f32 = (probed["levels"][name] for name in (level, "f32"))
    facts = found["facts"]
    assert facts["n_params_by_type"] == {kept: facts["n_params"]}
    assert (facts["dtype"], facts["compute_dtype"], facts["cache_dtype"]) == (level, kept, kept)
    assert facts["attention"] == "sdpa"  # as `-fa` is by default
    assert found["kv_cache_bytes"] * 4 == f32["kv_cache_bytes"] * (4 if level == "f32" else 2)
    pairs = list(zip(logprobs(found), logprobs(f32), strict=True))
    assert max(abs(a - b) for a, b in pairs) < 0.1
    assert any(a != b for a, b in pairs) == (level != "f32")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("level", "kept"), [("bnb-int8", "int8"), ("bnb-nf4", "nf4"), ("torchao-int8", "Int8Tensor")]
)
def test_layers_are_quantized_on_load_where_the_library_is(
    probed: dict[str, Any], level: str, kept: str
) -> None:
    if level not in probed["levels"]:
        pytest.skip(f"the tool environment `export` has no {QUANTIZED[level][0]}, which {level} needs")
    found, f32 = (probed["levels"][name] for name in (level, "f32"))
    by_type = found["facts"]["n_params_by_type"]
    assert by_type.keys() == {kept, "bfloat16"}
    assert sum(by_type.values()) == f32["facts"]["n_params"]  # packed ones are counted one by one
    assert found["facts"]["versions"].keys() == {"torch", "transformers", QUANTIZED[level][0]}
    pairs = list(zip(logprobs(found), logprobs(f32), strict=True))
    assert 0 < max(abs(a - b) for a, b in pairs) < 0.1 * max(abs(b) for _, b in pairs)


@pytest.mark.engine
@pytest.mark.parametrize("model", ["sdpa", "eager", "window"])
def test_a_fixed_cache_gives_the_logits_of_a_growing_one(probed: dict[str, Any], model: str) -> None:
    found = probed["texts"][model]
    assert found["largest"] < 1e-4 < found["spread"]
    grown, fixed = found["n_bytes"]
    assert grown * 40 == fixed * 31  # one holds the text, the other the context


@pytest.mark.engine
def test_a_fixed_cache_that_changes_what_a_model_says_is_not_used(probed: dict[str, Any]) -> None:
    assert probed["texts"]["why_not"] == {
        "none": None,
        "raises": "no such kernel",
        "other": "it changes the logits",
    }


@pytest.mark.engine
def test_a_session_writes_the_same_over_a_fixed_cache(probed: dict[str, Any]) -> None:
    fixed, growing = probed["fixed"], probed["growing"]
    assert fixed["said"] == growing["said"]
    assert growing["said"][:6] == growing["said"][6:]  # the second text began anew
    assert len(set(growing["said"])) > 1
    assert growing["kv_cache_bytes"] * 40 == fixed["kv_cache_bytes"] * 28
    for session in (fixed, growing):
        assert session["full"]["message"] == "the context of 40 tokens is full (48 needed)"
        assert session["empty"]["message"] == "nothing was evaluated yet: there is no next token"


@pytest.mark.engine
def test_what_the_engine_does_not_know_is_refused(probed: dict[str, Any]) -> None:
    refused = probed["refused"]
    assert {told["error"] for told in refused.values()} == {"UsageError"}
    assert "'fp8'" in refused["dtype"]["message"]
    assert "'coreml'" in refused["provider"]["message"]
    assert "--provider cuda instead of -ngl" in refused["layers"]["hint"]


def logprobs(found: dict[str, Any]) -> list[float]:
    return [score["logprob"] for row in found["scores"] for score in row]
