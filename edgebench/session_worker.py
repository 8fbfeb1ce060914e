"""The measuring process: `python -P -m edgebench.session_worker`, one job, one model, then gone.

It holds the engine and little else, so that its memory is the model's. It talks in JSON lines:

    in   first the job, then one `ok` line for every message that asks for it
    out  loaded · trial · answers · checked · laid · chat_prompt · progress · result · done · error

After a message that wants an `ok` it stands still, so the parent can read its memory and write to the
database without disturbing a measurement. When its input closes, the parent is gone, and so is it.
"""

import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgebench.core import registry
from edgebench.core.engine import Quantizer, Runner, Session, TextSession
from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Settings, Workload
from edgebench.devices.memory import read_memory
from edgebench.session_accuracy import Layout, score_groups
from edgebench.session_performance import Canary, engine_pid, measure
from edgebench.session_text import score_texts

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
        # The parent is gone: nobody would store what comes next, from here or from a program started here.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(3)

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
        told = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        wire.send({"type": "error", **told})
    except MemoryError:
        wire.send(
            {"type": "error", "message": "out of memory", "hint": "close programs, or take a smaller level"}
        )


def _call(job: Mapping[str, Any], wire: Wire) -> None:
    """One function of the quantize room; its result is a message."""
    module, name = CALLS[job["kind"]].split(":")
    wire.send({"type": "result", **getattr(importlib.import_module(module), name)(job, _progress(wire))})


def _progress(wire: Wire) -> Callable[[float], None]:
    last = -1.0

    def progress(share: float) -> None:
        nonlocal last
        if share - last >= 0.01:
            last = share
            wire.send({"type": "progress", "share": share})

    return progress


def _load(job: Mapping[str, Any], wire: Wire) -> Session:
    runner: Runner = registry.load("runners", job["runner"])
    before = read_memory(os.getpid())
    start = time.perf_counter_ns()
    session = runner.load(Path(job["path"]), Settings(**job["settings"]))
    pid = engine_pid(session)
    wire.ask(
        {
            "type": "loaded",
            "pid": pid,
            "load_s": (time.perf_counter_ns() - start) * 1e-9,
            "facts": dict(session.facts),
            # A server has nothing of this process in it.
            "baseline_rss_bytes": before.rss_bytes if before and pid == os.getpid() else None,
        }
    )
    return session


def _performance(job: Mapping[str, Any], wire: Wire) -> None:
    with _load(job, wire) as session:
        canary = Canary.calibrated()
        for todo in job["workloads"]:
            workload = Workload(**todo["workload"])
            for message in measure(
                session,
                workload,
                canary,
                seed=todo["seed"],
                repetitions=todo["repetitions"],
                minimum_s=job.get("minimum_s", 0.0),
                progress=_progress(wire),
            ):
                wire.ask(message)


def _encode(job: Mapping[str, Any], wire: Wire) -> None:
    runner: Runner = registry.load("runners", job["runner"])
    with runner.load(Path(job["path"]), Settings(**job["settings"])) as session:
        wire.send({"type": "result", "ids": [session.tokenize(text) for text in job["texts"]]})


def _quantize(job: Mapping[str, Any], wire: Wire) -> None:
    quantizer: Quantizer = registry.load("quantizers", job["quantizer"])
    wire.send({"type": "result", **quantizer.make(job, _progress(wire))})


def _check(job: Mapping[str, Any], wire: Wire) -> None:
    from edgebench.session_check_worker import (
        check,  # brings numpy's whole weight, which speed runs don't need
    )

    with _load(job, wire) as session:
        for message in check(session, job):
            wire.ask({"type": "checked", **message})


def _accuracy(job: Mapping[str, Any], wire: Wire) -> None:
    with _load(job, wire) as session:
        found = score_texts(session, job) if isinstance(session, TextSession) else score_groups(session, job)
        for result in found:
            wire.ask({"type": "answers", "pid": engine_pid(session), **result})


def _layout(job: Mapping[str, Any], wire: Wire) -> None:
    """What another computer's engine is to be given: prompts as this computer's tokenizer makes them."""
    with _load(job, wire) as session:
        if text := job.get("chat_text"):
            prompt = session.chat_prompt(text)[0]
            # An engine that has a tokenizer there is given the text; another one the tokens.
            tokens, enders = session.tokenize(prompt), getattr(session, "enders", [])
            wire.ask({"type": "chat_prompt", "text": prompt, "tokens": tokens, "enders": enders})
        if not job.get("wanted"):
            return
        layout = Layout(session, job)
        for index in job["wanted"]:
            laid = layout.of(index)
            wire.ask(
                {
                    "type": "laid",
                    **laid.told(job, [{}] * len(laid.items)),
                    "items": [[list(context), [list(c) for c in ends]] for context, ends in laid.items],
                    "shared": list(laid.shared),
                    "n_ctx": max(layout.n_ctx, laid.n_ctx),
                    "n_seq_max": layout.n_seq_max,
                }
            )


CALLS = {
    "merge": "edgebench.quantize.adapter:merge",
    "convert": "edgebench.quantize.gguf_convert:convert",
    "dequantize": "edgebench.quantize.dequantize:dequantize",
    "download": "edgebench.quantize.hub:download",
    "search": "edgebench.quantize.onnx_search:search",
    "split": "edgebench.quantize.gguf_split:split",
    "tokenize": "edgebench.quantize.tokenizer:tokenize",
    "widen": "edgebench.quantize.widen:widen",
}
"""Jobs that make something: kind -> a function of the job and a progress report."""

JOBS: dict[str, Callable[[Mapping[str, Any], Wire], None]] = {
    "performance": _performance,
    "accuracy": _accuracy,
    "check": _check,
    "encode": _encode,
    "layout": _layout,
    "quantize": _quantize,
    **dict.fromkeys(CALLS, _call),
}

if __name__ == "__main__":
    main()
