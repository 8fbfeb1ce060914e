"""What a computer's sensors say while it works: memory of one process, meters, heat. The parent's side.

One thread looks at everything every POLL_S. Stamps are `time.perf_counter`'s, which the measuring process
shares; a `Clock` turns them into seconds since a run began, and no clock set in between moves them.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from edgebench.core.energy import Meter, MeterError, Sample
from edgebench.devices.memory import Memory, read_memory
from edgebench.devices.state import DeviceState, StateReader

POLL_S = 0.1
"""Seconds between two looks: fine enough for edges and peaks, too rare to disturb."""
STATE_EVERY = 5
"""Heat and frequency are looked at every so many times: they move slowly, and reading them costs more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Turns stamps of this boot into seconds since a run began, perhaps on another day."""

    offset_s: float

    @classmethod
    def of_run(cls, started_unix_s: float) -> "Clock":
        """The wall clock is asked once, here."""
        return cls(offset_s=time.time() - time.perf_counter() - started_unix_s)

    def run_s(self, stamp_s: float) -> float:
        """Seconds since the run began."""
        return stamp_s + self.offset_s


class Recorder:
    """Looks at the sensors until it is stopped; a context manager."""

    def __init__(self, meters: Sequence[Meter] = (), state: StateReader | None = None) -> None:
        self._meters, self._reader = list(meters), state
        self._samples: dict[str, list[Sample]] = {meter.facts.source: [] for meter in meters}
        self.failures: dict[str, MeterError] = {}
        """Meters that could not be read any more, and why; nothing is read of them afterwards."""
        self.states: list[tuple[float, DeviceState]] = []
        self._memory: list[tuple[float, Memory]] = []
        self._pid: int | None = None
        self._n_looks = 0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def follow(self, pid: int | None) -> None:
        """Whose memory is looked at from now on; None: nobody's."""
        self._pid = pid

    def look(self) -> float:
        """Look at every sensor now, besides the regular looks: at the edges of a window. The stamp of it."""
        with self._lock:
            for meter in self._meters:
                self._read(meter)
            now_s = time.perf_counter()
            if self._pid is not None and (memory := self._read_memory(self._pid)) is not None:
                self._memory.append((now_s, memory))
            if self._reader is not None and self._n_looks % STATE_EVERY == 0:
                self.states.append((now_s, self._reader.read()))
            self._n_looks += 1
        return now_s

    def state_now(self) -> DeviceState | None:
        """Heat, frequency and power source at this moment."""
        if self._reader is None:
            return None
        with self._lock:
            state = self._reader.read()
            self.states.append((time.perf_counter(), state))
        return state

    def samples(self, source: str) -> list[Sample]:
        """Everything a meter said so far."""
        with self._lock:
            return list(self._samples[source])

    def peek_memory(self) -> list[tuple[float, Memory]]:
        """The looks at the process's memory that nobody took yet."""
        with self._lock:
            return list(self._memory)

    def take_memory(self) -> list[tuple[float, Memory]]:
        """The same, taken away."""
        with self._lock:
            taken, self._memory = self._memory, []
        return taken

    def _read_memory(self, pid: int) -> Memory | None:
        memory = read_memory(pid)
        gpu_bytes = self._reader.gpu_memory_bytes(pid) if self._reader else None
        return memory if memory is None or gpu_bytes is None else replace(memory, gpu_bytes=gpu_bytes)

    def _read(self, meter: Meter) -> None:
        source = meter.facts.source
        if source in self.failures:
            return
        try:
            self._samples[source].append(meter.read())
        except MeterError as error:
            self.failures[source] = error

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_S):
            self.look()
