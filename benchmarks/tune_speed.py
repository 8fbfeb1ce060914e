"""`tune` against a sweep of everything: how many trials it needs, and how good what it finds is.

    python benchmarks/tune_speed.py

Takes the q4_0 level of the embedded model, a space of 24 settings where there are two cores (threads,
physical batch, flash attention, cache type) and short requests (pp128+tg16). Measures every setting as
`edgebench run` would (two rounds of five repetitions, the second in the opposite order), lets `tune` search
the same space in a database of its own, then holds tune's setting against the sweep's best in 24 pairs of
fresh processes, order alternating.
Prints the median ratio of the two requests' speeds with its 95 % interval, and the trials of both. Exits 1
when the ratio is below 0.95, or tune took more than a third of the sweep's trials.
Takes about ten minutes on two slow cores; run it on a quiet machine.
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from edgebench.core.stats import median_of_groups
from edgebench.core.types import Settings, Workload
from edgebench.results.store import Store
from edgebench.session_child import Child
from edgebench.session_models import make_level, resolve
from edgebench.session_plan import Request
from edgebench.session_tune import tune
from edgebench.session_tune_plan import TunePlan, TuneRequest, plan_tune
from edgebench.session_tune_space import Goal

REQUEST = Workload(n_prompt=128, n_gen=16)
SPACE = {
    "n_ubatch": (8, 32, 128),
    "flash_attn": ("on", "off"),
    "type_k": ("f16", "q8_0"),
}
"""Beside the usual numbers of threads. The usual physical batch is not there: the default has a poor one."""
N_ROUNDS, N_REPETITIONS = 2, 5
N_PAIRS = 24
LIMIT = 0.95
MOST_TRIALS_SHARE = 1 / 3


class Quiet:
    """Tells the lines and not the steps."""

    def say(self, line: str) -> None:
        """A line of progress."""
        print(line, file=sys.stderr, flush=True)

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None:
        """A part begins."""
        self.say(title)

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None:
        """Nothing."""


def request_s(model: Path, settings: Settings, n_repetitions: int, seed: int) -> list[float]:
    """Seconds of each request, in a fresh process after one warm-up."""
    job = {
        "kind": "performance",
        "runner": "llama_cpp",
        "path": str(model),
        "settings": asdict(settings),
        "workloads": [{"workload": asdict(REQUEST), "repetitions": list(range(n_repetitions)), "seed": seed}],
    }
    with Child(job) as child:
        return [
            message["total_s"]
            for message in child.messages()
            if message["type"] == "trial" and message["phase"] == "measured"
        ]


def sweep(model: Path, every: list[Settings], say: Any) -> tuple[Settings, int]:
    """The setting with the least median, and how many repetitions it took to know."""
    found: dict[int, list[float]] = {i: [] for i in range(len(every))}
    for number in range(N_ROUNDS):
        for i in sorted(found, reverse=number % 2 == 1):
            found[i] += request_s(model, every[i], N_REPETITIONS, number)
        say(f"sweep: round {number + 1} of {N_ROUNDS} done")
    best = min(found, key=lambda i: median(found[i]))
    return every[best], sum(map(len, found.values()))


def pairs(model: Path, tuned: Settings, swept: Settings, say: Any) -> list[float]:
    """Speed of tune's setting over the sweep's best, pair by pair."""
    ratios = []
    for i in range(N_PAIRS):
        order = [("tuned", tuned), ("swept", swept)]
        found = {
            who: median(request_s(model, settings, 2, i))
            for who, settings in (order if i % 2 == 0 else reversed(order))
        }
        ratios.append(found["swept"] / found["tuned"])
        say(f"pair {i + 1} of {N_PAIRS}: {ratios[-1]:.3f}")
    return ratios


def searched(plan: TunePlan, watcher: Quiet) -> tuple[Settings, int, str]:
    """What tune finds in an empty database: the setting, its trials, its verdict."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder) / "tune.sqlite", busy_timeout_s=30) as store,
    ):
        found = tune(plan, store, watcher)
    ratio = f"{found.ratio.value:.3f}" if found.ratio else "none"
    verdict = f"{found.best.flags} ({ratio} of the default's seconds, separable: {found.separable})"
    return Settings(**found.best.settings), found.n_repetitions, verdict


def main() -> int:
    """Measure, print the closing line, tell by the exit code."""
    watcher = Quiet()
    model = make_level(resolve("smollm2-135m", watcher.say), "q4_0", n_threads=2, progress=lambda *_: None)
    request = Request(
        models=(str(model.path),), n_prompt=(REQUEST.n_prompt,), n_gen=(REQUEST.n_gen,), meter="none"
    )
    plan = plan_tune(TuneRequest(request=request, goal=Goal.SPEED, names=("t",), given=SPACE))
    every = [Settings(**{**asdict(plan.plan.settings), **one}) for one in plan.space.settings]
    watcher.say(f"{len(every)} settings")
    swept, n_swept = sweep(model.path, every, watcher.say)
    tuned, n_tuned, verdict = searched(plan, watcher)
    watcher.say(f"the sweep's best: {swept}\ntune's: {tuned}")
    ratio = median_of_groups([pairs(model.path, tuned, swept, watcher.say)])
    assert ratio is not None
    share = n_tuned / n_swept
    ok = ratio.value >= LIMIT and share <= MOST_TRIALS_SHARE
    print(
        f"tune's setting {verdict}; speed over the sweep's best: {ratio.value:.3f}"
        f" [{ratio.ci_low:.3f}, {ratio.ci_high:.3f}] in {N_PAIRS} pairs"
        f" (limit {LIMIT}); {n_tuned} trials of the sweep's {n_swept}, {share:.0%}"
        f" (limit a third): {'within' if ok else 'OUTSIDE'} the limits"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
