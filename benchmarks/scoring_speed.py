"""How close scoring comes to the prefill bound, and whether a killed run resumes to the bit.

    python benchmarks/scoring_speed.py --data DIR [--level q4_0] [--no-kills]

Scores mmlu-medical by letters, 0-shot, with `edgebench run`. The bound is the time the distinct prompt
tokens of all questions would take at the pp512 measured before and after, in the same sitting. Then the
same command is killed three times with SIGKILL and run again, and the stored log-likelihoods are
compared with the uninterrupted run's. Exits 1 when the share is below 0.85 or a bit differs.
"""

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

from edgebench.core.types import Artifact, Scorer, Settings, Workload
from edgebench.devices.local import default_threads
from edgebench.runners.llama_cpp import LlamaCpp
from edgebench.session_child import Child
from edgebench.session_models import make_level, resolve
from edgebench.suites.loader import load_suite
from edgebench.suites.prompts import build_prompt

LIMIT = 0.85
KILLS_AT = (0.2, 0.5, 0.8)
"""Shares of the questions after which the run is killed."""


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def pp512(artifact: Artifact, settings: Settings) -> list[float]:
    """Tokens per second of five repetitions."""
    workload = {"workload": asdict(Workload(n_prompt=512)), "repetitions": list(range(5)), "seed": 0}
    job = {"kind": "performance", "runner": "llama_cpp", "path": str(artifact.path)}
    with Child({**job, "settings": asdict(settings), "workloads": [workload]}) as child:
        trials = [message for message in child.messages() if message["type"] == "trial"]
    return [512 / trial["total_s"] for trial in trials if trial["phase"] == "measured"]


def n_unique_tokens(artifact: Artifact, settings: Settings, data: Path) -> tuple[int, int]:
    """(distinct, all) prompt tokens: nodes of the prefix tree of all prompts, and their sum of lengths."""
    suite = load_suite("mmlu-medical", data)
    nodes: set[tuple[int, int]] = set()
    ids: dict[tuple[int, int], int] = {}
    n_all = 0
    with LlamaCpp().load(artifact.path, settings) as session:
        for question in suite.questions:
            node = 0
            tokens = session.tokenize(build_prompt(suite, question, Scorer.LETTER).context)
            n_all += len(tokens)
            for token in tokens:
                nodes.add((node, token))
                node = ids.setdefault((node, token), len(ids) + 1)
    return len(nodes), n_all


def command(model: str, db: Path, data: Path, level: str | None) -> list[str]:
    """The documented command."""
    run = [
        sys.executable,
        "-m",
        "edgebench",
        "run",
        "-m",
        model,
        "--suite",
        "mmlu-medical",
        "--scorer",
        "letter",
    ]
    return [
        *run,
        "--mode",
        "accuracy",
        "--data",
        str(data),
        "--db",
        str(db),
        *(["--quant", level] if level else []),
    ]


def answers(db: Path) -> list[tuple[str, str]]:
    """(question, stored log-likelihoods as their exact JSON text) of every answer of every run."""
    with sqlite3.connect(db) as connection:
        return connection.execute("SELECT question_id, logprobs_json FROM answer ORDER BY 1, 2").fetchall()


def n_answered(db: Path) -> int:
    """Answers stored so far; 0 while there is no database."""
    try:
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM answer").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def scoring_s(db: Path) -> float:
    """Wall seconds from the loaded model to the last stored answer: tokenization and writing included."""
    with sqlite3.connect(db) as connection:
        sql = "SELECT max(t_s) FROM reading WHERE channel = ?"
        loaded, done = (connection.execute(sql, (name,)).fetchone()[0] for name in ("load", "scoring_group"))
    return float(done - loaded)


def killed_run(line: list[str], db: Path, n: int) -> None:
    """Run, kill at three points, run to the end."""
    for share in KILLS_AT:
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and n_answered(db) < share * n:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        say(f"killed with {n_answered(db)} of {n} answers stored")
        time.sleep(1)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Measure, print the closing line, tell by the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBENCH_DATA"), required=False)
    parser.add_argument("--level", help="a level to make; by default the model as it is shipped")
    parser.add_argument("--no-kills", action="store_true", help="only the speed")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data DIR is needed: the folder that holds mmlu/test/*.csv")
    settings = Settings(n_threads=default_threads())
    artifact = resolve("smollm2-135m", say)
    if args.level:
        artifact = make_level(artifact, args.level, n_threads=settings.n_threads, progress=lambda *_: None)
    n_unique, n_all = n_unique_tokens(artifact, settings, args.data)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole.sqlite", Path(folder) / "cut.sqlite"
        before = pp512(artifact, settings)
        subprocess.run(
            command("smollm2-135m", whole, args.data, args.level), check=True, stdout=subprocess.DEVNULL
        )
        rate = median(before + pp512(artifact, settings))
        reference = answers(whole)
        took_s = scoring_s(whole)
        share = n_unique / rate / took_s
        say(f"pp512 {rate:.0f} tokens/s; {n_unique} distinct of {n_all} prompt tokens; {took_s:.1f} s")
        same = True
        if not args.no_kills:
            killed_run(command("smollm2-135m", cut, args.data, args.level), cut, len(reference))
            same = answers(cut) == reference
    ok = share >= LIMIT and same
    resumed = "" if args.no_kills else f"; killed 3 times: {'identical to the bit' if same else 'DIFFERENT'}"
    print(
        f"{artifact.label}: {len(reference)} questions at {share:.1%} of the prefill bound"
        f" (limit {LIMIT:.0%}){resumed}: {'within' if ok else 'OUTSIDE'} the limit"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
