"""One visit: a fresh process, one artifact, the repetitions that are missing; stored as they come."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebench.core.energy import Method
from edgebench.core.roofline import BYTES_PER_CACHED_VALUE
from edgebench.core.types import Settings, Status
from edgebench.devices.contention import CpuTimes
from edgebench.devices.memory import read_pss
from edgebench.devices.page_cache import evict, resident_share
from edgebench.devices.state import DeviceState, StateReader, flags_between
from edgebench.results.store import Store
from edgebench.session_cell import Cell, Watcher, engine_of, start
from edgebench.session_child import Child
from edgebench.session_energy import Metering
from edgebench.session_job import Job
from edgebench.session_plan import Plan
from edgebench.session_recorder import Clock, Recorder
from edgebench.session_thermal import RIGOROUS_CAP_S, USUAL_CAP_S, Thermostat

IDLE_S = 30.0
"""How long an idle baseline is watched, before and after."""
UNITS = 100
"""What a long repetition's progress is counted in."""


@dataclass(slots=True, kw_only=True)
class Sensors:
    """What a plan's visits share: meters, heat, the temperature they begin at."""

    metering: Metering
    state: StateReader
    thermostat: Thermostat
    rigorous: bool = False

    @classmethod
    def of(cls, plan: Plan) -> "Sensors":
        """Those a plan asks for."""
        rigorous = plan.request.rigorous
        return cls(
            metering=plan.metering,
            state=StateReader(plan.gpu.uuid if plan.gpu else None),
            thermostat=Thermostat(cap_s=RIGOROUS_CAP_S if rigorous else USUAL_CAP_S),
            rigorous=rigorous,
        )


@dataclass(slots=True, kw_only=True)
class Visit:
    """The state of one visit; `run` does it."""

    cell: Cell
    plan: Plan
    store: Store
    watcher: Watcher
    sensors: Sensors
    round_index: int
    process_index: int
    clock: Clock
    recorder: Recorder
    load: dict[str, Any] = field(default_factory=dict)
    """Columns of every trial of this process: how long loading took, from where."""
    before: DeviceState | None = None
    cpu_before: CpuTimes | None = None
    waiting: list[str] = field(default_factory=list)
    """Flags of the next test's repetitions: it could not be cooled down for."""
    flushed: dict[str, int] = field(default_factory=dict)
    n_told: int = 0
    """Hundredths of the repetition at work that were told of."""

    def run(self, missing: Sequence[tuple[int, list[int]]]) -> None:
        """Measure; raises what the measuring process refuses or dies with."""
        store, cell, rigorous = self.store, self.cell, self.sensors.rigorous
        store.set_status(cell.run_id, Status.RUNNING)
        store.set_meters(cell.run_id, self.sensors.metering.facts())
        self._cool_down()
        if rigorous:
            self._idle("idle_before")
        cold = self._prepare_file()
        workloads = [
            _workload_todo(cell.job, i, repetitions, cell.job.config["seed"] + self.round_index)
            for i, repetitions in missing
        ]
        job = {
            "kind": "performance",
            **engine_of(cell, self.plan),
            "workloads": workloads,
            "minimum_s": self.sensors.metering.minimum_s(rigorous=rigorous),
        }
        with start(job, self.plan, self.watcher) as child:
            self.recorder.follow(child.pid)
            for message in child.messages():
                self.recorder.follow(child.engine_pid)
                self._hear(message, child, cold)
            self.recorder.follow(None)
        if rigorous:
            self._idle("idle_after")
        self._flush()

    def _hear(self, message: Mapping[str, Any], child: Child, cold: float | None) -> None:
        match message["type"]:
            case "progress":
                self._went_on(message["share"])
            case "loaded":
                self.load = {"load_s": message["load_s"], "load_cached_share": cold}
                self.store.set_engine(self.cell.run_id, message["facts"])
                self.store.set_baseline(self.cell.run_id, message["baseline_rss_bytes"])
                if self.sensors.rigorous:
                    self._idle("loaded_idle")
                self.before = self.recorder.state_now()
                self.cpu_before = child.cpu_times()
            case "trial":
                self._trial(message, child)
            case "window":
                self._window(message, child)

    def _went_on(self, share: float) -> None:
        """Some of a long repetition is over: the time left goes by hundredths of it."""
        n_units = int(UNITS * share) - self.n_told
        self.n_told += n_units
        self.watcher.step(f"{self.cell.artifact.quant.name} {self.cell.job.title}", 0, n_units)

    def _trial(self, message: Mapping[str, Any], child: Child) -> None:
        after, before = self.recorder.state_now(), self.before
        seen = [memory for _, memory in self.recorder.peek_memory()]
        memory = message["memory"]
        pss = read_pss(child.engine_pid) if child.engine_pid else None
        self.recorder.look()  # a meter's last word on this repetition
        flags = [*message["flags"], *self.waiting]
        if child.engine_pid and self.sensors.state.gpu_is_shared(child.engine_pid):
            flags.append("noisy_neighbour")
        between = [s for at_s, s in self.recorder.states if message["start_s"] <= at_s <= message["end_s"]]
        if before is not None and after is not None:
            for earlier, later in itertools.pairwise((before, *between, after)):
                flags += flags_between(earlier, later)
        trial = {
            **trial_columns(message, self.clock),
            **self.load,
            **self.sensors.metering.trial_columns(self.recorder, message["start_s"], message["end_s"]),
            "round_index": self.round_index,
            "process_index": self.process_index,
            "peak_rss_bytes": memory.peak_rss_bytes if memory else None,
            "peak_rss_anon_bytes": max((m.anon_bytes for m in seen), default=None),
            # A file system in memory (/dev/shm, some /tmp) holds its files as shared memory.
            "peak_rss_file_bytes": max((m.file_bytes + m.shmem_bytes for m in seen), default=None),
            "peak_vram_bytes": max((m.gpu_bytes for m in seen if m.gpu_bytes is not None), default=None),
            "pss_bytes": pss.pss_bytes if pss else None,
            "kv_cache_predicted_bytes": predicted_cache_bytes(self.cell, message["n_ctx"]),
            "temperature_start_c": before.temperature_c if before else None,
            "temperature_end_c": after.temperature_c if after else None,
            "frequency_start_hz": before.frequency_hz if before else None,
            "frequency_end_hz": after.frequency_hz if after else None,
            "throttled": None if before is None or after is None else int("throttled" in flags),
            "flags_json": json.dumps(list(dict.fromkeys(flags))),
        }
        self._flush()
        self.store.add_trial(self.cell.run_id, trial, message["token_times_s"])
        self._store_engine_times(message)
        self.before = after
        n_units = UNITS - self.n_told if self.cell.job.is_sustained else None
        self.n_told = 0
        self.watcher.step(f"{self.cell.artifact.quant.name} {message['test']}", 1, n_units)

    def _store_engine_times(self, message: Mapping[str, Any]) -> None:
        """What an engine that is a server says a repetition took, by its own clock."""
        usage, at_s = message.get("usage") or {}, self.clock.run_s(message["start_s"])
        for channel in ("prefill", "decode"):
            if (told_s := usage.get(f"{channel}_s")) is not None:
                self.store.add_readings(self.cell.run_id, f"engine_{channel}", "s", [(at_s, told_s)])

    def _window(self, message: Mapping[str, Any], child: Child) -> None:
        cpu = child.cpu_times()
        busy_core_s = cpu.own_s - self.cpu_before.own_s if cpu and self.cpu_before else None
        columns = {key: message[key] for key in ("test", "busy_s", "n_requests", "n_prompt", "n_gen")}
        self._store_windows("test", message["start_s"], message["end_s"], columns, busy_core_s)
        self._cool_down()
        self.before, self.cpu_before = self.recorder.state_now(), child.cpu_times()

    def _idle(self, kind: str) -> None:
        """An idle baseline, where there is a meter to make use of one."""
        metering = self.sensors.metering
        if metering.chosen is None:
            return
        begun = self.recorder.look()
        time.sleep(max(IDLE_S, 100 * metering.chosen.update_s))
        self._store_windows(kind, begun, self.recorder.look(), {"test": "*"}, None)

    def _store_windows(
        self, kind: str, start_s: float, end_s: float, columns: Mapping[str, Any], busy_core_s: float | None
    ) -> None:
        named = {
            "kind": kind,
            "round_index": self.round_index,
            "process_index": self.process_index,
            **columns,
        }
        rows = self.sensors.metering.windows(
            self.recorder, self.clock, start_s, end_s, named, busy_core_s=busy_core_s
        )
        self.store.add_windows(self.cell.run_id, rows)

    def _cool_down(self) -> None:
        self.waiting = self.sensors.thermostat.cool_down(self.recorder, self.watcher)

    def _prepare_file(self) -> float | None:
        """The share of the file in memory before it is loaded; the first visit finds it on disk if it can."""
        path = self.cell.artifact.path
        if self.plan.request.cold_load and self.round_index == 0:
            evict(path)
        return resident_share(path)

    def _flush(self) -> None:
        """Store what the sensors said since the last time."""
        flush_readings(
            self.recorder, self.sensors.metering, self.clock, self.cell.run_id, self.store, self.flushed
        )


def predicted_cache_bytes(cell: Cell, n_ctx: int) -> int | None:
    """What the keys and values of so many cells should take."""
    per_token = cell.artifact.kv_bytes_per_token
    if not per_token:
        return None
    settings = Settings(**cell.job.config["settings"])
    sizes = [BYTES_PER_CACHED_VALUE[kind] for kind in (settings.type_k, settings.type_v)]
    # The file's figure is of an f16 cache: two bytes a value, keys and values alike.
    return round(n_ctx * per_token * sum(sizes) / (2 * BYTES_PER_CACHED_VALUE["f16"]))


def flush_readings(
    recorder: Recorder,
    metering: Metering,
    clock: Clock,
    run_id: str,
    store: Store,
    flushed: dict[str, int],
) -> None:
    """Move what a recorder holds and is not stored yet to the database; `flushed` counts by channel."""
    taken = recorder.take_memory()
    for channel, key in (("rss_anon", "anon_bytes"), ("rss_file", "file_bytes"), ("vram", "gpu_bytes")):
        held = [(clock.run_s(at_s), getattr(memory, key)) for at_s, memory in taken]
        store.add_readings(run_id, channel, "bytes", [(t, float(v)) for t, v in held if v is not None])
    for meter in metering.meters:
        source = meter.facts.source
        fresh = recorder.samples(source)[flushed.get(source, 0) :]
        flushed[source] = flushed.get(source, 0) + len(fresh)
        kind, unit = ("energy", "J") if meter.facts.method is Method.COUNTER else ("power", "W")
        rows = [(clock.run_s(sample.t_s), sample.value) for sample in fresh]
        store.add_readings(run_id, f"{kind}:{source}", unit, rows)
    states = recorder.states[flushed.get("state", 0) :]
    flushed["state"] = flushed.get("state", 0) + len(states)
    channels = (("temperature", "C", "temperature_c"), ("frequency", "Hz", "frequency_hz"))
    for channel, unit, key in (*channels, ("gpu_busy", "1", "gpu_busy_share")):
        told = [(clock.run_s(at_s), getattr(state, key)) for at_s, state in states]
        store.add_readings(run_id, channel, unit, [(t, v) for t, v in told if v is not None])


def _workload_todo(job: Job, i: int, repetitions: list[int], seed: int) -> dict[str, Any]:
    w = job.workloads[i]
    fields = ("n_prompt", "n_gen", "n_depth", "chat", "sustained_s")
    return {
        "workload": {name: getattr(w, name) for name in fields},
        "repetitions": repetitions,
        "seed": seed,
    }


def trial_columns(message: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    """Of a `trial` message, what is stored as it is."""
    copied = (
        *("test", "phase", "repetition", "n_prompt", "n_gen", "n_depth", "prefill_s", "decode_s", "ttft_s"),
        *("total_s", "engine_s", "foreign_cpu_s", "canary_before_s", "canary_after_s"),
        *("n_major_faults", "swap_bytes", "kv_cache_bytes"),
    )
    return {**{key: message[key] for key in copied}, "started_s": clock.run_s(message["start_s"])}
