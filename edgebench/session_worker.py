"""The measuring process: `python -P -m edgebench.session_worker`, one job, one model, then gone.

It holds the engine and little else, so that its memory is the model's. It talks in JSON lines:

    in   first the job, then one `ok` line for every message that asks for it
    out  loaded · trial · answers · progress · done · error

After a message that wants an `ok` it stands still, so the parent can read its memory and write to the
database without disturbing a measurement. When its input closes, the parent is gone, and so is it.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Runner, Session, Settings, Shape, Workload
from edgebench.session_accuracy import score_groups
from edgebench.session_performance import Canary, measure

Send = Callable[[Mapping[str, Any]], None]


class Wire:
    """The pipe to the parent."""

    def __init__(self) -> None:
        # Whatever an engine prints must not end up between the messages.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._in: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._in.put(line)
        os._exit(3)  # the parent is gone: nobody would store what comes next

    def receive(self) -> Any:
        """The parent's next line."""
        return json.loads(self._in.get())

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the parent, go on at once."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def ask(self, message: Mapping[str, Any]) -> None:
        """Tell the parent and stand still until it says `ok`."""
        self.send(message)
        self._in.get()


def main() -> None:
    """Do the job that stands on the first line of input."""
    wire = Wire()
    job = wire.receive()
    try:
        JOBS[job["kind"]](job, wire)
        wire.ask({"type": "done"})
    except EdgebenchError as error:
        wire.send({"type": "error", "message": error.message, "hint": error.hint})
    except MemoryError:
        wire.send(
            {"type": "error", "message": "out of memory", "hint": "close programs, or take a smaller level"}
        )


def _quantize(job: Mapping[str, Any], wire: Wire) -> None:
    last = -1.0

    def progress(share: float) -> None:
        nonlocal last
        if share - last >= 0.01:
            last = share
            wire.send({"type": "progress", "share": share})

    quantizer = registry.load("quantizers", job["quantizer"])
    quantizer.quantize(
        Path(job["source"]), Path(job["target"]), job["level"], n_threads=job["n_threads"], progress=progress
    )


def _load(job: Mapping[str, Any], wire: Wire) -> Session:
    runner: Runner = registry.load("runners", job["runner"])
    start = time.perf_counter_ns()
    session = runner.load(Path(job["path"]), Settings(**job["settings"]))
    wire.ask(
        {"type": "loaded", "load_s": (time.perf_counter_ns() - start) * 1e-9, "facts": dict(session.facts)}
    )
    return session


def _performance(job: Mapping[str, Any], wire: Wire) -> None:
    with _load(job, wire) as session:
        canary = Canary.calibrated()
        for todo in job["workloads"]:
            workload = Workload(**todo["workload"])
            for trial in measure(
                session, workload, canary, seed=todo["seed"], repetitions=todo["repetitions"]
            ):
                wire.ask({"type": "trial", **trial})


def _accuracy(job: Mapping[str, Any], wire: Wire) -> None:
    with _load(job, wire) as session:
        for result in score_groups(
            session, job["groups"], wanted=job["wanted"], shape=Shape(job["shape"]), n_cells=job["n_cells"]
        ):
            wire.ask({"type": "answers", **result})


JOBS: dict[str, Callable[[Mapping[str, Any], Wire], None]] = {
    "quantize": _quantize,
    "performance": _performance,
    "accuracy": _accuracy,
}

if __name__ == "__main__":
    main()
