"""Real peft adapters with random weights, for tests. Run by the tool environment's interpreter:

python make_adapter.py BASE OUT lora|rslora|dora [MODULE,…]   an adapter of the checkpoint BASE
python make_adapter.py BASE OUT tiny                          a tiny random Llama with BASE's tokenizer
python make_adapter.py MODEL OUT.npy logits [ADAPTER]         what MODEL (with ADAPTER) says to TOKENS
python make_adapter.py BASE ADAPTER compare MERGED            how far those are apart, as JSON
"""

import json
import sys
from pathlib import Path
from typing import Any

TOKENS = [1, 504, 3575, 282, 4649, 314, 216, 33, 34, 35, 36, 30, 198, 504, 1250, 359]
MODULES = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
SHARE = 0.05
"""Share of a weight's norm that an rsLoRA adds, twice a LoRA's: seen in every logit, and language stays."""


def make_adapter(base: str, out: str, kind: str, modules: str = MODULES) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=modules.split(","),
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    weights = dict(adapted.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_B" in name or "lora_embedding_A" in name:  # peft begins these with zeros
                other = weights[name.replace("lora_B", "lora_A").replace("embedding_A", "embedding_B")]
                layer = adapted.get_submodule(name.split(".lora_")[0]).get_base_layer().weight
                weight.normal_()
                added = 8 / 4**0.5 * weight.norm() * other.norm() / 4**0.5  # scaling · ‖B‖ · ‖A‖ / √r
                weight *= SHARE * layer.norm() / added
            elif "lora_magnitude_vector" in name:
                weight *= 1 + 0.05 * (torch.rand_like(weight) - 0.5)
    adapted.save_pretrained(out)


def make_tiny(base: str, out: str) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def logits(model: str, adapter: str | None = None, dtype: str = "float32") -> Any:
    """The logits after each of TOKENS."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    if adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, adapter).to(getattr(torch, dtype))
    with torch.inference_mode():
        return loaded.eval()(input_ids=torch.tensor([TOKENS])).logits[0].numpy()


def compare(base: str, adapter: str, merged: str) -> None:
    """How much the adapter changes the base, and how far the merged checkpoint is from the adapter model.

    Both are computed in f64, which leaves what merging rounded, and in f32, which adds its own rounding.
    """
    plain, adapted, found = (logits(*what) for what in ((base,), (base, adapter), (merged,)))
    exact = abs(logits(base, adapter, "float64") - logits(merged, None, "float64"))
    told = {
        "change": float(abs(adapted - plain).max()),
        "difference": float(exact.max()),
        "difference_f32": float(abs(adapted - found).max()),
    }
    print(json.dumps(told))


def main() -> None:
    source, out, what, *rest = sys.argv[1:]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "tiny":
            make_tiny(source, out)
        case "logits":
            import numpy as np

            np.save(out, logits(source, *rest))
        case "compare":
            compare(source, out, *rest)
        case _:
            make_adapter(source, out, what, *rest)


if __name__ == "__main__":
    main()
