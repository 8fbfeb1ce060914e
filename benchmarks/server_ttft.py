"""What a server costs before the first token: llama-server on loopback against the same engine in-process.

    python benchmarks/server_ttft.py

Makes the q4_0 level of the embedded model, builds llama-server from the installed wheel's own source and
opens both engines with the same settings; then asks 24 pairs of the same chat request, the order
alternating, each with an empty cache and after a warm-up of its own. Prints the median difference of the
times to the first token with its 95 % interval. Exits 1 when the median is above 10 ms.
Takes about a minute on two cores; run it on a quiet machine.
"""

import sys

from edgebench.core import registry
from edgebench.core.engine import Session
from edgebench.core.stats import median_of_groups
from edgebench.core.types import Settings, Workload
from edgebench.devices.local import default_threads
from edgebench.runners.llama_source import tool
from edgebench.session_models import make_level, resolve
from edgebench.session_performance import Canary, measure

N_PAIRS = 24
LIMIT_S = 0.010
CHAT = Workload(n_gen=2, chat=True)


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def ttft_s(session: Session, canary: Canary, seed: int) -> float:
    """The time to the first token of one request, by the path every `edgebench run` takes."""
    messages = measure(session, CHAT, canary, seed=seed, repetitions=[0])
    (found,) = (m["ttft_s"] for m in messages if m["type"] == "trial" and m["phase"] == "measured")
    return float(found)


def main() -> int:
    """Measure, print the closing line, tell by the exit code."""
    settings = Settings(n_threads=default_threads())
    parent = resolve("smollm2-135m", say)
    path = make_level(parent, "q4_0", n_threads=settings.n_threads, progress=lambda *_: None).path
    tool("llama-server", say)
    runners = {name: registry.load("runners", name) for name in ("llama_cpp", "llama_server")}
    canary, pairs = Canary.calibrated(), []
    with (
        runners["llama_cpp"].load(path, settings) as inside,
        runners["llama_server"].load(path, settings) as server,
    ):
        for i in range(N_PAIRS):
            order = ("inside", "server") if i % 2 else ("server", "inside")
            pair = {name: ttft_s(inside if name == "inside" else server, canary, i) for name in order}
            pairs.append(pair)
            say(
                f"pair {i + 1}/{N_PAIRS}: " + " ".join(f"{name} {t * 1e3:.1f} ms" for name, t in pair.items())
            )
    found = median_of_groups([[pair["server"] - pair["inside"] for pair in pairs]])
    alone = median_of_groups([[pair["inside"] for pair in pairs]])
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert alone is not None
    fits = found.value <= LIMIT_S
    print(
        f"time to the first token, llama-server less in-process: {found.value * 1e3:.2f} ms"
        f" [{found.ci_low * 1e3:.2f}, {found.ci_high * 1e3:.2f}] of {alone.value * 1e3:.1f} ms;"
        f" {N_PAIRS} pairs, limit {LIMIT_S * 1e3:g} ms: {'within' if fits else 'OUTSIDE'} the limit"
    )
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
