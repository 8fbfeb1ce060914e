"""`run` and `sweep`: the verbs that measure."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgebench.cli.output import Column, emit, output_option, remark
from edgebench.cli.progress import Progress
from edgebench.core.errors import UsageError

db_option = click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("edgebench.sqlite"),
    show_default=True,
    envvar="EDGEBENCH_DB",
    help="The results database.",
)
busy_option = click.option(
    "--busy-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    envvar="EDGEBENCH_BUSY_TIMEOUT",
    help="Seconds to wait for a database that another program has locked.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EDGEBENCH_DATA",
    help="Folder of suites whose questions are not shipped.",
)

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
    """llama-bench's numbers: `512`, `128,512`, `1-8`, `1-8+2`, `1-64*2`."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """All values a list or range stands for."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in str(value).split(","):
            if part.strip().isdigit():
                numbers.append(int(part))
            elif match := _RANGE.fullmatch(part.strip()):
                numbers += _stepped(int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1))
            else:
                self.fail(f"{part!r} is not a number or a range like 1-8, 1-8+2 or 1-64*2", param, ctx)
        return tuple(numbers)


def _stepped(first: int, last: int, sign: str, by: int) -> list[int]:
    numbers: list[int] = []
    while first <= last and len(numbers) < 1000:
        numbers.append(first)
        following = first + by if sign == "+" else first * by
        if following <= first:
            break
        first = following
    return numbers


NAMES, NUMBERS = Names(), Numbers()
ON_OFF = click.Choice(["on", "off", "auto"])
KV_TYPE = click.Choice(["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"])
POSITIVE = click.IntRange(min=1)

RUN_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--device", default="local", show_default=True, help="What to run on; `devices list` names them."
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
        help="Stop when accuracy is known to ± this (0.02), by a bound that holds under peeking.",
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
    click.option("-t", "--threads", type=POSITIVE, help="CPU threads.  [default: physical cores]"),
    click.option("-b", "--batch-size", type=POSITIVE, default=2048, show_default=True, help="Logical batch."),
    click.option(
        "-ub", "--ubatch-size", type=POSITIVE, default=512, show_default=True, help="Physical batch."
    ),
    click.option("-ngl", "--n-gpu-layers", type=int, default=0, show_default=True, help="Layers on the GPU."),
    click.option(
        "-fa", "--flash-attn", type=ON_OFF, default="on", show_default=True, help="Flash attention."
    ),
    click.option(
        "-ctk", "--cache-type-k", type=KV_TYPE, default="f16", show_default=True, help="K cache type."
    ),
    click.option(
        "-ctv", "--cache-type-v", type=KV_TYPE, default="f16", show_default=True, help="V cache type."
    ),
    click.option("--mmap/--no-mmap", default=True, show_default=True, help="Map the weights, or read them."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the random tokens."),
]

RUN_EPILOG = """\b
Examples:
  edgebench run                                             everything by default, on this computer
  edgebench run -m smollm2-135m --quant q8_0,q4_0           two levels, speed and accuracy
  edgebench run -m model.gguf --mode performance -p 128,512 -n 64 -t 1
  edgebench run -m model.gguf --suite mmlu-medical --scorer letter --mode accuracy --data DIR
  edgebench run -m model.gguf --suite mmlu-medical --num-fewshot 5 --permute cyclic --limit 400 --data DIR
  edgebench run --dry-run                                   what would be done, and what is stored already

The same command again does only what is missing. Random tokens (pp, tg) are not tokenized or sampled,
as in llama-bench; the chat request is. Letters of models below about 1B are at chance: use cloze.
"""


def with_options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Apply a list of click options, the first on top."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command(epilog=RUN_EPILOG)
@with_options(RUN_OPTIONS)
@db_option
@busy_option
@click.option("--dry-run", is_flag=True, help="Show the plan and what of it is stored; measure nothing.")
@output_option
def run(db: Path, busy_timeout: float, dry_run: bool, output: str, **options: Any) -> None:
    """Measure models on a device: speed, memory and accuracy of the same file."""
    from edgebench.session_plan import make_plan

    plan = make_plan(make_request(options))
    if dry_run:
        _show_plan([plan], db, output)
    else:
        _measure([plan], db, busy_timeout, output)


@click.command(
    epilog="""\b
A plan is a TOML file of run's long flags; [matrix] holds lists, and every combination is run:
  model = "smollm2-135m"
  quant = ["q8_0", "q4_0"]
  mode = "performance"
  [matrix]
  threads = [1, 2]
  flash-attn = ["on", "off"]

\b
Examples:
  edgebench sweep plan.toml --dry-run
  edgebench sweep plan.toml --db sweep.sqlite
"""
)
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@db_option
@busy_option
@click.option("--dry-run", is_flag=True, help="Show every combination and what of it is stored.")
@output_option
@click.pass_context
def sweep(ctx: click.Context, plan: Path, db: Path, busy_timeout: float, dry_run: bool, output: str) -> None:
    """Run every combination of a plan file; what fails is recorded and the rest goes on."""
    from edgebench.cli.config import as_flag, option_names
    from edgebench.session_plan import make_plan
    from edgebench.session_sweep import read_sweep

    own = ("db", "busy_timeout", "dry_run", "output")  # a sweep's, not a combination's
    spelled = {key: name for key, name in option_names(run).items() if name not in own}
    plans = []
    for number, combination in enumerate(read_sweep(plan), start=1):
        if unknown := [key for key in combination if key not in spelled]:
            raise UsageError(
                f"{plan}: run has no option {', '.join(unknown)}", f"known: {', '.join(sorted(spelled))}"
            )
        # click's own parsing, so that a plan means what the same flags would mean.
        flags = [as_flag(key, value) for key, value in combination.items()]
        with run.make_context("run", flags, parent=ctx.parent) as made:
            options = {name: value for name, value in made.params.items() if name not in own}
        remark(f"combination {number}: " + ", ".join(f"{k}={v}" for k, v in combination.items()))
        plans.append(make_plan(make_request(options)))
    if dry_run:
        _show_plan(plans, db, output)
    else:
        _measure(plans, db, busy_timeout, output)


def make_request(options: dict[str, Any]) -> Any:
    """run's flags as a request; without a model, the default one and its ladder."""
    from edgebench.core.types import Permutation, Scorer
    from edgebench.session_models import DEFAULT_LADDER, DEFAULT_MODEL
    from edgebench.session_plan import Request

    models = options["model"] or ()
    quants = options["quant"] or ()
    return Request(
        device=options["device"],
        models=models or (DEFAULT_MODEL,),
        quants=quants or (() if models else DEFAULT_LADDER),
        runner=options["runner"],
        mode=options["mode"],
        suites=options["suite"],
        scorer=Scorer(options["scorer"]) if options["scorer"] else None,
        data=options["data"],
        key=options["key"],
        num_fewshot=options["num_fewshot"],
        permutation=Permutation(options["permute"]),
        apply_chat_template=options["apply_chat_template"],
        truncate=options["truncate"],
        limit=options["limit"],
        limit_first=options["limit_first"],
        target_ci=options["target_ci"],
        noise_floor=options["noise_floor"],
        n_prompt=options["n_prompt"],
        n_gen=options["n_gen"],
        n_depth=options["n_depth"],
        n_chat=options["chat"],
        repetitions=options["repetitions"],
        rounds=options["rounds"],
        n_threads=options["threads"],
        n_batch=options["batch_size"],
        n_ubatch=options["ubatch_size"],
        n_gpu_layers=options["n_gpu_layers"],
        flash_attn=options["flash_attn"],
        type_k=options["cache_type_k"],
        type_v=options["cache_type_v"],
        mmap=options["mmap"],
        seed=options["seed"],
    )


PLAN_COLUMNS = [
    Column("model", "model"),
    Column("level", "level"),
    Column("file", "file"),
    Column("mode", "mode"),
    Column("what", "what"),
    Column("n_total", "total", right=True),
    Column("n_stored", "stored", right=True),
    Column("n_todo", "to do", right=True),
    Column("unit", "unit"),
]


def _show_plan(plans: list[Any], db: Path, output: str) -> None:
    from edgebench.results.store import Store
    from edgebench.session_preview import plan_rows

    store = Store.open_readonly(db) if db.exists() else None
    rows = [row for plan in plans for row in plan_rows(plan, store)]
    if store is not None:
        store.close()
    emit(
        rows, PLAN_COLUMNS, output, f"plan for {plans[0].device.name if plans else 'nothing'}, database {db}"
    )


def _measure(plans: list[Any], db: Path, busy_timeout: float, output: str) -> None:
    import signal

    from edgebench.cli.levels import show_runs
    from edgebench.results.store import Store
    from edgebench.session import execute_all

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # a stopped service is an interrupted run, not a broken one
    with Store.open(db, busy_timeout_s=busy_timeout) as store:
        with Progress() as progress:
            outcome = execute_all(plans, store, progress)
        show_runs(store, outcome.run_ids, output)
    outcome.raise_if_bad()
