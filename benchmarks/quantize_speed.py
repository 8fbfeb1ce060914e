"""edgebench's quantizer against llama-quantize: the same files, levels, threads and library.

    python benchmarks/quantize_speed.py [--model FILE] [--levels q8_0,q4_k_m] [--seconds 60] [--gigabytes 1.1]

For every level, edgebench's engine call (in a lean process: core, the quantizer, the library) and
llama-quantize take turns; who begins changes. Rounds go on until each has worked for the given time in
all. Prints the ratio of the summed times, edgebench / llama-quantize, and then both peak resident sizes
for a file of random weights that is made for it. Exits 1 above 1.1 (time) or 1.3 (memory).
Takes about five minutes on two cores; run it on a quiet machine. `--seconds 5 --gigabytes 0.2` is a trial.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

from edgebench.devices.local import default_threads
from edgebench.runners.llama_source import tool
from edgebench.session_models import make_level, resolve

TIME_LIMIT = 1.1
MEMORY_LIMIT = 1.3
LEVELS = "q8_0,q6_k,q5_0,q4_k_m,q4_0,q2_k"
LEAN = """
import sys, time
from edgebench.quantize.gguf_quantize import quantize
source, target, level, n_threads = sys.argv[1:]
job = {"source": source, "target": target, "level": level, "n_threads": int(n_threads)}
start = time.perf_counter()
quantize(job, lambda share: None)
print(time.perf_counter() - start)
"""


def default_model(n_threads: int) -> Path:
    """smollm2-135m's f16 level."""
    return make_level(resolve("smollm2-135m", say), "f16", n_threads=n_threads, progress=lambda _: None).path


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def ours(source: Path, target: Path, level: str, n_threads: int) -> tuple[float, int]:
    """Seconds of the engine call, and the process's peak resident size in bytes."""
    command = [sys.executable, "-P", "-c", LEAN, str(source), str(target), level, str(n_threads)]
    said, _, peak_bytes = _timed(command)
    return float(said.strip().splitlines()[-1]), peak_bytes


def theirs(source: Path, target: Path, level: str, n_threads: int) -> tuple[float, int]:
    """The same of llama-quantize, whose start takes a hundredth of a second."""
    program = str(tool("llama-quantize", say))
    command = [program, "--allow-requantize", str(source), str(target), level.upper(), str(n_threads)]
    _, duration_s, peak_bytes = _timed(command)
    return duration_s, peak_bytes


def _timed(command: list[str]) -> tuple[str, float, int]:
    """What a process printed, how long it took, and its peak resident size."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        duration_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode("utf-8", "replace")
    if process.returncode:
        sys.exit(f"{command[0]} ended with code {process.returncode}:\n{said[-2000:]}")
    return said, duration_s, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare_times(model: Path, levels: list[str], folder: Path, n_threads: int, least_s: float) -> float:
    """Ratio of the summed times over whole rounds of the ladder."""
    ours_s = theirs_s = 0.0
    n_rounds = 0
    theirs(model, folder / "warm.gguf", levels[0], n_threads)  # both then find the file in memory
    while min(ours_s, theirs_s) < least_s:
        for i, level in enumerate(levels):
            for who in (ours, theirs) if (i + n_rounds) % 2 == 0 else (theirs, ours):
                target = folder / f"{who.__name__}.gguf"
                duration_s, _ = who(model, target, level, n_threads)
                if who is ours:
                    ours_s += duration_s
                else:
                    theirs_s += duration_s
            same = (folder / "ours.gguf").read_bytes() == (folder / "theirs.gguf").read_bytes()
            if n_rounds == 0:
                say(f"{level}: the files are {'the same' if same else 'not the same, byte for byte'}")
        n_rounds += 1
        say(f"round {n_rounds}: edgebench {ours_s:.1f} s, llama-quantize {theirs_s:.1f} s")
    return ours_s / theirs_s


def write_random(path: Path, n_bytes: int) -> None:
    """A Llama model of random f16 weights, written tensor by tensor."""
    n_embd, n_ff, n_vocab = 2048, 5632, 4096
    layer = {
        "attn_norm": (n_embd,),
        "attn_q": (n_embd, n_embd),
        "attn_k": (n_embd, n_embd),
        "attn_v": (n_embd, n_embd),
        "attn_output": (n_embd, n_embd),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    n_layers = max(1, -(-n_bytes // (2 * sum(int(np.prod(shape)) for shape in layer.values()))))
    tensors = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    for i in range(n_layers):
        tensors |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_vocab_size(n_vocab)
    writer.add_context_length(2048)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(16)
    writer.add_head_count_kv(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(128)
    writer.add_file_type(1)
    for name, shape in tensors.items():
        kind = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        writer.add_tensor_info(name, shape, kind, int(np.prod(shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for shape in tensors.values():
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        writer.write_tensor_data(values if len(shape) == 1 else values.astype(np.float16))
    writer.close()


def main() -> int:
    """Measure, print, tell by the exit code."""
    parser = argparse.ArgumentParser(description="edgebench's quantizer against llama-quantize")
    parser.add_argument("--model", type=Path, help="an f32 or f16 GGUF file; by default smollm2-135m's f16")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--seconds", type=float, default=60.0, help="time that each spends on the ladder")
    parser.add_argument(
        "--gigabytes", type=float, default=1.1, help="size of the random file; 0: no such part"
    )
    parser.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args()
    levels = options.levels.split(",")
    parent = None if options.model else resolve("smollm2-135m", say)
    model = (
        options.model or make_level(parent, "f16", n_threads=options.threads, progress=lambda _: None).path
    )
    ok = True
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=".part-speed-") as name:
        folder = Path(name)
        ratio = compare_times(model, levels, folder, options.threads, options.seconds)
        ok &= ratio <= TIME_LIMIT
        print(f"time: edgebench / llama-quantize {ratio:.3f} over {','.join(levels)}, limit {TIME_LIMIT}")
        if options.gigabytes:
            random = folder / "random.gguf"
            write_random(random, int(options.gigabytes * 1e9))
            level = "q4_k_m"
            _, our_bytes = ours(random, folder / "ours.gguf", level, options.threads)
            _, their_bytes = theirs(random, folder / "theirs.gguf", level, options.threads)
            ratio = our_bytes / their_bytes
            ok &= ratio <= MEMORY_LIMIT
            print(
                f"memory: edgebench {our_bytes / 1e6:.0f} MB / llama-quantize {their_bytes / 1e6:.0f} MB "
                f"= {ratio:.3f} for {level} of {random.stat().st_size / 1e9:.2f} GB, limit {MEMORY_LIMIT}"
            )
    print("within the limits" if ok else "OUTSIDE the limits")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
