"""edgebench's answers against lm-eval's: the same weights, questions and prompts, three engines.

    python benchmarks/lm_eval_parity.py --data DIR [--limit N] [--shots 0,5] [--threads N]

lm-eval asks SmolLM2-135M's f32 checkpoint through its `hf` backend; edgebench asks the f32 GGUF file and
the fp32 ONNX folder of the same weights (f32 cache, flash attention off). MMLU-medical by letters, all 1,089
questions or a stratified sample. Prints how many answers agree, the largest difference of a log-likelihood
and the gap of each disagreement; exits 1 when fewer than 99 % (0-shot) or 98 % (few-shot) agree or the gap
between the two best options of a disagreement is 0.01 or more.
"""

import argparse
import os
import sys
from pathlib import Path

from lm_eval_tool import GAP_LIMIT, agreement, ask_edgebench, ask_mmlu, lm_eval_tool, same_weights

from edgebench.devices.local import default_threads

LEAST_SHARE = {0: 0.99}
LEAST_SHARE_FEWSHOT = 0.98


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Ask both, print, tell by the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBENCH_DATA"))
    parser.add_argument("--limit", type=int, help="a stratified sample; all by default")
    parser.add_argument("--shots", default="0,5", help="numbers of worked examples, by comma")
    parser.add_argument("--batch-size", type=int, default=8, help="lm-eval's")
    parser.add_argument("--threads", type=int, default=default_threads())
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data DIR is needed: the folder that holds mmlu/test/*.csv")
    tool = lm_eval_tool(say)
    weights = same_weights(say, n_threads=args.threads)
    ok = True
    for num_fewshot in map(int, args.shots.split(",")):
        asked = {"num_fewshot": num_fewshot, "n_threads": args.threads}
        ours = {}
        for engine in ("gguf", "onnx"):
            say(f"edgebench, {engine}, {num_fewshot}-shot")
            ours[engine] = ask_edgebench(weights[engine], args.data, limit=args.limit, **asked)
        say(f"lm-eval, hf, {num_fewshot}-shot")
        [theirs] = ask_mmlu(
            tool,
            weights["checkpoint"],
            args.data,
            list(ours["gguf"]),
            batch_sizes=[args.batch_size],
            **asked,
        )
        least = LEAST_SHARE.get(num_fewshot, LEAST_SHARE_FEWSHOT)
        for engine, answers in ours.items():
            found = agreement(answers, theirs["questions"], num_fewshot=num_fewshot)
            ok &= found.share >= least and not found.unexplained
            gaps = ", ".join(f"{id_} ({gap:.2g})" for id_, gap in found.gaps.items())
            print(
                f"{num_fewshot}-shot, {engine}: {found.n - len(found.gaps)} of {found.n} answers agree"
                f" ({found.share:.2%}, limit {least:.0%}); log-likelihoods differ by up to"
                f" {found.largest_difference:.2g}; disagreements and their gaps: {gaps or 'none'}"
                + (f"; left out, being their own worked example: {found.n_leaking}" if num_fewshot else "")
            )
    print(f"{'within' if ok else 'OUTSIDE'} the limits (gaps below {GAP_LIMIT:g})")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
