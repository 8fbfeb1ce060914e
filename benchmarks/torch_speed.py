"""edgebench's torch engine against a bare loop over the same model: same weights, process and settings.

    python benchmarks/torch_speed.py

The embedded model's f32 checkpoint in the torch of the tool environment `export`, on the CPU. 24 pairs,
their order alternating: `pp128` is a prompt of 128 tokens, `tg32` are 32 tokens greedily after it, and
`generate` is both by the call that writes answers. The bare loop calls the model with transformers'
DynamicCache, asks for the last logits alone and takes their argmax. Prints the median ratio of speeds,
edgebench / bare loop, with its 95 % interval. Exits 1 when a ratio is below 0.97 and its interval does
not reach 1, or when the texts differ.
Takes about four minutes on two cores; run it on a quiet machine.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgebench.core.stats import median_of_groups
from edgebench.core.tool_env import ensure_tool
from edgebench.core.types import Settings
from edgebench.devices.local import default_threads

N_PAIRS = 24
N_PROMPT = 128
N_GEN = 32
LIMIT = 0.97

Run = tuple[list[int], list[float]]
"""The text, and the seconds of the prompt and of what follows."""


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def bare(model: Any, prompt: list[int]) -> Run:
    """What anybody would write."""
    import torch
    from transformers import DynamicCache

    ids, cache = torch.tensor([prompt]), DynamicCache()

    def step() -> int:
        nonlocal ids
        found = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids = found.logits[:, -1:].argmax(-1)
        return int(ids)

    with torch.inference_mode():
        return timed(step)


def session_calls(session: Any, prompt: list[int]) -> Run:
    """The same by the calls of the session loop."""
    tokens = prompt
    session.reset()

    def step() -> int:
        nonlocal tokens
        session.prefill(tokens)
        tokens = [session.greedy()]
        return tokens[0]

    return timed(step)


def generate(session: Any, prompt: list[int]) -> Run:
    """The same by the call that writes answers, which tells no parts."""
    session.reset()
    begin = time.perf_counter()
    text = session.generate([prompt], n_gen=N_GEN + 1, n_cells=session.n_ctx)[0]
    return text, [time.perf_counter() - begin]


def timed(step: Callable[[], int]) -> Run:
    """The prompt's step and those after it."""
    begin = time.perf_counter()
    text = [step()]
    prefilled = time.perf_counter()
    text += [step() for _ in range(N_GEN)]
    return text, [prefilled - begin, time.perf_counter() - prefilled]


def pair(session: Any, prompt: list[int], *, bare_first: bool) -> dict[str, float]:
    """The bare loop's seconds over edgebench's, for each test; SystemExit when they write different texts."""
    runs = {
        "bare": lambda: bare(session._model, prompt),
        "session": lambda: session_calls(session, prompt),
        "generate": lambda: generate(session, prompt),
    }
    found = {name: runs[name]() for name in (runs if bare_first else reversed(runs))}
    if len({tuple(text) for text, _ in found.values()}) > 1:
        raise SystemExit("the texts differ: what was measured is not the same work")
    took = {name: seconds for name, (_, seconds) in found.items()}
    return {
        f"pp{N_PROMPT}": took["bare"][0] / took["session"][0],
        f"tg{N_GEN}": took["bare"][1] / took["session"][1],
        "generate": sum(took["bare"]) / took["generate"][0],
    }


def measure(checkpoint: Path) -> int:
    """In the engine's own environment: all pairs, the closing line, the exit code."""
    from edgebench.runners.torch_runner import Torch

    settings = Settings(n_threads=default_threads())
    with Torch().load(checkpoint, settings) as session:
        session.open(n_ctx=N_PROMPT + N_GEN + 1)
        rng = random.Random(0)
        prompt = [rng.randrange(session.n_vocab) for _ in range(N_PROMPT)]
        pair(session, prompt, bare_first=True)  # warm-up
        pairs = []
        for i in range(N_PAIRS):
            pairs.append(pair(session, prompt, bare_first=i % 2 == 0))
            shown = "; ".join(f"{name} {ratio:.3f}" for name, ratio in pairs[-1].items())
            say(f"pair {i + 1}/{N_PAIRS}: {shown}")
        facts = session.facts
    ok, parts = True, []
    for name in pairs[0]:
        ratio = median_of_groups([[found[name] for found in pairs]])
        assert ratio is not None
        assert ratio.ci_high is not None
        ok &= ratio.value >= LIMIT or ratio.ci_high >= 1
        parts.append(f"{name} {ratio.value:.3f} [{ratio.ci_low:.3f}, {ratio.ci_high:.3f}]")
    setting = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    setting += f", {facts['dtype']}, {facts['attention']}, {facts['n_threads']} threads"
    print(
        f"edgebench/bare loop ({setting}): {'; '.join(parts)}; "
        f"{N_PAIRS} pairs, limit {LIMIT}: {'within' if ok else 'OUTSIDE'} the limit"
    )
    return 0 if ok else 1


def main() -> int:
    """Make the checkpoint, and measure in the environment that has torch."""
    from edgebench.session_sources import checkpoint_of, open_source

    checkpoint = checkpoint_of(open_source("smollm2-135m", say), say)
    tool = ensure_tool("export", say)
    command = [str(tool.python), "-P", __file__, str(checkpoint)]
    return subprocess.run(command, env=tool.environment(), stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(measure(Path(sys.argv[1])) if len(sys.argv) > 1 else main())
