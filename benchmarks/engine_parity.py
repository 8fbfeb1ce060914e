"""Do all engines compute the same? The same weights in every engine's format, the same questions, a table.

    python benchmarks/engine_parity.py --data DIR [--limit N] [--engines A,B] [--speed] [--db FILE] [-o md]

SmolLM2-135M in f32: a checkpoint (torch), a GGUF file (llama_cpp, llama_server), an ONNX folder (onnx) and
one in onnxruntime-genai's layout (onnx_genai), made into the cache once. Each engine is asked MMLU-medical by
letters, 0-shot, all 1,089 questions or a stratified sample, by `edgebench run`, with an f32 cache and without
flash attention; `--speed` measures pp512, tg128 and a chat as well, with the usual settings. Prints
`edgebench compare --by engine`. Exits 1 when an engine's parity gate does not pass: fewer than 99 % of its
answers agree with torch's, or a disagreement or a log-probability is beyond what f32 explains.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval_tool import same_weights

from edgebench.core import registry
from edgebench.core.engine import Runner
from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Format
from edgebench.devices.local import default_threads
from edgebench.results.parity import Gate
from edgebench.session_quantize import quantizer_of
from edgebench.session_sources import child_of, open_source
from edgebench.session_tools import make_with

MODEL = "smollm2-135m"
BASE = "torch"
F32 = ("-fa", "off", "-ctk", "f32", "-ctv", "f32")
GENAI = "onnx_genai"
"""The one engine that does not open what others of its format open."""


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def weights(engines: Sequence[str], *, n_threads: int) -> dict[str, Path]:
    """Engine -> the same weights in a form it opens; their common origin is recorded with each."""
    found, source = same_weights(say, n_threads=n_threads), open_source(MODEL, say)
    if GENAI in engines:
        target = found["onnx"].with_name(f"{MODEL}-genai-fp32")
        if not target.exists():
            say(f"exporting {MODEL} in onnxruntime-genai's layout (fp32)")
            job = {"checkpoint": str(found["checkpoint"]), "target": str(target), "level": "genai-fp32"}
            make_with(quantizer_of("genai-fp32"), {**job, "n_threads": n_threads}, say, lambda _: None)
        found["genai"] = target
    for path in found.values():
        child_of(source, path)
    by_format = {Format.GGUF: "gguf", Format.SAFETENSORS: "checkpoint", Format.ONNX: "onnx"}
    named = {}
    for engine in engines:
        runner: Runner = registry.load("runners", engine)
        kind = "genai" if engine == GENAI else next(by_format[f] for f in runner.formats if f in by_format)
        named[engine] = found[kind]
    return named


def edgebench(*args: object) -> str:
    """What `edgebench ARGS` prints; what it says on the way goes through. EdgebenchError when it fails."""
    command = [sys.executable, "-m", "edgebench", *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise EdgebenchError(f"{' '.join(command)} ended with code {done.returncode}")
    return done.stdout


def ask(engine: str, path: Path, args: argparse.Namespace, db: Path) -> None:
    """Everything that is measured of an engine."""
    common = ("-m", path, "--runner", engine, "-t", args.threads, "--db", db, "-o", "jsonl")
    suite = ("--suite", "mmlu-medical", "--scorer", "letter", "--data", args.data)
    limit = ("--limit", args.limit) if args.limit else ()
    edgebench("run", *common, "--mode", "accuracy", *suite, *limit, *F32)
    if args.speed:
        edgebench("run", *common, "--mode", "performance")


def told(row: dict[str, Any]) -> tuple[str, bool]:
    """An engine's closing words, and whether its gate passed."""
    found = row["parity"]
    if found["agree"] is None:
        return f"{row['engine']}: {', '.join(found['reasons'])}", False
    n, share = found["agree"]["n"], found["agree"]["value"]
    gaps = [f"{one['question_id']} ({one['gap_nats']:.2g})" for one in found["disagreements"]]
    line = (
        f"{row['engine']}: {found['gate']}, {round(n * share)} of {n} answers agree; log-probabilities differ"
        f" by up to {found['largest_nats']:.2g}, median {found['median_nats']:.2g}; disagreements and their"
        f" gaps: {', '.join(gaps) or 'none'}"
    )
    return line, found["gate"] == Gate.PASS


def main() -> int:
    """Make, ask, print, tell by the exit code."""
    everybody = [name for name in registry.names("runners") if name != "synthetic"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBENCH_DATA"))
    parser.add_argument("--limit", type=int, help="a stratified sample; all by default")
    parser.add_argument("--engines", default=",".join(everybody), help="by comma; torch is the base")
    parser.add_argument("--speed", action="store_true", help="speed and memory as well")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--db", type=Path, help="a database that is kept; a temporary one by default")
    parser.add_argument("-o", "--output", default="table", choices=["table", "md"])
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data DIR is needed: the folder that holds mmlu/test/*.csv")
    engines = list(dict.fromkeys([BASE, *args.engines.split(",")]))
    with tempfile.TemporaryDirectory(prefix="edgebench-parity-") as folder:
        db = args.db or Path(folder) / "parity.sqlite"
        for engine, path in weights(engines, n_threads=args.threads).items():
            say(f"asking {engine}: {path.name}")
            ask(engine, path, args, db)
        compare = ("compare", "--by", "engine", "-m", MODEL, "--base", BASE, "--db", db)
        print(edgebench(*compare, "-o", args.output), end="")
        rows = json.loads(edgebench(*compare, "-o", "json"))
    closing = [told(row) for row in rows if not row["base"]]
    ok = all(passed for _, passed in closing) and {row["engine"] for row in rows} >= set(engines)
    print(*(line for line, _ in closing), sep="\n")
    print(f"{'within' if ok else 'OUTSIDE'} the limits (99 % of the answers, 0.01 nat)")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
