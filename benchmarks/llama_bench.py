"""edgebench against llama-bench: the same file, library and settings, in one sitting.

    python benchmarks/llama_bench.py

Makes the q4_0 level of the embedded model and builds llama-bench from the installed wheel's own source,
then takes 24 rounds of three fresh processes: edgebench, llama-bench, llama-bench once more, in an order
that turns. For pp512 and tg128 it prints the median ratio edgebench / llama-bench, and llama-bench
against itself with its 95 % interval. Exits 1 when a ratio is below 0.97 and outside that interval, or
when the harness itself takes more than 2 % of a timed window.
One core is left to the rest of the computer: engines wait for their slowest thread at every step, and with
all cores in use the comparison is one of neighbours. Takes about a quarter of an hour; run it on a quiet
machine.
"""

import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

from edgebench.core.stats import Estimate, median_of_groups
from edgebench.core.types import Settings, Workload
from edgebench.devices.local import default_threads
from edgebench.devices.state import StateReader
from edgebench.runners.llama_source import tool
from edgebench.session_child import Child
from edgebench.session_energy import open_metering
from edgebench.session_models import make_level, resolve
from edgebench.session_recorder import Recorder

N_ROUNDS = 24
N_REPETITIONS = 2
LIMIT = 0.97
TESTS = (Workload(n_prompt=512), Workload(n_gen=128))
ORDERS = tuple(itertools.permutations(("ours", "theirs", "again")))
"""Each is first, second and last equally often: a warm or throttled machine favours nobody."""

Rates = dict[str, float]
OVERHEADS: list[float] = []
"""Of each repetition's timed seconds, the share outside the engine's calls."""
MOST_OVERHEAD = 0.02


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def ours(model: Path, settings: Settings, seed: int) -> Rates:
    """Median tokens per second of each test, by the path every `edgebench run` takes."""
    job = {
        "kind": "performance",
        "runner": "llama_cpp",
        "path": str(model),
        "settings": asdict(settings),
        "workloads": [
            {"workload": asdict(test), "repetitions": list(range(N_REPETITIONS)), "seed": seed}
            for test in TESTS
        ],
    }
    rates: dict[str, list[float]] = {test.name: [] for test in TESTS}
    metering = open_metering("auto", on_gpu=False)
    with Recorder(metering.meters, StateReader()) as recorder, Child(job) as child:
        recorder.follow(child.pid)
        for message in child.messages():
            if message["type"] == "trial" and message["phase"] == "measured":
                n_tokens = message["n_prompt"] + message["n_gen"]
                rates[message["test"]].append(n_tokens / message["total_s"])
                OVERHEADS.append(1 - message["engine_s"] / message["total_s"])
    metering.close()
    return {name: median(values) for name, values in rates.items()}


def theirs(bench: Path, model: Path, settings: Settings) -> Rates:
    """The same from llama-bench, recomputed from its samples."""
    command = [str(bench), "-m", str(model), "-p", "512", "-n", "128", "-r", str(N_REPETITIONS), "-o", "json"]
    command += ["-t", str(settings.n_threads), "-b", str(settings.n_batch), "-ub", str(settings.n_ubatch)]
    command += ["-fa", settings.flash_attn, "-ctk", settings.type_k, "-ctv", settings.type_v, "-ngl", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    return {
        f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}": median(
            (row["n_prompt"] + row["n_gen"]) / (ns * 1e-9) for ns in row["samples_ns"]
        )
        for row in rows
    }


def ratios(rounds: list[dict[str, Rates]], test: str, over: str, under: str) -> Estimate:
    """Median of the paired ratios with its interval."""
    found = median_of_groups([[r[over][test] / r[under][test] for r in rounds]])
    assert found is not None
    return found


def main() -> int:
    """Measure, print the closing line, tell by the exit code."""
    settings = Settings(n_threads=max(default_threads() - 1, 1))
    parent = resolve("smollm2-135m", say)
    model = make_level(parent, "q4_0", n_threads=settings.n_threads, progress=lambda *_: None).path
    bench = tool("llama-bench", say)
    rounds: list[dict[str, Rates]] = []
    for i in range(N_ROUNDS):
        found: dict[str, Rates] = {}
        for who in ORDERS[i % len(ORDERS)]:
            found[who] = ours(model, settings, i) if who == "ours" else theirs(bench, model, settings)
        rounds.append(found)
        say(f"round {i + 1}/{N_ROUNDS}: " + "; ".join(f"{who} {_shown(found[who])}" for who in sorted(found)))
    ok, parts = True, []
    for test in TESTS:
        ratio, itself = (ratios(rounds, test.name, who, "theirs") for who in ("ours", "again"))
        assert itself.ci_low is not None
        assert itself.ci_high is not None
        fits = ratio.value >= LIMIT or itself.ci_low <= ratio.value <= itself.ci_high
        ok &= fits
        parts.append(
            f"{test.name} edgebench/llama-bench {ratio.value:.3f} [{ratio.ci_low:.3f}, {ratio.ci_high:.3f}]"
            f" (llama-bench/itself {itself.value:.3f} [{itself.ci_low:.3f}, {itself.ci_high:.3f}])"
        )
    overhead = max(OVERHEADS)
    ok &= overhead <= MOST_OVERHEAD
    parts.append(f"the harness's share of timed seconds: at most {overhead:.2%} (limit {MOST_OVERHEAD:.0%})")
    print("; ".join(parts) + f"; {N_ROUNDS} pairs, limit {LIMIT}: {'within' if ok else 'OUTSIDE'} the limit")
    return 0 if ok else 1


def _shown(rates: Rates) -> str:
    return " ".join(f"{name} {rate:.0f}" for name, rate in rates.items())


if __name__ == "__main__":
    sys.exit(main())
