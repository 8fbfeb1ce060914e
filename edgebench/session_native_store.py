"""From what a native program and its sampler wrote to rows of the database: each once, whenever it is read.

The device's stamps are its uptime in seconds; a clock turns them into seconds since a run began.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from edgebench.core.energy import Absence, MeterError, MeterFacts, Sample
from edgebench.core.errors import RunFailed
from edgebench.core.types import Status
from edgebench.devices.contention import UNSTABLE_FACTOR, is_noisy
from edgebench.devices.phone_samples import Samples
from edgebench.devices.state import DeviceState, flags_between
from edgebench.results.battery_summary import CHANNEL
from edgebench.results.store import Store
from edgebench.session_energy import Metering
from edgebench.session_native_jobs import NativeJob, is_speed
from edgebench.session_recorder import Clock
from edgebench.session_score import graded_rows
from edgebench.session_speed import missing_trials
from edgebench.session_visit import predicted_cache_bytes, trial_columns


@dataclass(slots=True)
class Meter:
    """A meter that was read elsewhere: what it is."""

    facts: MeterFacts

    def read(self) -> Sample:
        """It can't be: the device it was read on is not here."""
        raise MeterError(Absence.UNREADABLE, f"{self.facts.source} is read on the device only")

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(slots=True)
class Heard:
    """A job's sampler log as the energy windows want it."""

    by_source: Mapping[str, Sequence[Sample]]
    failures: dict[str, MeterError] = field(default_factory=dict)

    def samples(self, source: str) -> list[Sample]:
        """Everything a meter said."""
        return list(self.by_source[source])


@dataclass(slots=True, kw_only=True)
class Results:
    """What one job left, and where it goes."""

    job: NativeJob
    lines: Sequence[Mapping[str, Any]]
    samples: Samples
    store: Store
    clock: Clock
    metering: Metering
    heard: Heard

    @classmethod
    def of(
        cls, job: NativeJob, lines: Iterable[Mapping[str, Any]], samples: Samples, store: Store, clock: Clock
    ) -> "Results":
        """Read the meters' part of the log once."""
        meters = samples.meters()
        metering = Metering(meters=[Meter(facts) for facts, _ in meters], reason=Absence.NO_SENSOR)
        metering.chosen = samples.headline()
        if metering.chosen is None:
            metering.reason, metering.why = samples.why_no_energy()
        elif (source := _headline_so_far(store, job.cell.run_id)) not in (None, metering.chosen.source):
            # Figures of one run are of one meter: rails and a whole phone are not to be averaged.
            metering.chosen = next((facts for facts, _ in meters if facts.source == source), None)
            metering.reason = Absence.UNREADABLE
            metering.why = f"{source}, which this run's other figures are of, said nothing here"
        heard = Heard({facts.source: told for facts, told in meters}, samples.failures())
        return cls(
            job=job,
            lines=list(lines),
            samples=samples,
            store=store,
            clock=clock,
            metering=metering,
            heard=heard,
        )

    def save(self, *, is_over: bool = True) -> int:
        """Store what is not stored yet; how many trials and answers that were.

        While a job still works there are only answers to store: energy is of the whole of it.
        """
        run_id = self.job.cell.run_id
        if self.store.run(run_id).status is Status.COMPLETE or not self.lines:
            return 0
        if not is_over:
            return self._scores() if self.job.groups else 0
        for line in self.lines:
            if line["type"] == "loaded":
                self.store.set_engine(run_id, line["facts"])
                self.store.set_baseline(run_id, line["baseline_rss_bytes"])
        self.store.set_meters(run_id, self.metering.facts())
        # Windows come before what is counted as stored: whoever is killed in between finds both missing.
        if self.job.idle_kind:
            n_saved = self._idle()
        elif is_speed(self.job):
            n_saved = self._visit()
        else:
            self._answers_window()
            n_saved = self._scores()
        self._readings()
        return n_saved

    # Speed.

    def _visit(self) -> int:
        run_id, round_index = self.job.cell.run_id, self.job.round_index
        missing = {
            (self.job.cell.job.workloads[i].name, repetition)
            for i, repetitions in missing_trials(self.job.cell, round_index, self.store)
            for repetition in repetitions
        }
        asked = {test for test, _ in missing}
        trials = [line for line in self.lines if line["type"] == "trial" and line["test"] in asked]
        best_canary_s = min((line["canary_before_s"] for line in trials), default=0.0)
        known = {_identity(row): row["process_index"] for row in self.store.rows(_TRIALS, (run_id,))}
        process_index = next(
            (known[key] for line in trials if (key := _identity(line)) in known),
            self.store.next_process_index(run_id),
        )
        for line in self.lines:
            if line["type"] == "window" and line["test"] in asked:
                columns = {key: line[key] for key in ("test", "busy_s", "n_requests", "n_prompt", "n_gen")}
                self._windows("test", line["start_s"], line["end_s"], process_index, columns)
        saved: set[tuple[str, str, int]] = set()
        for line in trials:
            key = line["test"], line["phase"], line["repetition"]
            is_extra = line["repetition"] >= self.job.cell.job.n_repetitions
            is_wanted = line["phase"] == "warmup" or (
                line["phase"] == "measured" and (is_extra or (line["test"], line["repetition"]) in missing)
            )
            if not is_wanted or key in saved or _identity(line) in known:
                continue
            saved.add(key)
            self.store.add_trial(
                run_id, self._trial(line, process_index, best_canary_s), line["token_times_s"]
            )
        return sum(phase == "measured" for _, phase, _ in saved)

    def _trial(self, line: Mapping[str, Any], process_index: int, best_canary_s: float) -> dict[str, Any]:
        start_s, end_s = line["start_s"], line["end_s"]
        before, after = self._state_at(start_s), self._state_at(end_s)
        foreign_s = self.samples.foreign_cpu_s(start_s, end_s)
        flags = []
        if foreign_s is not None and is_noisy(foreign_s, line["total_s"]):
            flags.append("noisy_neighbour")
        if max(line["canary_before_s"], line["canary_after_s"]) > UNSTABLE_FACTOR * best_canary_s:
            flags.append("unstable_host")
        if line["n_major_faults"] or (line["swap_bytes"] or 0) > 0:
            flags.append("paging")
        if before is not None and after is not None:
            flags += [flag for flag in flags_between(before, after) if flag != "on_battery"]
        if any(one["type"] == "hot" for one in self.lines):
            flags.append("thermal_not_settled")
        return {
            **trial_columns({**line, "foreign_cpu_s": foreign_s}, self.clock),
            "load_s": next((one["load_s"] for one in self.lines if one["type"] == "loaded"), None),
            **self.metering.trial_columns(self.heard, start_s, end_s),
            "round_index": self.job.round_index,
            "process_index": process_index,
            "peak_rss_bytes": line["peak_rss_bytes"],
            "peak_rss_anon_bytes": line["rss_anon_bytes"],
            "peak_rss_file_bytes": line["rss_file_bytes"],
            "kv_cache_predicted_bytes": predicted_cache_bytes(self.job.cell, line["n_ctx"]),
            "temperature_start_c": before.temperature_c if before else None,
            "temperature_end_c": after.temperature_c if after else None,
            "frequency_start_hz": before.frequency_hz if before else None,
            "frequency_end_hz": after.frequency_hz if after else None,
            "throttled": None if before is None or after is None else int("throttled" in flags),
            "flags_json": json.dumps(list(dict.fromkeys(flags))),
        }

    def _state_at(self, at_s: float) -> DeviceState | None:
        """The look that is nearest to a moment, if there is one within some seconds."""
        states = self.samples.states()
        nearest = min(states, key=lambda one: abs(one[0] - at_s), default=None)
        return nearest[1] if nearest is not None and abs(nearest[0] - at_s) <= 5.0 else None

    def _idle(self) -> int:
        idle = next((line for line in self.lines if line["type"] == "idle"), None)
        if idle is None or self.metering.chosen is None or self._has_idle():
            return 0
        self._windows(
            self.job.idle_kind, idle["start_s"], idle["end_s"], self._idles_process(), {"test": "*"}
        )
        return 1

    def _idles_process(self) -> int:
        """The process that an idle time belongs to: the visit's before or after it."""
        run_id, round_index = self.job.cell.run_id, self.job.round_index
        sql = "SELECT max(process_index) AS i FROM trial WHERE run_id = ? AND round_index = ?"
        of_round = self.store.rows(sql, (run_id, round_index))[0]["i"]
        return self.store.next_process_index(run_id) if of_round is None else int(of_round)

    def _has_idle(self) -> bool:
        return any(
            window["kind"] == self.job.idle_kind and window["round_index"] == self.job.round_index
            for window in self.store.windows(self.job.cell.run_id)
        )

    def _windows(
        self, kind: str, start_s: float, end_s: float, process_index: int, columns: Mapping[str, Any]
    ) -> None:
        named = {
            "kind": kind,
            "round_index": self.job.round_index,
            "process_index": process_index,
            **columns,
        }
        if self._has_window(kind, start_s):
            return
        rows = self.metering.windows(self.heard, self.clock, start_s, end_s, named)
        self.store.add_windows(self.job.cell.run_id, rows)

    def _has_window(self, kind: str, start_s: float) -> bool:
        at_s = self.clock.run_s(start_s)
        windows = self.store.windows(self.job.cell.run_id)
        return any(w["kind"] == kind and abs(w["start_s"] - at_s) < _SAME_WINDOW_S for w in windows)

    # Accuracy.

    def _answers_window(self) -> None:
        """The energy of all groups that the job's last attempt answered."""
        begins = [i for i, line in enumerate(self.lines) if line["type"] == "loaded"]
        attempt = self.lines[begins[-1] if begins else 0 :]
        groups = [line for line in attempt if line["type"] == "group" and line["group"] in self.job.groups]
        if not groups:
            return
        told = [answer for line in groups for answer in self.job.groups[line["group"]]["answers"]]
        start_s = min(line["start_s"] for line in groups)
        end_s = max(line["start_s"] + line["group_s"] for line in groups)
        n_questions = len({answer["question_id"] for answer in told})
        columns = {"test": "*", "n_requests": n_questions, "n_questions": n_questions, "n_gen": 0}
        columns |= {"n_prompt": sum(answer["n_prompt"] or 0 for answer in told), "busy_s": end_s - start_s}
        self._windows("answers", start_s, end_s, 0, columns)

    def _scores(self) -> int:
        run_id = self.job.cell.run_id
        fresh = {told["group"] for told in self.job.groups.values()} - self._stored_groups()
        n_saved = 0
        found: dict[int, dict[int, list[float]]] = {}
        for line in self.lines:
            if line["type"] == "answer":
                found.setdefault(line["group"], {})[line["item"]] = line["logprobs"]
            if line["type"] != "group" or line["group"] not in fresh:
                continue
            rows = answer_rows(self.job, line["group"], found.get(line["group"], {}))
            self.store.add_answers(run_id, rows)
            fresh.discard(line["group"])
            at_s = self.clock.run_s(line["start_s"] + line["group_s"])
            self.store.add_readings(run_id, "scoring_group", "s", [(at_s, line["group_s"])])
            n_saved += len(rows)
        return n_saved

    def _stored_groups(self) -> set[int]:
        answered = self.store.answered(self.job.cell.run_id)
        return {
            index
            for index, told in self.job.groups.items()
            if all(answer["question_id"] in answered for answer in told["answers"])
        }

    def _readings(self) -> None:
        """Everything the sampler saw, for whoever wants to look again."""
        run_id = self.job.cell.run_id
        for facts, told in self.samples.meters():
            kind, unit = ("energy", "J") if facts.method == "counter" else ("power", "W")
            rows = [(self.clock.run_s(sample.t_s), sample.value) for sample in told]
            self.store.add_readings(run_id, f"{kind}:{facts.source}", unit, rows)
        states = self.samples.states()
        for channel, unit, key in (
            ("temperature", "C", "temperature_c"),
            ("frequency", "Hz", "frequency_hz"),
        ):
            rows = [
                (self.clock.run_s(at_s), value)
                for at_s, state in states
                if (value := getattr(state, key)) is not None
            ]
            self.store.add_readings(run_id, channel, unit, rows)
        if full_j := self.samples.full_charge_j():
            self.store.add_readings(run_id, CHANNEL, "J", [(self.clock.run_s(full_j[0]), full_j[1])])
        memory = self.samples.memory()
        for channel, key in (("rss_anon", "anon_bytes"), ("rss_file", "file_bytes")):
            rows = [(self.clock.run_s(at_s), float(getattr(one, key))) for at_s, one in memory]
            self.store.add_readings(run_id, channel, "bytes", rows)


_SAME = ("test", "phase", "repetition", "total_s", "canary_before_s", "canary_after_s")
_TRIALS = f"SELECT process_index, {', '.join(_SAME)} FROM trial WHERE run_id = ?"  # noqa: S608
_SAME_WINDOW_S = 0.01
"""Two windows of a kind that begin closer than this are one."""


def _headline_so_far(store: Store, run_id: str) -> str | None:
    """The meter that a run's stored figures are of."""
    windows = store.windows(run_id)
    return next((str(w["source"]) for w in windows if w["headline"] and w["energy_j"] is not None), None)


def _identity(trial: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a repetition from all others: no two take as long to the last digit."""
    return tuple(trial[key] for key in _SAME)


def answer_rows(job: NativeJob, group: int, found: Mapping[int, Sequence[float]]) -> list[dict[str, Any]]:
    """A group's answers as they are stored; RunFailed when the device left one out."""
    told = job.groups[group]
    answers = [{**answer, "logprobs": found.get(item, ())} for item, answer in enumerate(told["answers"])]
    n_choices = {question.id: len(question.choices) for question in job.cell.job.groups[group]}
    for answer in answers:
        question_id, n_found = answer["question_id"], len(answer["logprobs"])
        if n_found != n_choices[question_id]:
            raise RunFailed(
                f"question {question_id}: the device answered {n_found} of {n_choices[question_id]} options",
                "the same command asks again",
            )
    return graded_rows({**told, "answers": answers}, job.cell)


def clock_of(job: NativeJob, boot_unix_s: float | None, lines: Sequence[Mapping[str, Any]]) -> Clock:
    """Seconds since the run began. Where nobody noted the wall time, the first stamp is its beginning."""
    if boot_unix_s is not None:
        return Clock(offset_s=boot_unix_s - job.cell.started_unix_s)
    first_s = min((line["start_s"] for line in lines if "start_s" in line), default=0.0)
    return Clock(offset_s=-first_s)


def mean_speed(trials: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens a second while writing, the middle of some repetitions."""
    rates = [trial["n_gen"] / trial["decode_s"] for trial in trials if trial["decode_s"]]
    return median(rates) if rates else None
