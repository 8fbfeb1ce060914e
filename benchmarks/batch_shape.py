"""Why the shape of a batch moves logits: where it enters, what makes it grow.

    python benchmarks/batch_shape.py [--levels f32,f16,q8_0,q4_0,q4_k_m] [--model FILE]

Evaluates one prompt of 100 tokens in several shapes: alone; with other tokens behind or ahead of it in the
batch; in batches of 16, of 1. The engine tells every intermediate result, so that the first one that
differs can be named. Then, the shape unchanged, the first layer's output is moved by a ten-millionth
and by a thousandth, to see what the rest makes of it; and attention's outputs in company are replaced by
those alone, to see whether anything else differs. One thread. Prints Markdown tables; docs/determinism.md
explains them. Exits 1 when the same shape gave other bits, or an f32 file moved by 0.001 or more.
"""

import argparse
import ctypes
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from edgebench.core.types import Settings
from edgebench.runners.llama_cpp import LlamaSession
from edgebench.runners.prefix_tree import Row
from edgebench.session_models import DEFAULT_MODEL, make_level, resolve

LEVELS = "f32,f16,q8_0,q4_0,q4_k_m"
F32_LIMIT = 1e-3
N_PROMPT = 100
N_CTX = 1024
EPSILONS = (1e-7, 1e-3)
DEEP = "l_out-7"
"""The output of the eighth layer: past it, the largest values of most models drown the others."""
ATTENTION = {
    "flash attention, f16 cache": Settings(n_threads=1),
    "no flash attention, f32 cache": Settings(n_threads=1, flash_attn="off", type_k="f32", type_v="f32"),
}
PROMPT = """The captain of the ferry counts the passengers twice before he lets go of the rope, because the
harbour master fined him last spring for leaving a child on the quay. Nobody on the island has forgotten it,
least of all the baker, whose boy it was, and who since then brings him neither bread nor news. The captain
shrugs, and says that the sea forgives everything but haste; then he writes the number into his book, signs
it, and blows the whistle once for the gulls and once for the mainland, as his father did."""
COMPANY = "Insulin is made in the pancreas, stored as crystals with zinc, and let go after a meal. " * 20
SHAPES = {
    "again": "the same batch, in a fresh context",
    "+300 behind": "300 tokens of another sequence follow in the batch",
    "64 ahead": "64 tokens of another sequence come before it",
    "33 ahead": "33 tokens of another sequence come before it",
    "33 cached": "the same 33, evaluated earlier: company in the cache only",
    "by 16": "the prompt in batches of 16",
    "by 1": "the prompt in batches of 1",
}

Seen = dict[str, NDArray[np.float32]]
"""Name of an intermediate result -> its values, by position in the prompt; NaN where none was computed."""
Change = Callable[[str, slice, NDArray[np.float32]], None]
"""Told (name, positions, values) as they are computed; may write into the values."""


class _Tensor(ctypes.Structure):
    """ggml.h's `ggml_tensor`, of which the CPU's data can be read in place."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class Probe(LlamaSession):
    """A session that also sees, and may change, what its layers compute for sequence 0."""

    def watch(
        self, batches: Sequence[Sequence[Row]], change: Change | None = None
    ) -> tuple[Seen, NDArray[np.float32]]:
        """Evaluate batches in a fresh context; what was seen, and the logits after the prompt."""
        seen: Seen = {}
        rows: Sequence[Row] = ()
        n_named: dict[str, int] = {}
        failures: list[Exception] = []

        def told(pointer: int, ask: bool, _user: object) -> bool:
            tensor = ctypes.cast(pointer, ctypes.POINTER(_Tensor)).contents
            name = tensor.name.decode()
            if ask:  # f32 results of layers; names in brackets are views
                return tensor.type == 0 and re.fullmatch(r"[A-Za-z_]+-\d+", name) is not None
            try:
                n_named[name] = n = n_named.get(name, 0) + 1
                label = name if n == 1 else f"{name} ({n})"
                if (found := _own_values(tensor, name, rows)) is not None:
                    positions, values = found
                    if change is not None:
                        change(label, positions, values)
                    whole = (N_PROMPT, *values.shape[1:])
                    seen.setdefault(label, np.full(whole, np.nan, np.float32))[positions] = values
            except Exception as error:  # noqa: BLE001 - ctypes would print it and go on
                failures.append(error)
            return True

        with self._watched(told):
            self.open(n_ctx=N_CTX, n_seq_max=2)
        for rows in batches:
            n_named.clear()
            for k, logits in self._decoded(rows):
                if rows[k].seqs == [0]:
                    last = logits.copy()
        if failures:
            raise failures[0]
        return seen, last

    @contextmanager
    def _watched(self, told: Callable[[int, bool, object], bool]) -> Iterator[None]:
        """The context that is opened inside calls `told` before and after each result."""
        params = self._lib.llama_context_default_params()
        self._told = params.cb_eval = self._lib.ggml_backend_sched_eval_callback(told)
        with patch.object(self._lib, "llama_context_default_params", return_value=params):
            yield


def _own_values(tensor: _Tensor, name: str, rows: Sequence[Row]) -> tuple[slice, NDArray[np.float32]] | None:
    """Positions and values, in place, of sequence 0; None where no axis is the batch's tokens."""
    if name.startswith(("kq-", "kq_")):  # one column per cache cell: its length is of the shape itself
        return None
    flat = tensor.ne[1] == len(rows) and tensor.ne[2] == 1
    axis = 2 if name.startswith(("Qcur", "Kcur", "Vcur")) and not flat else 1
    # After the last attention only the rows whose logits are wanted go on.
    among = (rows, [row for row in rows if row.wanted])
    of = next((each for each in among if len(each) == tensor.ne[axis]), ())
    own = [i for i, row in enumerate(of) if row.seqs == [0]]
    if not own:
        return None
    axes = [axis, *(k for k in (3, 2, 1, 0) if k != axis)]
    shape = [len(own), *(tensor.ne[k] for k in axes[1:])]
    strides = [tensor.nb[k] for k in axes]
    n_bytes = 4 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * n_bytes).from_address(tensor.data + own[0] * tensor.nb[axis])
    begin = of[own[0]].position
    values: NDArray[np.float32] = np.ndarray(shape, np.float32, buffer=memory, strides=strides)
    return slice(begin, begin + len(own)), values


def batches(shape: str, prompt: Sequence[int], company: Sequence[int]) -> list[list[Row]]:
    """The rows of each batch of a shape; the prompt is sequence 0."""
    own = [Row(t, i, [0], wanted=i == len(prompt) - 1) for i, t in enumerate(prompt)]
    other = [Row(t, i, [1]) for i, t in enumerate(company)]
    match shape:
        case "again":
            return [own]
        case "+300 behind":
            return [own + other[:300]]
        case "64 ahead":
            return [other[:64] + own]
        case "33 ahead":
            return [other[:33] + own]
        case "33 cached":
            return [other[:33], own]
    step = int(shape.removeprefix("by "))
    return [own[i : i + step] for i in range(0, len(own), step)]


def first_difference(a: Seen, b: Seen) -> str:
    """The earliest result that is not the same bits in both, and by how much; empty where none is."""
    for name, values in a.items():
        apart = np.abs(values - b.get(name, np.nan))
        if (largest := float(np.nan_to_num(apart).max())) > 0:
            return f"{name} {largest:.0e}"
    return ""


def moved(epsilon: float) -> Change:
    """Each value of the first layer's output goes up or down by a share of `epsilon`."""
    rng = np.random.default_rng(0)

    def change(name: str, _positions: slice, values: NDArray[np.float32]) -> None:
        if name == "l_out-0":
            values *= (1 + epsilon * rng.choice([-1, 1], size=values.shape)).astype(np.float32)

    return change


def attention_of(seen: Seen) -> Change:
    """What attention gives is replaced by what it gave then."""

    def change(name: str, positions: slice, values: NDArray[np.float32]) -> None:
        if name.startswith("kqv_out-"):
            values[...] = seen[name][positions]

    return change


@dataclass(frozen=True, slots=True)
class Found:
    """What one file did in one kind of attention: largest differences of logits from the prompt alone."""

    shapes: dict[str, tuple[float, str]]
    """Shape -> difference, and the first result that differs."""
    moved: dict[float, tuple[float, float]]
    """Share by which the first layer's output moved -> difference, and that of layer `DEEP`, relative."""
    replaced: float
    """Difference in the shape `33 ahead` when attention's outputs are those of the prompt alone."""


def measure(path: Path, settings: Settings) -> Found:
    """Evaluate the prompt in every shape, and with every change."""
    with Probe(path, settings) as probe:
        prompt, company = probe.tokenize(PROMPT)[:N_PROMPT], probe.tokenize(COMPANY)
        if len(prompt) < N_PROMPT or len(company) < 300:
            sys.exit("this model's tokenizer makes too few tokens of the texts")
        seen, logits = probe.watch(batches("again", prompt, company))

        def apart(shape: str, change: Change | None = None) -> tuple[float, Seen]:
            other, other_logits = probe.watch(batches(shape, prompt, company), change)
            return float(np.abs(logits - other_logits).max()), other

        shapes, shares = {}, {}
        for shape in SHAPES:
            delta, other = apart(shape)
            shapes[shape] = delta, first_difference(seen, other)
        for epsilon in EPSILONS:
            delta, other = apart("again", moved(epsilon))
            deep = seen[DEEP]
            shares[epsilon] = delta, float(np.linalg.norm(deep - other[DEEP]) / np.linalg.norm(deep))
        return Found(shapes, shares, apart("33 ahead", attention_of(seen))[0])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table on stdout."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def paths(model: Path | None, levels: Sequence[str]) -> dict[str, Path]:
    """Level -> file, made where the cache has none; a file given by name stands alone."""
    if model is not None:
        return {model.name: model}
    parent = resolve(DEFAULT_MODEL, lambda line: print(line, file=sys.stderr))
    return {level: make_level(parent, level, n_threads=1, progress=lambda *_: None).path for level in levels}


def show(title: str, found: Mapping[str, Found]) -> None:
    """Two tables on stdout."""
    print(f"### {title}\n\nLargest difference of a logit from the prompt alone (first result that differs)\n")
    cells = {
        level: [f"{delta:.2g} ({where})" if where else "0" for delta, where in each.shapes.values()]
        for level, each in found.items()
    }
    table(["level", *SHAPES], [[level, *row] for level, row in cells.items()])
    print("The shape unchanged, the first layer's output moved; and 33 ahead with attention replaced\n")
    head = [f"by {epsilon:.0e}: {what}" for epsilon in EPSILONS for what in (DEEP, "logits")]
    rows = []
    for level, each in found.items():
        effects = [cell for delta, deep in each.moved.values() for cell in (f"{deep:.0e}", f"{delta:.2g}")]
        rows.append([level, *effects, f"{each.replaced:.2g}"])
    table(["level", *head, "attention replaced: logits"], rows)


def main() -> int:
    """Measure each level in both kinds of attention, print, tell by the exit code."""
    parser = argparse.ArgumentParser(description="what the shape of a batch does to logits")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the levels")
    options = parser.parse_args()
    files = paths(options.model, options.levels.split(","))
    ok = True
    for title, settings in ATTENTION.items():
        found = {level: measure(path, settings) for level, path in files.items()}
        show(title, found)
        ok &= all(each.shapes["again"] == (0, "") for each in found.values())
        if settings.type_k == "f32" and "f32" in found:
            ok &= max(delta for delta, _ in found["f32"].shapes.values()) < F32_LIMIT
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
