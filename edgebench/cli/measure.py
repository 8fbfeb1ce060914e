"""`run` and `sweep`: the verbs that measure."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgebench.cli.output import Column, emit, output_option, remark
from edgebench.cli.progress import Progress
from edgebench.cli.run_options import RUN_OPTIONS, SWEPT
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
NATIVE = ("llama_native", "onnx_native")
"""Engines that are programs by themselves."""
RUN_EPILOG = """\b
Examples:
  edgebench run                                             everything by default, on this computer
  edgebench run -m smollm2-135m --quant q8_0,q4_0           two levels, speed and accuracy
  edgebench run -m model.gguf --mode performance -p 128,512 -n 64 -t 1
  edgebench run -m model.gguf --mode performance -t 1-8*2 -ub 128,512 -fa on,off   every combination
  edgebench run -m model.gguf --suite mmlu-medical --scorer letter --mode accuracy --data DIR
  edgebench run -m model.gguf --suite mmlu-medical --num-fewshot 5 --permute cyclic --limit 400 --data DIR
  edgebench run -m model.gguf --mode performance --rigorous                 the full protocol
  edgebench run -m model.gguf --mode performance -p 0 -n 0 --chat 0 --sustained 600
  edgebench run --device ssh:pi@board -m model.gguf         the same, on another computer
  edgebench run --device pixel8                             on a phone: USB cable or Wi-Fi, no app, no root
  edgebench run --dry-run                                   what would be done, and what is stored already

The same command again does only what is missing. Random tokens (pp, tg) are not tokenized or sampled,
as in llama-bench; the chat request is. Settings take several values, too (-t -b -ub -ngl -fa -ctk -ctv
--mmap --provider --dtype): every combination is run, one after the other; edgebench tune needs a third of
that. Letters of models below about 1B are at chance: use cloze.
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
    _do(make_requests(options), db, busy_timeout, dry_run, output)


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
    from edgebench.session_sweep import read_sweep

    own = ("db", "busy_timeout", "dry_run", "output")  # a sweep's, not a combination's
    spelled = {key: name for key, name in option_names(run).items() if name not in own}
    requests = []
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
        requests += make_requests(options)
    _do(requests, db, busy_timeout, dry_run, output)


def make_requests(options: dict[str, Any]) -> list[Any]:
    """run's flags as a request for each combination of the settings that have several values."""
    from dataclasses import replace

    from edgebench.session_sweep import combinations

    values = {field: options[name] or (None,) for name, field in SWEPT.items()}
    if options["no_mmap"]:
        values["mmap"] = (False,)
    request = _request(options)
    found, remarks = combinations(values)
    for line in remarks:
        remark(line)
    return [replace(request, **settings) for settings in found]


def _request(options: dict[str, Any]) -> Any:
    """What is asked for but settings; without a model, the default one and its ladder."""
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
        meter=options["energy"],
        tdp_w=options["tdp_w"],
        rigorous=options["rigorous"],
        cold_load=options["cold_load"],
        sustained_s=options["sustained"],
        marker=options["marker"],
        noise_floor=options["noise_floor"],
        n_prompt=options["n_prompt"],
        n_gen=options["n_gen"],
        n_depth=options["n_depth"],
        n_chat=options["chat"],
        repetitions=options["repetitions"],
        rounds=options["rounds"],
        gpu=options["main_gpu"],
        server=options["server"],
        cpu_mask=options["cpu_mask"],
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


def _do(requests: list[Any], db: Path, busy_timeout: float, dry_run: bool, output: str) -> None:
    """Plan and do requests: on this computer, or on the host they name."""
    if any(request.device.startswith("ssh:") for request in requests):
        from edgebench.session_remote import execute_remote

        if dry_run:
            raise UsageError(
                "--dry-run does not look into hosts", "without --device it shows the same plan here"
            )
        _measure(partial(execute_remote, requests), db, busy_timeout, output)
        return
    if any(request.device != "local" or request.runner in NATIVE for request in requests):
        from edgebench.session_elsewhere import bare_worker

        if (work := bare_worker(requests)) is not None:
            if dry_run:
                raise UsageError(
                    "--dry-run does not look into phones", "without --device it shows the same plan"
                )
            _measure(work, db, busy_timeout, output)
            return
        if any(request.device == "auto" for request in requests):
            remark(
                "auto: no phone is attached, so it is this computer (edgebench devices probe --device auto)"
            )
    from edgebench.session import execute_all
    from edgebench.session_plan import make_plan

    plans = [make_plan(request) for request in requests]
    if dry_run:
        _show_plan(plans, db, output)
    else:
        _measure(partial(execute_all, plans), db, busy_timeout, output)


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


def _measure(work: Callable[[Any, Progress], Any], db: Path, busy_timeout: float, output: str) -> None:
    from edgebench.cli.levels import show_runs
    from edgebench.results.store import Store

    take_sigterm_as_ctrl_c()
    with Store.open(db, busy_timeout_s=busy_timeout) as store:
        with Progress() as progress:
            outcome = work(store, progress)
        show_runs(store, outcome.run_ids, output)
    outcome.raise_if_bad()


def take_sigterm_as_ctrl_c() -> None:
    """From now on, being stopped as a service is means being interrupted, not broken off."""
    import signal

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
