"""edgebench's check against llama-perplexity: the same files, text, library and settings.

    python benchmarks/perplexity_parity.py [--model FILE] [--levels q8_0,q4_k_m,q2_k] [--chunks N]

Takes an f32 or f16 GGUF file (by default the widened model, which is built when it is not in the cache),
makes three levels of it, and checks them as `edgebench quantize` does. llama-perplexity, built from the
installed wheel's own source, then writes the base's log-probabilities and runs `--kl-divergence` on the
same levels. Prints perplexity and mean KL divergence of both and how far apart they are; exits 1 when a
figure differs by more than 1 %. The two share the engine, but neither tokens, chunks nor statistics.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ladder_model import ladder_model  # the script beside this one

from edgebench.core.types import Artifact
from edgebench.devices.local import default_threads
from edgebench.quantize.gguf_quantize import quantize
from edgebench.quantize.manifest import describe
from edgebench.results.damage import damages
from edgebench.results.store import Store
from edgebench.runners.llama_source import tool
from edgebench.session_check import check_ladder
from edgebench.session_check_scene import CheckRequest, heldout_text

LIMIT = 0.01
N_CTX = 512
LEVELS = "q8_0,q4_k_m,q2_k"
PPL = re.compile(r"Mean PPL\(Q\)\s*:\s*([0-9.]+)")
KLD = re.compile(r"Mean\s+KLD:\s*(-?[0-9.]+)")


class Terminal:
    """Tells stderr how it goes."""

    def say(self, line: str) -> None:
        """A line for people."""
        print(line, file=sys.stderr, flush=True)

    def stage(self, title: str, n_steps: int) -> None:
        """A part of the work begins."""
        self.say(f"{title}: {n_steps} steps")

    def step(self, note: str, n_steps: int = 1) -> None:
        """Some of it is done: not worth a line."""


def ours(
    reference: Artifact, levels: list[Artifact], folder: Path, request: CheckRequest
) -> dict[str, tuple[float, float]]:
    """Level -> perplexity and mean KL divergence, by the path every `edgebench quantize` takes."""
    with Store.open(folder / "parity.sqlite") as store:
        for artifact in (reference, *levels):
            store.add_artifact(artifact, {})
        failures = check_ladder(reference, levels, store, Terminal(), request)
        if failures:
            sys.exit("; ".join(failures))
        return {
            damage.artifact_id: (damage.ppl or 0.0, damage.kld_mean.value if damage.kld_mean else 0.0)
            for damage in damages(store)
        }


def theirs(
    reference: Path, levels: list[Path], folder: Path, request: CheckRequest
) -> list[tuple[float, float]]:
    """The same from llama-perplexity's closing lines."""
    program = str(tool("llama-perplexity", Terminal().say))
    text, base = folder / "text.txt", folder / "base.kld"
    text.write_text(heldout_text(), encoding="utf-8")
    common = ["-t", str(request.n_threads), "-c", str(N_CTX), "-b", str(N_CTX), "-ub", str(N_CTX)]
    common += ["-fa", "off", "-ctk", "f32", "-ctv", "f32", "--kl-divergence-base", str(base)]
    if request.n_chunks:
        common += ["--chunks", str(request.n_chunks)]
    _run([program, "-m", str(reference), "-f", str(text), *common])
    found = []
    for level in levels:
        said = _run([program, "-m", str(level), *common, "--kl-divergence"])
        ppl, kld = PPL.search(said), KLD.search(said)
        if ppl is None or kld is None:
            sys.exit(f"llama-perplexity gave no closing figures for {level.name}:\n{said[-2000:]}")
        found.append((float(ppl[1]), float(kld[1])))
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr


def main() -> int:
    """Measure with both, print, tell by the exit code."""
    parser = argparse.ArgumentParser(description="edgebench's damage figures against llama-perplexity's")
    parser.add_argument("--model", type=Path, help="an f32 or f16 GGUF file")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--chunks", type=int, help=f"chunks of {N_CTX} tokens; all of the text by default")
    parser.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args()
    model = options.model or ladder_model()["f32"]
    # Questions and prompts have no counterpart in llama-perplexity.
    request = CheckRequest(
        n_threads=options.threads,
        n_chunks=options.chunks,
        n_ctx=N_CTX,
        n_prompts=1,
        n_greedy=2,
        n_questions=1,
    )
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=".part-parity-") as name:
        folder = Path(name)
        paths = [folder / f"model-{level}.gguf" for level in options.levels.split(",")]
        for level, path in zip(options.levels.split(","), paths, strict=True):
            job = {"source": str(model), "target": str(path), "level": level, "n_threads": options.threads}
            quantize(job, lambda _: None)
        artifacts = [describe(path, model="model") for path in paths]
        found = ours(describe(model, model="model"), artifacts, folder, request)
        expected = theirs(model, paths, folder, request)
    ok = True
    for artifact, (ppl, kld) in zip(artifacts, expected, strict=True):
        our_ppl, our_kld = found[artifact.sha256]
        apart = abs(our_ppl / ppl - 1), abs(our_kld / kld - 1)
        ok &= max(apart) <= LIMIT
        print(
            f"{artifact.quant.name:8} PPL {our_ppl:.4f} (llama-perplexity {ppl:.4f}, {apart[0]:.3%} apart), "
            f"mean KLD {our_kld:.6f} ({kld:.6f}, {apart[1]:.3%} apart)"
        )
    print(f"limit {LIMIT:.0%}: {'within' if ok else 'OUTSIDE'} the limit")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
