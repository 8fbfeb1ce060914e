"""`tune`: the best setting for a goal, for a third of a sweep's trials."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import busy_option, db_option, take_sigterm_as_ctrl_c, with_options
from edgebench.cli.output import Column, emit, emit_one, output_option, remark
from edgebench.cli.progress import Progress
from edgebench.cli.run_options import (
    FLASH_ATTN,
    KV_TYPES,
    NAMES,
    POSITIVE,
    POSITIVES,
    SWEPT,
    SWITCHES,
    Numbers,
    data_option,
)
from edgebench.core.errors import InvalidRun, UsageError
from edgebench.core.units import data_size, duration, interval, significant

EPILOG = """\b
Examples:
  edgebench tune --goal speed                             threads, physical batch, flash attention
  edgebench tune -m model.gguf --goal speed --keep-acc 0.03
  edgebench tune -m model.gguf --goal memory --tune ub,kv,mmap --keep-speed 0.2
  edgebench tune -m model.gguf --goal energy -p 1024 -n 256
  edgebench tune -m model.gguf -t 1-8*2 -ub 128,256,512 -fa on --dry-run

One request (-p tokens in, -n tokens out) is what counts. Every setting is tried once and briefly, a third of
them again, and so on; the default is measured between them, so that what the computer does meanwhile is taken
out. The winner is then held against the default in fresh pairs, and the gain is told from those alone. All of
it takes a third of the trials of `edgebench run` with the same lists. Trials are runs like others (edgebench
runs list), but never stand for their file in a table of levels. The same command goes on where it was
stopped.
"""

VALUES: list[Callable[[Any], Any]] = [
    click.option(
        "-t", "--threads", type=POSITIVES, help="Values to try, or the one to keep: 1,2,4 or 1-8*2."
    ),
    click.option("-b", "--batch-size", type=POSITIVES, help="Logical batches to try."),
    click.option("-ub", "--ubatch-size", type=POSITIVES, help="Physical batches to try."),
    click.option("-ngl", "--n-gpu-layers", type=Numbers(least=-1), help="Layers on the GPU to try; -1: all."),
    click.option("-fa", "--flash-attn", type=FLASH_ATTN, help="Flash attention: on,off."),
    click.option("-ctk", "--cache-type-k", type=KV_TYPES, help="K cache types to try."),
    click.option("-ctv", "--cache-type-v", type=KV_TYPES, help="V cache types to try."),
    click.option("-mmp", "--mmap", type=SWITCHES, help="Map the weights: on,off."),
]
FIELDS = {name: field for name, field in SWEPT.items() if name not in ("provider", "dtype")}
"""Options of values to try -> the settings they are of."""


@click.command(epilog=EPILOG)
@click.option(
    "-m", "--model", type=NAMES, help="A model's name, a file or a folder.  [default: smollm2-135m]"
)
@click.option("--quant", type=NAMES, help="The level to make of it and tune.  [default: the file as it is]")
@click.option("--runner", help="The engine; chosen by the file's format unless named.")
@click.option("--device", default="local", show_default=True, help="What to run on.")
@click.option(
    "--goal",
    type=click.Choice(["speed", "energy", "memory"]),
    default="speed",
    show_default=True,
    help="Least seconds, joules or peak memory of a request.",
)
@click.option(
    "--tune",
    "names",
    type=NAMES,
    help="Settings to try: t,b,ub,fa,kv,ctk,ctv,mmap (kv: both cache types).  [default: t,ub,fa; for memory"
    " ub,fa,mmap; with --keep-acc also kv]",
)
@with_options(VALUES)
@click.option(
    "--keep-acc",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Take no setting that may lose more accuracy than this share (0.03) on the suite.",
)
@click.option(
    "--keep-speed",
    type=click.FloatRange(min=0),
    help="Take no setting whose request takes longer than the default's by more than this share."
    "  [default: 0.1 for memory]",
)
@click.option("--suite", type=NAMES, default="everyday", show_default=True, help="What --keep-acc asks.")
@click.option(
    "--scorer",
    type=click.Choice(["letter", "cloze", "generate"]),
    help="How answers are read off.  [default: the suite's own]",
)
@click.option("--limit", "-L", type=POSITIVE, help="Ask a stratified sample of N questions.")
@data_option
@click.option("-p", "--n-prompt", type=POSITIVE, default=512, show_default=True, help="Tokens in.")
@click.option("-n", "--n-gen", type=POSITIVE, default=128, show_default=True, help="Tokens out.")
@click.option(
    "-d", "--n-depth", type=click.IntRange(min=0), default=0, show_default=True, help="Tokens cached before."
)
@click.option(
    "--energy", default="auto", show_default=True, metavar="METER", help="auto, none, or the meter to use."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random tokens and the order.")
@db_option
@busy_option
@click.option("--dry-run", is_flag=True, help="Show the settings and the budget; measure nothing.")
@output_option
def tune(db: Path, busy_timeout: float, dry_run: bool, output: str, **options: Any) -> None:
    """Find the setting that makes a request fastest, cheapest or smallest, and say what it gains."""
    from edgebench.results.store import Store
    from edgebench.session_phone import AUTO, is_phone
    from edgebench.session_tune import tune as search
    from edgebench.session_tune_plan import plan_tune

    device = options["device"]
    if device.startswith("ssh:") or (device != AUTO and is_phone(device)):
        raise UsageError(
            f"tune works on this computer only, not on {device}",
            f"all combinations there: edgebench run --device {shlex.quote(device)} -t 1,2,4 -ub 128,512",
        )
    found = plan_tune(_request(options))
    for line in found.remarks:
        remark(line)
    if dry_run:
        found.plan.metering.close()
        _show_plan(found, output)
        return
    take_sigterm_as_ctrl_c()
    remark(_budget(found))
    with Store.open(db, busy_timeout_s=busy_timeout) as store, Progress() as progress:
        tuned = search(found, store, progress)
    _show(found, tuned, output)
    if tuned.invalid:
        raise InvalidRun("; ".join(tuned.invalid), "the comparison is stored and can't be trusted")


def _request(options: dict[str, Any]) -> Any:
    from edgebench.core.types import Scorer
    from edgebench.session_models import DEFAULT_MODEL
    from edgebench.session_plan import Request
    from edgebench.session_tune_plan import TuneRequest
    from edgebench.session_tune_space import Goal

    return TuneRequest(
        request=Request(
            device=options["device"],
            models=options["model"] or (DEFAULT_MODEL,),
            quants=options["quant"] or (),
            runner=options["runner"],
            suites=options["suite"],
            scorer=Scorer(options["scorer"]) if options["scorer"] else None,
            limit=options["limit"],
            data=options["data"],
            n_prompt=(options["n_prompt"],),
            n_gen=(options["n_gen"],),
            n_depth=(options["n_depth"],),
            meter=options["energy"],
            seed=options["seed"],
        ),
        goal=Goal(options["goal"]),
        names=options["names"] or (),
        given={field: options[name] for name, field in FIELDS.items() if options[name]},
        keep_acc=options["keep_acc"],
        keep_speed_share=options["keep_speed"],
    )


def _budget(found: Any) -> str:
    n, schedule = len(found.space.settings), found.schedule
    return (
        f"{n} settings, {schedule.n_repetitions} to {schedule.n_repetitions_at_most} trials"
        f" (a sweep of all would take {found.n_sweep}); goal: {found.measure}"
    )


def _show_plan(found: Any, output: str) -> None:
    from edgebench.core.setting_flags import as_flags

    default, *_ = found.space.settings
    rows = [
        {"flags": as_flags(one, found.space.tried), "default": one is default, "settings": one}
        for one in found.space.settings
    ]
    columns = [Column("flags", "settings"), Column("default", "", lambda yes: "default" if yes else "")]
    emit(rows, columns, output, f"{found.measure}: what would be tried")
    remark(_budget(found))


NOISY_SHARE = 0.1
"""Of the trials, those that may be disturbed before that is said."""
UNITS = {"speed": "seconds", "energy": "joules", "memory": "bytes"}
"""Goal -> what it counts."""
COSTS: list[tuple[str, str, Callable[[float], str]]] = [
    ("request_s", "request", duration),
    ("energy_j_per_request", "J/request", significant),
    ("peak_bytes", "peak memory", data_size),
]


def _show(found: Any, tuned: Any, output: str) -> None:
    if output in ("json", "jsonl", "csv"):
        emit_one(_told(found, tuned), output)
        return
    sides = {"default": tuned.default, **({"best found": tuned.candidate} if tuned.candidate else {})}
    rows = [{"who": who, **asdict(side)} for who, side in sides.items()]
    columns = [
        Column("who", ""),
        Column("flags", "settings"),
        *(Column(key, title, _costs(show), right=True) for key, title, show in COSTS),
        Column("run_id", "run"),
    ]
    columns = [column for column in columns if any(row[column.key] is not None for row in rows)]
    emit(rows, columns, output, f"{tuned.artifact.model} {tuned.artifact.label}: {found.measure}")
    _conclude(found, tuned)


def _costs(show: Callable[[float], str]) -> Callable[[dict[str, Any]], str]:
    def told(estimate: dict[str, Any]) -> str:
        low, high = estimate["ci_low"], estimate["ci_high"]
        return show(estimate["value"]) + ("" if low is None else f"\n[{show(low)}, {show(high)}]")

    return told


def _conclude(found: Any, tuned: Any) -> None:
    """The verdict, the flags to paste, and what it took, for people."""
    if tuned.candidate is None:
        remark("the default is as good: no other setting was better and keeps what it must")
    else:
        told = f"{tuned.ratio.value:.3f} {interval(tuned.ratio.ci_low, tuned.ratio.ci_high)}"
        what = f"{tuned.candidate.flags} takes {told} times the default's {UNITS[found.asked.goal]}"
        remark(what if tuned.separable else f"the default is as good: {what}, not separable from it")
    if tuned.kept is not None:
        remark(f"answers: {tuned.kept.told}")
    elif tuned.separable and _is_quantized(tuned.candidate.settings):
        remark("its cache is quantized, which changes answers: --keep-acc 0.03 watches them")
    remark(f"use: {tuned.best.flags}")
    share = 100 * tuned.n_repetitions / found.n_sweep
    remark(
        f"{tuned.n_repetitions} trials, {share:.0f} % of the {found.n_sweep} of a sweep"
        f" (with warm-ups {tuned.n_passes} of {found.n_sweep_passes})"
    )
    if tuned.n_measured > tuned.n_repetitions:
        remark(
            f"the meter's windows are longer than a request: it was repeated {tuned.n_measured} times in all"
        )
    if tuned.n_flagged > NOISY_SHARE * tuned.n_measured:
        remark(
            f"{tuned.n_flagged} of {tuned.n_measured} repetitions were disturbed by other programs or an"
            " unsteady host: quieten it and search again (another --seed measures anew)"
        )


def _is_quantized(settings: dict[str, Any]) -> bool:
    from edgebench.session_tune_space import quantizes_cache

    return quantizes_cache(settings)


def _told(found: Any, tuned: Any) -> dict[str, Any]:
    return {
        "model": tuned.artifact.model,
        "level": tuned.artifact.label,
        "artifact_sha256": tuned.artifact.sha256,
        "device": found.plan.device.id,
        "goal": found.asked.goal.value,
        "measure": found.measure,
        "test": found.workload.name,
        "verdict": "better" if tuned.separable else "the default is as good",
        "best": asdict(tuned.best),
        "default": asdict(tuned.default),
        "candidate": tuned.candidate and asdict(tuned.candidate),
        "ratio": tuned.ratio and asdict(tuned.ratio),
        "answers": tuned.kept and asdict(tuned.kept),
        "dropped": [{"flags": flags, "why": why} for flags, why in tuned.dropped],
        "n_settings": len(found.space.settings),
        "n_trials": tuned.n_repetitions,
        "n_trials_sweep": found.n_sweep,
        "n_passes": tuned.n_passes,
        "n_passes_sweep": found.n_sweep_passes,
        "n_measured": tuned.n_measured,
        "n_flagged": tuned.n_flagged,
        "settings": [asdict(one) for one in tuned.ranking],
    }
