"""edgebench's ONNX engines against the loops their libraries bring: same files, process and settings.

    python benchmarks/onnx_speed.py [LEVEL …]

The embedded model in the tool environment `export`, on the CPU, for each level:

* `onnx-fp32`: the plain graph through the engine `onnx`, against optimum's `ORTModelForCausalLM.generate`.
* `genai-fp32`, `genai-int4`: the engine `onnx_genai`, against onnxruntime-genai's own loop, a `Generator`
  told to generate the next token again and again.

24 rounds in an order that turns, each a prompt of 64 tokens and 48 tokens greedily after it: `session` are
the calls of the session loop, `generate` is the call that writes answers. Prints the median ratio of speeds,
edgebench / library, with its 95 % interval. Exits 1 when a ratio is below 0.97 and its interval does not
reach 1, or when the texts differ.
Takes about six minutes on two cores; run it on a quiet machine.
"""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgebench.core.paths import cache_part
from edgebench.core.stats import median_of_groups
from edgebench.core.tool_env import ensure_tool
from edgebench.core.types import Settings
from edgebench.devices.local import default_threads

LEVELS = ("onnx-fp32", "genai-fp32", "genai-int4")
N_PAIRS = 24
N_PROMPT = 64
N_GEN = 48
LIMIT = 0.97
WRITERS = ("library", "session", "generate")
ORDERS = tuple(itertools.permutations(WRITERS))
"""Each is first, second and last equally often: a warm or throttled machine favours nobody."""

Writer = Callable[[], list[int]]


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def optimum(session: Any, folder: Path, prompt: list[int]) -> Writer:
    """transformers' generate over the session's own graph, as optimum wraps it."""
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoConfig, GenerationConfig

    model = ORTModelForCausalLM(
        config=AutoConfig.from_pretrained(folder, local_files_only=True),
        session=session._session,
        generation_config=GenerationConfig(eos_token_id=list(session._enders), pad_token_id=0),
    )
    ids = torch.tensor([prompt])

    def write() -> list[int]:
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=N_GEN,
            max_new_tokens=N_GEN,
        )
        text: list[int] = found[0, N_PROMPT:].tolist()
        return text

    return write


def library_loop(session: Any, _: Path, prompt: list[int]) -> Writer:
    """onnxruntime-genai's own loop over the session's model; what it needs is made before it is timed."""
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(session._model)
    n_all = N_PROMPT + N_GEN
    params.set_search_options(max_length=n_all, min_length=n_all, do_sample=False)
    generator, tokens = og.Generator(session._model, params), np.array(prompt, np.int32)

    def write() -> list[int]:
        generator.rewind_to(0)
        generator.append_tokens(tokens)
        for _ in range(N_GEN):
            generator.generate_next_token()
        text: list[int] = generator.get_sequence(0)[N_PROMPT:].tolist()
        return text

    return write


def session_calls(session: Any, prompt: list[int]) -> list[int]:
    """The same by the calls of the session loop."""
    session.reset()
    session.prefill(prompt)
    text = [session.greedy()]
    while len(text) < N_GEN:
        session.prefill(text[-1:])
        text.append(session.greedy())
    return text


def timed(write: Writer) -> tuple[float, list[int]]:
    """How long a text takes, and the text."""
    begin = time.perf_counter()
    text = write()
    return time.perf_counter() - begin, text


def pair(writers: dict[str, Writer], order: tuple[str, ...]) -> dict[str, float]:
    """The library's seconds over edgebench's; SystemExit when they write different texts."""
    found = {name: timed(writers[name]) for name in order}
    if len({tuple(text) for _, text in found.values()}) > 1:
        raise SystemExit("the texts differ: what was measured is not the same work")
    return {name: found["library"][0] / found[name][0] for name in WRITERS[1:]}


def measure(level: str, folder: Path) -> int:
    """In the engines' own environment: all pairs of a level, its closing line, the exit code."""
    from edgebench.runners.onnx import Onnx
    from edgebench.runners.onnx_genai import OnnxGenai

    plain = level.startswith("onnx-")
    runner: Any = Onnx() if plain else OnnxGenai()
    with runner.load(folder, Settings(n_threads=default_threads())) as session:
        session.open(n_ctx=N_PROMPT + N_GEN)
        rng = random.Random(0)
        prompt = [rng.randrange(session.n_vocab) for _ in range(N_PROMPT)]
        writers: dict[str, Writer] = {
            "library": (optimum if plain else library_loop)(session, folder, prompt),
            "session": lambda: session_calls(session, prompt),
            "generate": lambda: session.generate([prompt], n_gen=N_GEN, n_cells=0)[0],
        }
        pair(writers, WRITERS)  # warm-up
        pairs = []
        for i in range(N_PAIRS):
            pairs.append(pair(writers, ORDERS[i % len(ORDERS)]))
            shown = "; ".join(f"{name} {ratio:.3f}" for name, ratio in pairs[-1].items())
            say(f"{level}, pair {i + 1}/{N_PAIRS}: {shown}")
        facts = session.facts
    ok, parts = True, []
    for name in pairs[0]:
        ratio = median_of_groups([[found[name] for found in pairs]])
        assert ratio is not None
        assert ratio.ci_high is not None
        ok &= ratio.value >= LIMIT or ratio.ci_high >= 1
        parts.append(f"{name} {ratio.value:.3f} [{ratio.ci_low:.3f}, {ratio.ci_high:.3f}]")
    setting = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(
        f"{level}: edgebench {runner.name}/{'optimum' if plain else 'its own loop'} ({setting},"
        f" {facts['n_threads']} threads): {'; '.join(parts)}; {N_PAIRS} pairs, limit {LIMIT}:"
        f" {'within' if ok else 'OUTSIDE'} the limit"
    )
    return 0 if ok else 1


def main(levels: list[str]) -> int:
    """Make the folders, and measure each in the environment that has the engines."""
    from edgebench.session_quantize import quantizer_of
    from edgebench.session_sources import checkpoint_of, open_source
    from edgebench.session_tools import make_with

    source = open_source("smollm2-135m", say)
    checkpoint, tool, worst = checkpoint_of(source, say), ensure_tool("export", say), 0
    for level in levels or LEVELS:
        folder = cache_part("artifacts") / source.sha256[:16] / f"{source.model}-{level}"
        if not folder.exists():
            say(f"making {level}")
            job = {"checkpoint": str(checkpoint), "target": str(folder), "level": level}
            job["n_threads"] = default_threads()
            make_with(quantizer_of(level), job, say, lambda _: None)
        command = [str(tool.python), "-P", __file__, level, str(folder)]
        done = subprocess.run(command, env=tool.environment(), stdin=subprocess.DEVNULL, check=False)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    inside = len(sys.argv) == 3 and Path(sys.argv[2]).is_dir()
    sys.exit(measure(sys.argv[1], Path(sys.argv[2])) if inside else main(sys.argv[1:]))
