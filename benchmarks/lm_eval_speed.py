"""How long lm-eval's `hf` backend takes per question, in f32 on the CPU, at each batch size: one JSON object.

    python benchmarks/lm_eval_speed.py --data DIR [--questions N] [--slice N] [--shots 5] [--threads N]

SmolLM2-135M's f32 checkpoint, MMLU-medical by letters with lm-eval's own tasks. The questions are those that
`edgebench run --limit N` asks with as many worked examples. Each batch size is tried on a slice of them
first, the fastest then gets all of them. Timed is lm-eval's whole evaluation, from its task files to
its metrics; starting Python and loading the model are not.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from lm_eval_tool import ask_mmlu, lm_eval_tool, same_weights

from edgebench.devices.local import default_threads
from edgebench.suites.groups import limited, ordered_groups
from edgebench.suites.loader import load_suite

BATCH_SIZES = (1, 2, 4, 8, 16)
N_QUESTIONS = 96
N_SLICE = 24


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def sample(data: Path, n: int, *, num_fewshot: int) -> list[str]:
    """Ids of the questions that `edgebench run --limit N` asks: a stratified sample in whole groups."""
    groups = limited(ordered_groups(load_suite("mmlu-medical", data), by_subject=num_fewshot > 0), n)
    return [question.id for group in groups for question in group]


def lm_eval_speed(
    data: Path,
    ids: list[str],
    *,
    num_fewshot: int,
    n_threads: int,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    n_slice: int = N_SLICE,
) -> dict[str, Any]:
    """Seconds per question at the fastest batch size, and at each of them on a slice of the questions."""
    tool = lm_eval_tool(say)
    checkpoint = same_weights(say, n_threads=n_threads)["checkpoint"]
    job = {"num_fewshot": num_fewshot, "n_threads": n_threads}
    # Every so-manieth question: the slice holds the subjects, and so the lengths, of the whole.
    slice_ids = ids[:: max(len(ids) // n_slice, 1)]
    tried = {
        found["batch_size"]: found["took_s"] / len(slice_ids)
        for found in ask_mmlu(tool, checkpoint, data, slice_ids, batch_sizes=batch_sizes, **job)
    }
    best = min(tried, key=tried.__getitem__)
    [whole] = ask_mmlu(tool, checkpoint, data, ids, batch_sizes=[best], **job)
    return {
        "num_fewshot": num_fewshot,
        "n_threads": n_threads,
        "n_questions": len(ids),
        "batch_size": best,
        "s_per_question": whole["took_s"] / len(ids),
        "peak_rss_bytes": whole["peak_rss_bytes"],
        "n_questions_slice": len(slice_ids),
        "s_per_question_slice": tried,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBENCH_DATA"))
    parser.add_argument("--questions", type=int, default=N_QUESTIONS)
    parser.add_argument("--slice", type=int, default=N_SLICE, help="questions each batch size is tried on")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--batch-sizes", default=",".join(map(str, BATCH_SIZES)))
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data DIR is needed: the folder that holds mmlu/test/*.csv")
    found = lm_eval_speed(
        args.data,
        sample(args.data, args.questions, num_fewshot=args.shots),
        num_fewshot=args.shots,
        n_threads=args.threads,
        batch_sizes=tuple(map(int, args.batch_sizes.split(","))),
        n_slice=args.slice,
    )
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
