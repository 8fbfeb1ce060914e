"""How close scoring comes to what the engine can do, and how far it is ahead of the usual ways.

    python benchmarks/scoring_speed.py --data DIR [--level q8_0] [--threads N] [--only PART]

One sitting, one model, the same threads; mmlu-medical by letters, through `edgebench run`, from the loaded
model to the last stored answer.

bounds   0-shot: the time the distinct prompt tokens would take at pp512. 5-shot: the sum over subjects of
         distinct tokens at that subject's pp512@d<its worked examples>. Both measured before and after.
         Peak memory stands beside each.
cloze    0-shot, by prompt and option tokens; reported only.
others   the same 5-shot questions by a loop over llama-cpp-python's high-level class that resets before
         each, and by lm-eval's hf backend in f32 at its best batch size, against the f32 file of the same
         weights and against the level.
kills    the 0-shot run killed three times with SIGKILL, and run with its files shuffled: bit by bit the
         same log-likelihoods.

Exits 1 below 0.90 (0-shot) or 0.85 (5-shot) of a bound, below 3 x the loop or 3.5 x lm-eval in f32, or when
a bit differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgebench.core.types import Artifact, Scorer, Settings, Workload
from edgebench.devices.local import default_threads
from edgebench.runners.llama_cpp import LlamaCpp
from edgebench.session_accuracy import split_tokens
from edgebench.session_child import Child
from edgebench.session_models import make_level, resolve
from edgebench.suites.fewshot import Shots
from edgebench.suites.groups import limited, ordered_groups
from edgebench.suites.loader import load_pool, load_suite
from edgebench.suites.prompts import build_prompt

SUITE, MODEL = "mmlu-medical", "smollm2-135m"
N_SAMPLE = 96
"""5-shot questions that the other programs are asked: whole groups, every subject."""
N_SLICE = 8
"""Of these, the ones that lm-eval's batch sizes are tried on."""
BOUNDS = {0: 0.90, 5: 0.85}
LOOP_LIMIT, LM_EVAL_LIMIT = 3.0, 3.5
N_KILLED = 400
"""Questions of the runs that are compared bit by bit."""
KILLS_AT = (0.2, 0.5, 0.8)
"""Shares of the questions after which the run is killed."""

LOOP = """
import json, sys, time
import numpy as np
from llama_cpp import Llama

job = json.load(sys.stdin)
llm = Llama(job["path"], n_ctx=job["n_ctx"], n_threads=job["n_threads"], n_threads_batch=job["n_threads"],
            n_batch=2048, n_ubatch=512, flash_attn=True, verbose=False)
start = time.perf_counter()
chosen = []
for context in job["contexts"]:
    llm.reset()
    llm.eval(llm.tokenize(context.encode(), add_bos=False, special=True))
    logits = np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),))
    chosen.append(int(np.argmax(logits[job["letters"]])))
print(json.dumps({"total_s": time.perf_counter() - start, "chosen": chosen}))
"""


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Asked:
    """The prompts of a run as tokens: what a subject's share, and how many are distinct."""

    n_unique: Mapping[str, int]
    n_shared: Mapping[str, int]
    n_all: int


def count_tokens(artifact: Artifact, settings: Settings, data: Path, n_shots: int, scorer: Scorer) -> Asked:
    """Nodes of the prefix tree of all prompts, by subject; options' own tokens among them under cloze."""
    suite = load_suite(SUITE, data)
    shots = Shots(suite, load_pool(SUITE, data), n_shots)
    nodes: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
    begin: dict[str, list[int]] = {}
    n_all = 0
    with LlamaCpp().load(artifact.path, settings) as session:
        for question in suite.questions:
            prompt = build_prompt(suite, question, scorer, shots=shots.of(question))
            context, continuations = split_tokens(session, prompt.context, prompt.continuations)
            tree = nodes[question.subject]
            for path in [[*context, *c[:-1]] for c in continuations]:
                at = 0
                for token in path:
                    at = tree.setdefault((at, token), len(tree) + 1)
            n_all += len(context) + sum(len(c) - 1 for c in continuations)
            known = begin.setdefault(question.subject, context)
            n = next((i for i, (x, y) in enumerate(zip(known, context, strict=False)) if x != y), len(known))
            begin[question.subject] = known[:n]
    return Asked(
        {name: len(tree) for name, tree in nodes.items()},
        {name: len(tokens) for name, tokens in begin.items()},
        n_all,
    )


def rates(
    artifact: Artifact, settings: Settings, depths: Sequence[int], n_repetitions: int
) -> dict[int, float]:
    """pp512@d: tokens per second, the median of the repetitions."""
    found = {}
    workloads = [
        {
            "workload": asdict(Workload(n_prompt=512, n_depth=depth)),
            "repetitions": list(range(n_repetitions)),
            "seed": 0,
        }
        for depth in dict.fromkeys(depths)
    ]
    job = {"kind": "performance", "runner": "llama_cpp", "path": str(artifact.path)}
    with Child({**job, "settings": asdict(settings), "workloads": workloads}) as child:
        trials = [message for message in child.messages() if message["type"] == "trial"]
    for depth in dict.fromkeys(depths):
        taken = [t["total_s"] for t in trials if t["n_depth"] == depth and t["phase"] == "measured"]
        found[depth] = 512 / median(taken)
    return found


def command(path: Path, db: Path, settings: Settings, data: Path, *more: str) -> list[str]:
    """The documented command."""
    words = ["edgebench", "run", "-m", str(path), "--suite", SUITE, "--mode", "accuracy"]
    where = ["--data", str(data), "--db", str(db), "-t", str(settings.n_threads)]
    return [sys.executable, "-m", *words, *where, *more]


def measured(
    path: Path, settings: Settings, data: Path, *more: str
) -> tuple[float, int, list[tuple[str, str]]]:
    """(seconds from the loaded model to the last stored answer, peak memory, answers) of a run."""
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "run.sqlite"
        line = command(path, db, settings, data, *more)
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return scoring_s(db), peak_bytes(db), answers(db)


def scoring_s(db: Path) -> float:
    """Tokenization, scoring and writing: what passes between two readings of the run."""
    with sqlite3.connect(db) as connection:
        sql = "SELECT max(t_s) FROM reading WHERE channel = ?"
        loaded, done = (connection.execute(sql, (name,)).fetchone()[0] for name in ("load", "scoring_group"))
    return float(done - loaded)


def peak_bytes(db: Path) -> int:
    """The highest sum of anonymous and mapped-file memory among the looks taken."""
    sql = """SELECT max(a.value + f.value) FROM reading a JOIN reading f USING (run_id, t_s)
             WHERE a.channel = 'rss_anon' AND f.channel = 'rss_file'"""
    with sqlite3.connect(db) as connection:
        return int(connection.execute(sql).fetchone()[0])


def answers(db: Path) -> list[tuple[str, str]]:
    """(hash of the question, stored log-likelihoods as their exact JSON text) of every answer."""
    sql = """SELECT question.sha256, logprobs_json FROM answer JOIN run ON run.id = run_id
             JOIN question ON question.suite_id = run.suite_id AND question.id = question_id ORDER BY 1, 2"""
    with sqlite3.connect(db) as connection:
        return connection.execute(sql).fetchall()


def bounds(artifact: Artifact, settings: Settings, data: Path) -> bool:
    """Every share of a bound, and whether all are within their limit."""
    ok = True
    for n_shots, limit in BOUNDS.items():
        asked = count_tokens(artifact, settings, data, n_shots, Scorer.LETTER)
        depths = {name: n if n_shots else 0 for name, n in asked.n_shared.items()}
        before = rates(artifact, settings, list(depths.values()), 3)
        took_s, peak, _ = measured(
            artifact.path, settings, data, "--scorer", "letter", "--num-fewshot", str(n_shots)
        )
        after = rates(artifact, settings, list(depths.values()), 3)
        bound_s = sum(
            n / median([before[depths[name]], after[depths[name]]]) for name, n in asked.n_unique.items()
        )
        share = bound_s / took_s
        ok &= share >= limit
        told = ", ".join(f"d{d} {(before[d] + after[d]) / 2:.0f}" for d in sorted(before))
        print(
            f"{artifact.quant.name} letter {n_shots}-shot: {share:.1%} of the bound (limit {limit:.0%});"
            f" {took_s:.1f} s, {sum(asked.n_unique.values())} distinct of {asked.n_all} tokens,"
            f" pp512 t/s {told}; peak memory {peak / 2**20:.0f} MiB"
        )
    return ok


def cloze(artifact: Artifact, settings: Settings, data: Path) -> None:
    """By prompt and option tokens; options of several tokens make small branches, so there is no limit."""
    asked = count_tokens(artifact, settings, data, 0, Scorer.CLOZE)
    rate = rates(artifact, settings, [0], 3)[0]
    took_s, peak, _ = measured(artifact.path, settings, data, "--scorer", "cloze")
    n = sum(asked.n_unique.values())
    print(
        f"{artifact.quant.name} cloze 0-shot: {n / rate / took_s:.1%} of the bound; {took_s:.1f} s,"
        f" {n} distinct prompt and option tokens; peak memory {peak / 2**20:.0f} MiB"
    )


def others(artifact: Artifact, exact: Artifact, settings: Settings, data: Path) -> bool:
    """The same 5-shot questions by three programs, one after the other, on the same threads."""
    suite = load_suite(SUITE, data)
    shots = Shots(suite, load_pool(SUITE, data), 5)
    groups = limited(ordered_groups(suite, by_subject=True), N_SAMPLE)
    prompts = [
        build_prompt(suite, q, Scorer.LETTER, shots=shots.of(q)).context for group in groups for q in group
    ]
    ours = {}
    for one in (exact, artifact):
        took_s, peak, found = measured(
            one.path, settings, data, "--scorer", "letter", "--num-fewshot", "5", "--limit", str(N_SAMPLE)
        )
        ours[one.quant.name] = took_s / len(found)
        say(f"edgebench {one.quant.name}: {took_s / len(found):.3f} s a question, {peak / 2**20:.0f} MiB")
    loop_s = loop(artifact, settings, prompts) / len(prompts)
    ratio = loop_s / ours[artifact.quant.name]
    ok = ratio >= LOOP_LIMIT
    print(
        f"{artifact.quant.name} letter 5-shot: {ratio:.2f} x a resetting loop"
        f" ({loop_s:.3f} s a question; limit {LOOP_LIMIT})"
    )
    lm_eval = lm_eval_seconds(settings, data)
    if lm_eval is None:
        print("lm-eval: could not be had, not measured")
        return False
    theirs_s = lm_eval["s_per_question"]
    ratio = theirs_s / ours[exact.quant.name]
    print(
        f"lm-eval hf f32, batch size {lm_eval['batch_size']}: {theirs_s:.3f} s a question,"
        f" {lm_eval['peak_rss_bytes'] / 2**20:.0f} MiB; edgebench f32 {ratio:.2f} x (limit {LM_EVAL_LIMIT}),"
        f" {artifact.quant.name} {theirs_s / ours[artifact.quant.name]:.2f} x"
    )
    return ok and ratio >= LM_EVAL_LIMIT


def loop(artifact: Artifact, settings: Settings, contexts: Sequence[str]) -> float:
    """Seconds of a loop that evaluates every prompt whole."""
    with LlamaCpp().load(artifact.path, settings) as session:
        lengths = [len(session.tokenize(context)) for context in contexts]
        letters = [session.tokenize(f" {letter}")[-1] for letter in "ABCD"]
    job = {"path": str(artifact.path), "n_ctx": max(lengths) + 8, "n_threads": settings.n_threads}
    done = subprocess.run(
        [sys.executable, "-c", LOOP],
        input=json.dumps({**job, "contexts": contexts, "letters": letters}),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["total_s"])


def lm_eval_seconds(settings: Settings, data: Path) -> Mapping[str, Any] | None:
    """lm-eval's hf backend at its best batch size, in a process of its own; None where it can't be had."""
    script = Path(__file__).with_name("lm_eval_speed.py")
    words = ["--data", data, "--threads", settings.n_threads, "--questions", N_SAMPLE, "--slice", N_SLICE]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], stdout=subprocess.PIPE, text=True, check=False
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def kills(artifact: Artifact, settings: Settings, data: Path) -> bool:
    """Killed and resumed, shuffled, and cut short: the same bits as the uninterrupted run."""
    _, _, reference = measured(artifact.path, settings, data, "--scorer", "letter", "--limit", str(N_KILLED))
    say(f"{len(reference)} answers to compare with")
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut.sqlite"
        line = command(artifact.path, cut, settings, data, "--scorer", "letter", "--limit", str(N_KILLED))
        for share in KILLS_AT:
            kill_at(line, cut, int(share * len(reference)))
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        resumed = answers(cut) == reference
        mixed = Path(folder) / "data"
        shutil.copytree(data / "mmlu", mixed / "mmlu")
        for path in (mixed / "mmlu" / "test").glob("*.csv"):
            shuffle(path)
        _, _, found = measured(artifact.path, settings, mixed, "--scorer", "letter", "--limit", "200")
        shuffled = set(found) <= set(reference) and len(found) >= 200
    print(
        f"{artifact.quant.name}: killed 3 times and resumed: {'identical' if resumed else 'DIFFERENT'};"
        f" files shuffled, --limit 200: {'identical' if shuffled else 'DIFFERENT'} to the bit"
    )
    return resumed and shuffled


def shuffle(path: Path) -> None:
    """Another order of the same rows; quoted fields may span lines, so rows are read as CSV."""
    import csv

    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))
    random.Random(1).shuffle(rows)
    path.chmod(0o644)
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


def kill_at(line: Sequence[str], db: Path, n: int) -> None:
    """Run until so many answers are stored, then kill."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and n_answered(db) < n:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    say(f"killed with {n_answered(db)} answers stored")
    time.sleep(1)


def n_answered(db: Path) -> int:
    """Answers stored so far; 0 while there is no database."""
    try:
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM answer").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def main() -> int:
    """Measure, print the figures, tell by the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBENCH_DATA"))
    parser.add_argument("--level", default="q8_0")
    parser.add_argument("--only", choices=["bounds", "cloze", "others", "kills"])
    parser.add_argument("--threads", type=int, default=default_threads())
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data DIR is needed: the folder that holds mmlu/test/*.csv")
    settings = Settings(n_threads=args.threads)
    parent = resolve(MODEL, say)

    def level(name: str) -> Artifact:
        return make_level(parent, name, n_threads=settings.n_threads, progress=lambda *_: None)

    artifact, ok = level(args.level), True
    if args.only in (None, "bounds"):
        ok &= bounds(artifact, settings, args.data)
    if args.only in (None, "cloze"):
        cloze(artifact, settings, args.data)
    if args.only in (None, "others"):
        ok &= others(artifact, level("f32"), settings, args.data)
    if args.only in (None, "kills"):
        ok &= kills(artifact, settings, args.data)
    print("within all limits" if ok else "OUTSIDE a limit")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
