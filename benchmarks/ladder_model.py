"""The model that ladders are tested on: SmolLM2-135M's real weights, widened and dithered.

    python benchmarks/ladder_model.py

No tensor of it falls back to another type when it is quantized, and its weights lie on no grid: what its
levels cost is what the quantizer costs (see `edgebench.quantize.widen`). Makes, once, in the cache:

    models/ladder-192m/checkpoint/            f32 safetensors, tokenizer, chat template
    models/ladder-192m/ladder-192m-f32.gguf   765 MB
    models/ladder-192m/ladder-192m-f16.gguf   383 MB

and prints the paths of the two files. Takes about a minute on two cores, and 2 GB of disk.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from edgebench.core.errors import EdgebenchError
from edgebench.core.paths import cache_part, exclusive
from edgebench.runners.llama_source import source_tree
from edgebench.session_models import resolve
from edgebench.session_sources import checkpoint_of
from edgebench.session_tools import call_tool

NAME, PARENT, WIDTH, SEED = "ladder-192m", "smollm2-135m", 768, 0
OUTTYPES = ("f32", "f16")


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def ladder_model(say: Callable[[str], None] = say) -> dict[str, Path]:
    """`checkpoint`, `f32` and `f16` -> where they are; what is missing is made."""
    folder = cache_part("models") / NAME
    paths = {"checkpoint": folder / "checkpoint", **{t: folder / f"{NAME}-{t}.gguf" for t in OUTTYPES}}
    with exclusive(folder, say):
        if not paths["checkpoint"].exists():
            parent = checkpoint_of(resolve(PARENT, say), say)
            say(f"widening {PARENT} to {WIDTH}")
            job = {"checkpoint": str(parent), "target": str(paths["checkpoint"])}
            call_tool("widen", {**job, "width": WIDTH, "dither": True, "seed": SEED}, say)
        for outtype in OUTTYPES:
            if not paths[outtype].exists():
                say(f"converting {NAME} to {outtype}")
                job = {"checkpoint": str(paths["checkpoint"]), "target": str(paths[outtype])}
                script = str(source_tree(say) / "convert_hf_to_gguf.py")
                call_tool("convert", {**job, "script": script, "outtype": outtype, "name": NAME}, say)
    return paths


def main() -> int:
    """Make what is missing and say where it is."""
    try:
        paths = ladder_model()
    except EdgebenchError as error:
        say(f"error: {error.message}")
        say(f"hint: {error.hint}")
        return error.exit_code
    for outtype in OUTTYPES:
        print(paths[outtype])
    return 0


if __name__ == "__main__":
    sys.exit(main())
