"""Merging adapters: real ones of peft on a tiny model and on SmolLM2, and those that must be refused."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import EdgebenchError, ModelError
from edgebench.quantize.adapter import merge, read_adapter
from edgebench.quantize.checkpoint import read_checkpoint

TOLERANCE = 1e-4
"""Largest difference of a logit between the merged checkpoint and the adapter model, both in torch.

Computed in f64, where what is left is what merging did: SmolLM2's own logits in f32 are 9e-5 from those
in f64, so that two f32 computations of one function can differ by more than the tolerance.
"""
SEEN = 0.1
"""An adapter that moves no logit by more than this would prove nothing."""
KINDS = ("lora", "rslora", "dora")
SCRIPT = Path(__file__).with_name("make_adapter.py")

RunInTool = Callable[[str, Mapping[str, Any]], dict[str, Any]]
RunPython = Callable[..., str]


@dataclass(frozen=True)
class Merged:
    """A base, an adapter of it, and what merging made and said."""

    base: Path
    adapter: Path
    folder: Path
    result: dict[str, Any]
    change: float
    difference: float
    difference_f32: float


@pytest.fixture(scope="module")
def tiny(
    smollm2_checkpoint: Path, run_python_in_tool: RunPython, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two small layers of random weights; embedding and output head are one tensor."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    run_python_in_tool(SCRIPT, smollm2_checkpoint, folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def merged(
    run_in_tool: RunInTool, run_python_in_tool: RunPython, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Merged]:
    """`merged(base, kind, [modules])`: a fresh adapter of the base, merged and compared."""

    def make(base: Path, kind: str, *modules: str) -> Merged:
        folder = tmp_path_factory.mktemp(kind)
        adapter, target = folder / "adapter", folder / "merged"
        run_python_in_tool(SCRIPT, base, adapter, kind, *modules)
        job = {"checkpoint": str(base), "adapter": str(adapter), "target": str(target)}
        result = run_in_tool("merge", job)
        told = json.loads(run_python_in_tool(SCRIPT, base, adapter, "compare", target))
        print(f"{base.name} {kind}: changes logits by up to {told['change']:.3g}, ", end="")
        print(f"merged differs by up to {told['difference']:.2g} ({told['difference_f32']:.2g} in f32)")
        return Merged(base=base, adapter=adapter, folder=target, result=result, **told)

    return make


@pytest.mark.engine
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_tiny_model_says_what_the_adapter_model_says(
    kind: str, tiny: Path, merged: Callable[..., Merged]
) -> None:
    made = merged(tiny, kind)
    assert made.change > SEEN
    assert max(made.difference, made.difference_f32) <= TOLERANCE
    assert (made.result["kind"], made.result["rank"], made.result["alpha"]) == (kind, 4, 8)
    assert made.result["n_merged"] == 2 * 7
    assert made.result["base_named"] == str(tiny)
    assert not made.result["warnings"]
    base, found = read_checkpoint(tiny), read_checkpoint(made.folder)
    assert (found.dtype, found.n_params) == (base.dtype, base.n_params)
    assert found.chat_template_sha256 == base.chat_template_sha256
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (made.folder / name).read_bytes() == (tiny / name).read_bytes()


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora"])  # the one whose merge is not a plain sum
def test_a_merged_smollm2_says_what_the_adapter_model_says(
    kind: str, smollm2_checkpoint: Path, merged: Callable[..., Merged]
) -> None:
    made = merged(smollm2_checkpoint, kind)
    assert made.change > SEEN
    assert made.difference <= TOLERANCE
    assert made.result["n_merged"] == 30 * 7


@pytest.mark.engine
def test_an_adapter_of_the_vocabulary_parts_embedding_and_head(
    tiny: Path, merged: Callable[..., Merged]
) -> None:
    made = merged(tiny, "lora", "embed_tokens,lm_head,q_proj")
    assert made.change > SEEN
    assert made.difference <= TOLERANCE
    assert made.result["untied"]
    assert json.loads((made.folder / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.engine
def test_half_precision_stays_half_precision(
    tiny: Path, run_python_in_tool: RunPython, run_in_tool: RunInTool, tmp_path: Path
) -> None:
    script = tmp_path / "narrow.py"
    script.write_text(
        "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)\n"
        "model.save_pretrained(sys.argv[2])\n"
    )
    run_python_in_tool(script, tiny, tmp_path / "bf16")
    run_python_in_tool(SCRIPT, tiny, tmp_path / "adapter", "dora")
    job = {"checkpoint": "bf16", "adapter": "adapter", "target": "merged", "base_name": "org/Another"}
    result = run_in_tool("merge", {k: v if "/" in v else str(tmp_path / v) for k, v in job.items()})
    assert read_checkpoint(tmp_path / "merged").dtype == "bf16"
    assert "the checkpoint is org/Another" in result["warnings"][0]


# What follows is refused before any weight is read: no tool environment is needed.

BASE = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
}
UP = "base_model.model.model.layers.0.mlp.up_proj"
FITTING = {f"{UP}.lora_A.weight": (2, 8), f"{UP}.lora_B.weight": (16, 2)}
PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none"}

Shapes = Mapping[str, tuple[int, ...]]
Try = Callable[..., None]


def write_safetensors(path: Path, shapes: Shapes) -> None:
    """Zeros in f32, as the format has them: length, head, bytes."""
    head, at = {}, 0
    for name, shape in shapes.items():
        n_bytes = 4
        for n in shape:
            n_bytes *= n
        head[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    raw = json.dumps(head).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(at))


def write_adapter(folder: Path, shapes: Shapes = FITTING, **more: Any) -> Path:
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", shapes)
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **more}))
    return folder


@pytest.fixture
def attempt(tmp_path: Path) -> Try:
    """Merges an adapter into a checkpoint that would fit the plain one; nothing may be left behind."""
    base = tmp_path / "base"
    base.mkdir()
    write_safetensors(base / "model.safetensors", BASE)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    (base / "config.json").write_text(json.dumps({**config, "_name_or_path": "org/base"}))
    (base / "tokenizer.json").write_text("{}")

    def call(adapter: Path) -> None:
        before = sorted(tmp_path.rglob("*"))
        try:
            job = {"checkpoint": str(base), "adapter": str(adapter), "target": str(tmp_path / "merged")}
            merge(job, lambda _: None)
        finally:
            assert sorted(tmp_path.rglob("*")) == before

    return call


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (
            {f"{UP}.lora_A.weight": (2, 6), f"{UP}.lora_B.weight": (16, 2)},
            r"its model\.layers\.0\.mlp\.up_proj is 16x6 \(rank 2\), the checkpoint's is 16x8",
        ),
        (
            {f"{UP}.lora_A.weight": (2, 8), f"{UP}.lora_B.weight": (16, 3)},
            r"its model\.layers\.0\.mlp\.up_proj is 16x8 \(rank 2\)",
        ),
        (
            {name.replace("layers.0", "layers.7"): shape for name, shape in FITTING.items()},
            r"it changes model\.layers\.7\.mlp\.up_proj, which the checkpoint does not have",
        ),
        ({**FITTING, f"{UP}.lora_magnitude_vector": (8,)}, r"up_proj has 8 magnitudes, not 16"),
        (
            {**FITTING, "base_model.model.lm_head.weight": (40, 8)},
            r"it replaces lm_head\.weight \(40x8\), which the checkpoint has as 32x8",
        ),
    ],
)
def test_an_adapter_of_another_base_is_told_by_names_and_shapes(
    shapes: Shapes, told: str, attempt: Try, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", shapes, base_model_name_or_path="org/other")
    with pytest.raises(ModelError, match=f"adapter is for another base: .*{told}") as raised:
        attempt(adapter)
    assert raised.value.hint == "the adapter names org/other as its base"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'"),
        ({"peft_type": "PREFIX_TUNING"}, "an adapter of type 'PREFIX_TUNING'"),
        ({"task_type": "SEQ_CLS"}, "for the task 'SEQ_CLS'"),
        ({"bias": "all"}, "uses bias, which edgebench can't merge"),
        ({"trainable_token_indices": [1]}, "uses trainable_token_indices"),
        ({"alora_invocation_tokens": [1, 2]}, "uses alora_invocation_tokens"),
        ({"of_next_year": True}, "uses of_next_year"),
        ({"init_lora_weights": "pissa"}, "trained on a base that 'pissa' had changed"),
    ],
)
def test_what_merging_would_get_wrong_is_refused_by_name(
    config: dict[str, Any], told: str, attempt: Try, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told) as raised:
        attempt(write_adapter(tmp_path / "adapter", **config))
    assert raised.value.hint


def test_a_pickled_adapter_is_refused(attempt: Try, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights only \(adapter_model\.bin\)"):
        attempt(adapter)


def test_a_damaged_adapter_is_told(attempt: Try, tmp_path: Path) -> None:
    weights = write_adapter(tmp_path / "adapter") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelError, match="is damaged or cut short"):
        attempt(weights.parent)
    half = write_adapter(tmp_path / "half", {f"{UP}.lora_A.weight": (2, 8)})
    with pytest.raises(ModelError, match="up_proj has only A"):
        attempt(half)
    (half / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match="is not a JSON object"):
        attempt(half)


def test_a_folder_that_is_no_adapter_is_told(attempt: Try, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(EdgebenchError, match=r"is no adapter: it has no adapter_config\.json"):
        attempt(tmp_path / "nothing")


def test_the_hash_is_of_the_configuration_and_the_weights(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    before = read_adapter(adapter)
    (adapter / "README.md").write_text("a card changes nothing")
    names = ("adapter_config.json", "adapter_model.safetensors")
    told = [[name, hashlib.sha256((adapter / name).read_bytes()).hexdigest()] for name in names]
    expected = hashlib.sha256(json.dumps(told, separators=(",", ":")).encode()).hexdigest()
    assert read_adapter(adapter).sha256 == before.sha256 == expected
    assert before.kind == "lora"
