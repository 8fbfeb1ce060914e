"""What the native programs are given and what they answer: job files, and lines of JSON.

A job file is text, one op a line, words apart by one blank, texts as hex of UTF-8 (`-` when empty):

    edgebench-job 1
    model HEX
    settings threads 4 batch 2048 ubatch 512 flash on type_k f16 type_v f16 mmap 1
    test NAME n_prompt n_gen n_depth seed first n_rep min_s     a warm-up, repetitions, their window
    chat NAME n_gen first n_rep min_s HEX                       a text, greedily answered
    ask NAME n_gen first n_rep min_s N_ENDERS e… N t…           (ONNX) the same, of tokens
    sustained NAME n_gen seconds seed                           seeds: 0 to 2**30
    context n_ctx n_seq_max                                     a cache for what follows
    group INDEX … endgroup                                      a scoring group, answered as a whole
    clear  |  hold N t…                                         an empty cache; one that holds these tokens
    tree N_ROWS N_ITEMS SHARED                                  one batch, laid out as `prefix_tree` says:
    r TOKEN POSITION WANTED N_SEQS s…                             its rows,
    i ITEM N_CONTINUATIONS {N row token …}…                       and which log-probabilities are summed
    plain ITEM N t… N_READS {position token}…                   (ONNX) one text from an empty cache

Groups that OUT holds already, from a try that was broken off, are passed over.

So the program is a mere executor, and its batches are the in-process engine's. It answers with one object a
line, stamped with the device's uptime; a device may lie, so every line is checked as it is read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgebench.core.engine import Item
from edgebench.core.errors import DeviceError
from edgebench.core.types import Settings, Workload
from edgebench.runners.prefix_tree import Tree, trees

FORMAT = "edgebench-job 1"
SEEDS = 2**30 + 1
"""The programs take seeds from 0 to 2**30; of any other whole number the remainder is written.

So rounds, whose seeds follow each other, still get different tokens.
"""
MAX_LINE = 2**24
"""Characters of a line; a longer one is no answer."""


class JobFile:
    """A job, grown op by op."""

    def __init__(self, model: str, settings: Settings) -> None:
        s = settings
        told = f"threads {s.n_threads} batch {s.n_batch} ubatch {s.n_ubatch} flash {s.flash_attn}"
        told += f" type_k {s.type_k} type_v {s.type_v} mmap {int(s.mmap)}"
        self._lines = [FORMAT, f"model {_hex(model)}", f"settings {told}"]

    def test(self, workload: Workload, *, seed: int, first: int, n_rep: int, min_s: float) -> None:
        """`pp512`, `tg128@d4096` …: random tokens, no sampling."""
        w = workload
        sizes = (w.n_prompt, w.n_gen, w.n_depth)
        self._add("test", w.name, *sizes, seed % SEEDS, first, n_rep, f"{min_s:.3f}")

    def chat(self, workload: Workload, *, text: str, first: int, n_rep: int, min_s: float) -> None:
        """A request in text, put into the model's template already."""
        self._add("chat", workload.name, workload.n_gen, first, n_rep, f"{min_s:.3f}", _hex(text))

    def ask(
        self,
        workload: Workload,
        *,
        tokens: Sequence[int],
        enders: Sequence[int],
        first: int,
        n_rep: int,
        min_s: float,
    ) -> None:
        """A request as tokens; of its answer, those that end a text are passed over."""
        w = workload
        told = (w.name, w.n_gen, first, n_rep, f"{min_s:.3f}", len(enders), *enders, len(tokens), *tokens)
        self._add("ask", *told)

    def sustained(self, workload: Workload, *, seed: int) -> None:
        """Minutes of writing."""
        self._add("sustained", workload.name, workload.n_gen, workload.sustained_s, seed % SEEDS)

    def context(self, n_ctx: int, n_seq_max: int) -> None:
        """A cache of so many cells for so many sequences, for the groups that follow."""
        self._add("context", n_ctx, n_seq_max)

    def group(self, index: int, items: Sequence[Item], *, shared: Sequence[int], n_cells: int) -> None:
        """Score continuations, batch by batch as `runners.llama_cpp` does; `n_cells` 0: one by one."""
        self._add("group", index)
        if not n_cells:
            for number, item in enumerate(items):
                self._add("clear")
                self._tree(trees([item], 0, 0)[0], [item], number, shared=False)
        else:
            self._add("hold", len(shared), *shared)
            number = 0
            for tree in trees(items, len(shared), n_cells):
                members = items[number : number + len(tree.ends)]
                self._tree(tree, members, number, shared=bool(shared))
                number += len(members)
        self._add("endgroup")

    def plain_group(self, index: int, items: Sequence[Item]) -> None:
        """The same for an engine without shared beginnings: each text from an empty cache.

        One-token continuations are read from one pass over their context.
        """
        self._add("group", index)
        for number, (context, continuations) in enumerate(items):
            for tokens, reads in _texts(context, continuations):
                told = [word for k, at, token in reads for word in (k, at, token)]
                self._add("plain", number, len(tokens), *tokens, len(reads), *told)
            self._add("item", number, len(continuations))
        self._add("endgroup")

    def text(self) -> str:
        """The file."""
        return "\n".join([*self._lines, ""])

    def _add(self, *words: object) -> None:
        self._lines.append(" ".join(map(str, words)))

    def _tree(self, tree: Tree, items: Sequence[Item], first: int, *, shared: bool) -> None:
        self._add("tree", len(tree.rows), len(items), int(shared))
        for row in tree.rows:
            self._add("r", row.token, row.position, int(row.wanted), len(row.seqs), *row.seqs)
        for number, ((_, continuations), reads) in enumerate(zip(items, tree.reads, strict=True), first):
            told: list[object] = []
            for continuation, rows in zip(continuations, reads, strict=True):
                told.append(len(rows))
                for row_index, token in zip(rows, continuation, strict=True):
                    told += [row_index, token]
            self._add("i", number, len(continuations), *told)


def _texts(
    context: Sequence[int], continuations: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], list[tuple[int, int, int]]]]:
    """Texts to evaluate, and of each (continuation, position, token) whose log-probability is read."""
    last = len(context) - 1
    if short := [(k, last, ends[0]) for k, ends in enumerate(continuations) if len(ends) == 1]:
        yield list(context), short
    for k, ends in enumerate(continuations):
        if len(ends) > 1:
            yield [*context, *ends[:-1]], [(k, last + i, token) for i, token in enumerate(ends)]


def _hex(text: str) -> str:
    return text.encode().hex() or "-"


# What comes back.

_S, _N, _MAYBE_S, _MAYBE_N = "seconds", "count", "seconds or none", "count or none"
_TRIAL = {
    **dict.fromkeys(("start_s", "end_s", "total_s", "canary_before_s", "canary_after_s"), _S),
    **dict.fromkeys(("prefill_s", "decode_s", "ttft_s", "engine_s"), _MAYBE_S),
    **dict.fromkeys(("repetition", "n_prompt", "n_gen", "n_depth", "n_ctx"), _N),
    **dict.fromkeys(("n_major_faults", "swap_bytes", "kv_cache_bytes"), _MAYBE_N),
    **dict.fromkeys(("peak_rss_bytes", "rss_anon_bytes", "rss_file_bytes"), _MAYBE_N),
    "test": "text",
    "phase": "text",
    "token_times_s": "list of seconds",
}
_WINDOW = {
    **dict.fromkeys(("start_s", "end_s", "busy_s"), _S),
    **dict.fromkeys(("n_requests", "n_prompt", "n_gen"), _N),
    "test": "text",
}
_FIELDS: dict[str, dict[str, str]] = {
    "begin": {"job": "text"},
    "end": {"job": "text", "rc": _N},
    "wait": {"temperature_c": "figure", "target_c": "figure"},
    "hot": {"temperature_c": "figure", "target_c": "figure"},
    "idle": {"start_s": _S, "end_s": _S},
    "loaded": {
        "load_s": _S,
        "start_s": _S,
        "end_s": _S,
        "baseline_rss_bytes": _MAYBE_N,
        "facts": "object",
    },
    "trial": _TRIAL,
    "window": _WINDOW,
    "answer": {"group": _N, "item": _N, "logprobs": "list of figures"},
    "group": {"group": _N, "start_s": _S, "group_s": _S},
    "progress": {"share": "figure"},
    "error": {"message": "text"},
    "done": {},
}
"""Type of a line -> what it holds; more is passed over."""


def read_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The answers among lines of text, each with the fields of its type and no others.

    What is no answer (an engine's own words, the end of a killed process's line) is passed over. DeviceError
    for an answer of a known type whose figures can't be: such a device is not to be believed.
    """
    for line in lines:
        if not line.startswith("{") or len(line) > MAX_LINE:
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            continue
        fields = _FIELDS.get(told.get("type")) if isinstance(told.get("type"), str) else None
        if fields is None:
            continue
        for name, kind in fields.items():
            if not _is(kind, told.get(name)):
                raise DeviceError(
                    f"the native program answers nonsense: in a line of type {told['type']}, {name} is"
                    f" {str(told.get(name))[:60]!r}",
                    "build it again (edgebench runners build native), or doubt the device",
                )
        yield {"type": told["type"], **{name: told.get(name) for name in fields}}


def _is(kind: str, value: object) -> bool:
    match kind:
        case "text":
            return isinstance(value, str) and len(value) < 2**16
        case "object":
            return isinstance(value, Mapping) and _is_storable(value)
        case "list of seconds":
            return isinstance(value, list) and all(_is(_S, one) for one in value)
        case "list of figures":
            return isinstance(value, list) and all(_is("figure", one) for one in value)
    if kind.endswith("or none") and value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind.startswith("count"):
        return isinstance(value, int) and 0 <= value < 2**60
    # No whole number is turned into a float here: one of 400 digits does not fit.
    return abs(value) < 1e300 if kind == "figure" else 0 <= value < 1e10


def _is_storable(value: object) -> bool:
    """Whether it is JSON of numbers that are numbers, and of text that can be encoded."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


_EXITS = {
    126: "can't be started: it is of another kind of processor or system, or not allowed to run",
    127: "is not there",
    132: (
        "was stopped by SIGILL: it uses instructions this processor does not have"
        " (EDGEBENCH_NATIVE_LEVEL=armv8-a, on a PC x86-64-v2, takes a program without them)"
    ),
    134: "gave up (SIGABRT)",
    137: "was killed: out of memory, most likely",
    139: "crashed (SIGSEGV)",
    143: "was told to end",
    159: "was stopped by a filter of system calls (SIGSYS)",
}


def explain_exit(status: int) -> str:
    """What an exit status means, to follow a program's name."""
    return _EXITS.get(status, f"ended with status {status}")
