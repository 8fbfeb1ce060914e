"""Speed and memory: levels in turn (A B C, then C B A), a fresh process each visit."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.core.types import NO_METER, Status
from edgebench.results.store import Store
from edgebench.session_cell import Cell, Outcome, Watcher, close, engine_of, recorded, start, store_readings
from edgebench.session_child import Child
from edgebench.session_job import Job
from edgebench.session_plan import Plan, interleaved


def measure_speed(
    cells: Sequence[Cell], plan: Plan, store: Store, watcher: Watcher, outcome: Outcome
) -> None:
    """Every visit the runs lack; a run whose visit fails is not visited again."""
    request = plan.request
    visits = [
        (cells[i], round_index, _missing_trials(cells[i], round_index, plan, store))
        for round_index, i in interleaved(len(cells), request.rounds)
    ]
    visits = [visit for visit in visits if visit[2]]
    unfinished = {cell.run_id for cell, _, _ in visits}
    for cell in cells:
        if cell.run_id not in unfinished:
            close(cell, store)
    if not visits:
        return
    n_steps = sum(len(repetitions) + 1 for _, _, missing in visits for _, repetitions in missing)
    watcher.stage(f"measuring speed and memory, {len(visits)} visits", n_steps)
    failed: set[str] = set()
    for cell, round_index, missing in visits:
        if cell.run_id in failed:
            continue
        with recorded(cell, store, watcher, outcome, failed):
            _visit(cell, round_index, missing, plan, store, watcher)
            if not any(_missing_trials(cell, r, plan, store) for r in range(request.rounds)):
                close(cell, store)


def _missing_trials(cell: Cell, round_index: int, plan: Plan, store: Store) -> list[tuple[int, list[int]]]:
    """(workload's number, repetitions still to do) of one visit."""
    done = store.count_trials(cell.run_id)
    return [
        (i, list(range(n, plan.request.repetitions)))
        for i, workload in enumerate(cell.job.workloads)
        if (n := done.get((workload.name, round_index), 0)) < plan.request.repetitions
    ]


def _visit(
    cell: Cell,
    round_index: int,
    missing: Sequence[tuple[int, list[int]]],
    plan: Plan,
    store: Store,
    watcher: Watcher,
) -> None:
    """One fresh process, one level, the repetitions that are missing."""
    store.set_status(cell.run_id, Status.RUNNING)
    process_index = store.next_process_index(cell.run_id)
    seed = cell.job.config["seed"]
    workloads = [_workload_todo(cell.job, i, repetitions, seed + round_index) for i, repetitions in missing]
    load_s: float | None = None
    job = {"kind": "performance", **engine_of(cell, plan), "workloads": workloads}
    with start(job, plan, watcher) as child:
        for message in child.messages():
            memory = message["memory"]
            if message["type"] == "loaded":
                load_s = message["load_s"]
                store.set_engine(cell.run_id, message["facts"])
                continue
            trial = _trial_columns(message, cell)
            trial |= {
                "round_index": round_index,
                "process_index": process_index,
                "load_s": load_s,
                "peak_rss_bytes": memory.peak_rss_bytes if memory else None,
                **_split(child),
            }
            store_readings(child, cell, store)
            store.add_trial(cell.run_id, trial, message["token_times_s"])
            watcher.step(f"{cell.artifact.quant.name} {message['test']}")


def _workload_todo(job: Job, i: int, repetitions: list[int], seed: int) -> dict[str, Any]:
    w = job.workloads[i]
    fields = {"n_prompt": w.n_prompt, "n_gen": w.n_gen, "n_depth": w.n_depth, "chat": w.chat}
    return {"workload": fields, "repetitions": repetitions, "seed": seed}


def _trial_columns(message: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    copied = (
        *("test", "phase", "repetition", "n_prompt", "n_gen", "n_depth", "prefill_s", "decode_s", "ttft_s"),
        *("total_s", "foreign_cpu_s", "canary_before_s", "canary_after_s"),
    )
    return {
        **{key: message[key] for key in copied},
        "started_s": message["started_unix_s"] - cell.started_unix_s,
        "flags_json": json.dumps(message["flags"]),
        "energy_reason": NO_METER,
    }


def _split(child: Child) -> dict[str, int | None]:
    """The highest anonymous and mapped-file memory among the looks taken since the last message."""
    seen = [memory for _, memory in child.readings]
    return {
        "peak_rss_anon_bytes": max((m.anon_bytes for m in seen), default=None),
        "peak_rss_file_bytes": max((m.file_bytes for m in seen), default=None),
    }
