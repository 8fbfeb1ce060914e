"""The flags of `run`, which a sweep's plan spells too, and the kinds of values they take."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EDGEBENCH_DATA",
    help="Folder of suites whose questions are not shipped.",
)

_NUMBER = re.compile(r"-?\d+")
_RANGE = re.compile(r"(\d+)-(\d+)(?:([+*])(\d+))?")


class Names(click.ParamType[Any]):
    """Names by comma: `q8_0,q4_0`."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split; empty parts are dropped."""
        return (
            value
            if isinstance(value, tuple)
            else tuple(part.strip() for part in str(value).split(",") if part.strip())
        )


class Numbers(click.ParamType[Any]):
    """llama-bench's numbers: `512`, `128,512`, `1-8`, `1-8+2`, `1-64*2`; none below `least`."""

    name = "numbers"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """All values a list or range stands for."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in str(value).split(","):
            if _NUMBER.fullmatch(part.strip()):
                numbers.append(int(part))
            elif match := _RANGE.fullmatch(part.strip()):
                numbers += _stepped(int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1))
            else:
                self.fail(f"{part!r} is not a number or a range like 1-8, 1-8+2 or 1-64*2", param, ctx)
        if low := [number for number in numbers if number < self._least]:
            self.fail(f"{low[0]} is below {self._least}", param, ctx)
        return tuple(numbers)


class Words(click.ParamType[Any]):
    """Some of a few words, by comma: `on,off`. `values` are what each spelling of them means."""

    name = "words"

    def __init__(self, shown: Sequence[str], values: Mapping[str, Any] | None = None) -> None:
        self._shown, self._values = shown, values or {word: word for word in shown}

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What may stand there."""
        return f"[{'|'.join(self._shown)}],…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Split; every part must be known."""
        if isinstance(value, tuple):
            return value
        words = [part.strip().lower() for part in str(value).split(",")]
        if unknown := [word for word in words if word not in self._values]:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(self._shown)}", param, ctx)
        return tuple(self._values[word] for word in words)


def _stepped(first: int, last: int, sign: str, by: int) -> list[int]:
    numbers: list[int] = []
    while first <= last and len(numbers) < 1000:
        numbers.append(first)
        following = first + by if sign == "+" else first * by
        if following <= first:
            break
        first = following
    return numbers


NAMES, NUMBERS, POSITIVES = Names(), Numbers(), Numbers(least=1)
POSITIVE = click.IntRange(min=1)
_ON_OFF = {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}
SWITCHES = Words(("on", "off"), _ON_OFF)
FLASH_ATTN = Words(
    ("on", "off", "auto"), {"auto": "auto", **{word: "on" if on else "off" for word, on in _ON_OFF.items()}}
)
KV_TYPES = Words(("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"))

SWEPT = {
    "threads": "n_threads",
    "batch_size": "n_batch",
    "ubatch_size": "n_ubatch",
    "n_gpu_layers": "n_gpu_layers",
    "flash_attn": "flash_attn",
    "cache_type_k": "type_k",
    "cache_type_v": "type_v",
    "mmap": "mmap",
    "provider": "provider",
    "dtype": "dtype",
}
"""Options that take several values -> the settings they are of."""

RUN_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--device",
        default="local",
        show_default=True,
        help="What to run on: a name of `devices list` (pixel8), adb:SERIAL, auto (an attached phone, else"
        " this computer), or a host, ssh:user@board[:port].",
    ),
    click.option(
        "-m",
        "--model",
        type=NAMES,
        help="Model names, GGUF files or ONNX folders, by comma.  [default: smollm2-135m]",
    ),
    click.option("--quant", type=NAMES, help="Levels to make of each model and measure: f16,q8_0,q4_0,…"),
    click.option("--runner", help="The engine; chosen by the file's format unless named."),
    click.option(
        "--mode",
        type=click.Choice(["performance", "accuracy", "both"]),
        default="both",
        show_default=True,
        help="What to measure.",
    ),
    click.option(
        "--suite",
        "--tasks",
        "suite",
        type=NAMES,
        default="everyday",
        show_default=True,
        help="Suites, by comma.",
    ),
    click.option(
        "--scorer",
        type=click.Choice(["letter", "cloze", "generate"]),
        help="How answers are read off.  [default: the suite's own]",
    ),
    data_option,
    click.option(
        "--key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Answers (CSV) to a suite whose authors keep theirs; used here only, never stored or sent.",
    ),
    click.option(
        "--num-fewshot",
        "--num_fewshot",
        "-f",
        "num_fewshot",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Worked examples before each question.",
    ),
    click.option(
        "--apply-chat-template/--no-apply-chat-template",
        "--apply_chat_template",
        "apply_chat_template",
        default=False,
        help="Ask as one user turn of the model's chat template.",
    ),
    click.option(
        "--permute",
        type=click.Choice(["none", "cyclic"]),
        default="none",
        show_default=True,
        help="cyclic: ask each question with its options in every rotation.",
    ),
    click.option(
        "--limit",
        "-L",
        type=POSITIVE,
        help="A stratified sample of N questions or a few more (groups of 8).",
    ),
    click.option("--limit-first/--no-limit-first", help="The first N of the files, as lm-eval takes them."),
    click.option(
        "--target-ci",
        type=click.FloatRange(min=0, max=0.5, min_open=True),
        help="Go on until figures are known to ± this (0.02): accuracy, by a bound that holds under"
        " peeking; speeds, as a share of their median, by more visits.",
    ),
    click.option(
        "--energy",
        default="auto",
        show_default=True,
        metavar="METER",
        help="auto, none, or the meter to take figures from; `devices probe` lists them.",
    ),
    click.option(
        "--model-energy",
        "tdp_w",
        type=click.FloatRange(min=0, min_open=True),
        metavar="TDP_W",
        help="Also store a MODELLED figure: this many watts × the share of the cores in use. Never ranks.",
    ),
    click.option(
        "--rigorous/--no-rigorous",
        default=False,
        help="The full protocol: cool down, idle baselines, cold load, 5 visits × 5 or more with an anchor"
        " between them, windows as long as the meter needs.",
    ),
    click.option(
        "--cold-load/--no-cold-load",
        default=False,
        help="Drop the file from memory before the first visit: load time from disk.",
    ),
    click.option(
        "--sustained",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="S",
        help="Also generate for S seconds without pause (600): what heat leaves of the speed.",
    ),
    click.option(
        "--marker/--no-marker",
        default=False,
        help="Begin with three load pulses, so that an external meter's log can be laid over the run.",
    ),
    click.option(
        "--truncate/--no-truncate",
        default=True,
        show_default=True,
        help="Cut prompts that are too long from the left (counted), or refuse them.",
    ),
    click.option(
        "--noise-floor/--no-noise-floor",
        default=False,
        show_default=True,
        help="Also score each question alone: the file's flips against itself.",
    ),
    click.option(
        "-p", "--n-prompt", type=NUMBERS, default="512", show_default=True, help="pp tests; 0: none."
    ),
    click.option("-n", "--n-gen", type=NUMBERS, default="128", show_default=True, help="tg tests; 0: none."),
    click.option(
        "-d", "--n-depth", type=NUMBERS, default="0", show_default=True, help="Tokens in the cache before."
    ),
    click.option(
        "--chat",
        type=click.IntRange(min=0),
        default=64,
        show_default=True,
        help="Tokens to generate in the chat request that gives TTFT and TPOT; 0: none.",
    ),
    click.option(
        "-r", "--repetitions", type=POSITIVE, default=5, show_default=True, help="Per visit and test."
    ),
    click.option(
        "--rounds", type=POSITIVE, default=2, show_default=True, help="Visits per level, interleaved."
    ),
    click.option(
        "-t", "--threads", type=POSITIVES, help="CPU threads.  [default: physical cores; phones: tried out]"
    ),
    click.option(
        "-C",
        "--cpu-mask",
        help="Processors the threads may use, in hex (0xf0); phones and llama_native only.",
    ),
    click.option(
        "-b", "--batch-size", type=POSITIVES, default="2048", show_default=True, help="Logical batch."
    ),
    click.option(
        "-ub", "--ubatch-size", type=POSITIVES, default="512", show_default=True, help="Physical batch."
    ),
    click.option(
        "-ngl",
        "--n-gpu-layers",
        type=Numbers(least=-1),
        default="0",
        show_default=True,
        help="Layers on the GPU; -1: all.",
    ),
    click.option(
        "-fa", "--flash-attn", type=FLASH_ATTN, default="on", show_default=True, help="Flash attention."
    ),
    click.option(
        "-ctk", "--cache-type-k", type=KV_TYPES, default="f16", show_default=True, help="K cache type."
    ),
    click.option(
        "-ctv", "--cache-type-v", type=KV_TYPES, default="f16", show_default=True, help="V cache type."
    ),
    click.option(
        "-mmp",
        "--mmap",
        type=SWITCHES,
        is_flag=False,
        flag_value="on",
        default="on",
        show_default=True,
        help="Map the weights, or read them.",
    ),
    click.option("--no-mmap", is_flag=True, help="The same as --mmap off."),
    click.option("--provider", type=NAMES, help="Where onnx and torch compute: cpu, cuda, …  [default: cpu]"),
    click.option(
        "--dtype", type=NAMES, help="What torch keeps weights in: f32, bf16, f16, …  [default: f32]"
    ),
    click.option("-mg", "--main-gpu", help="The GPU, by index or UUID.  [default: the first]"),
    click.option("--server", metavar="URL", help="A server that runs already, for --runner llama_server."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the random tokens."),
]
