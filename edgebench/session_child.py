"""The parent's side of a measuring process: start it, hear it, tell how it died."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Self

from edgebench.core import errors
from edgebench.core.errors import ModelError, RunFailed
from edgebench.core.tool_env import Tool
from edgebench.devices.contention import CpuTimes
from edgebench.devices.memory import read_memory, reset_peak
from edgebench.session_gpu import gpu_variables


def _gpu_variables(job: Mapping[str, Any]) -> dict[str, str]:
    return gpu_variables(job["settings"]) if "settings" in job else {}


class Child:
    """A measuring process with one job; a context manager that leaves no process behind.

    With a `tool` it runs in that environment's interpreter; `offline=False` lets it ask a model hub.
    """

    def __init__(self, job: Mapping[str, Any], tool: Tool | None = None, *, offline: bool = True) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [str(tool.python if tool else sys.executable), "-P", "-m", "edgebench.session_worker"],
            env={**(tool.environment(offline=offline) if tool else os.environ), **_gpu_variables(job)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self.pid = self._process.pid
        self.engine_pid: int | None = self.pid
        """The process that computes: the child's, or that of a server; None where it is not known."""
        self._job = job

    def __enter__(self) -> Self:
        try:
            self._write(json.dumps(self._job))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # it leads a group: what it started ends with it
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._errors.close()

    def cpu_times(self) -> CpuTimes | None:
        """Processor time of everybody, and of the child and its engine; None where that is not known."""
        return CpuTimes.read(*{self.pid, self.engine_pid}) if self.engine_pid else None

    def _write(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise RunFailed("the measuring process has no input")
        try:
            pipe.write(line + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._death() from None

    def messages(self) -> Iterator[Mapping[str, Any]]:
        """Everything the child says until it is done.

        Each message but `progress` and `result` carries `memory`, read while the child stands still; the
        child goes on when the caller asks for the next message. Raises what the child refuses with
        (ModelError, UsageError, …), and RunFailed when it dies.
        """
        for line in self._process.stdout or ():
            try:
                message = json.loads(line)
            except ValueError:
                break  # cut short: the child died while it wrote
            match message["type"]:
                case "error":
                    kind = getattr(errors, str(message.get("error")), ModelError)
                    raise kind(message["message"], message["hint"])
                case "progress" | "result":
                    yield message
                case "done":
                    self._write("ok")
                    return
                case _:
                    pid = self.engine_pid = message.get("pid", self.engine_pid)
                    yield {**message, "memory": read_memory(pid) if pid else None}
                    if pid and message["type"] != "loaded":  # the load's peak counts for what comes first
                        reset_peak(pid)
                    self._write("ok")
        raise self._death()

    def _death(self) -> RunFailed:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last = next((line.strip() for line in reversed(said) if line.strip()), None)
        if code < 0:
            name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
            hints: dict[int, str] = {
                signal.SIGKILL: "out of memory, or killed by hand: see the kernel's log",
                signal.SIGILL: "the engine was built for another processor: runners build llama_cpp",
            }
            told = f": {last}" if last else ""
            return RunFailed(f"the measuring process was killed by {name}{told}", hints.get(-code))
        return RunFailed(f"the measuring process ended with code {code}" + (f": {last}" if last else ""))
