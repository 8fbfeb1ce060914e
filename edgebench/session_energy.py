"""Energy of a run: which meter its figures come from, the windows they cover, or why there are none."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from edgebench.core.energy import (
    Absence,
    EnergyReading,
    Meter,
    MeterError,
    MeterFacts,
    Sample,
    SourceStatus,
)
from edgebench.core.errors import UsageError, nearest
from edgebench.core.integration import energy_between
from edgebench.devices.meters.catalog import headline, open_all, probe_all
from edgebench.devices.meters.modelled import tdp_energy_j
from edgebench.session_recorder import Clock

NONE = "none"
AUTO = "auto"
POWER = ":power"
"""How the name of a counter's cross-check ends, where its sensor has one."""
CROSS_CHECK_SHARE = 0.05
"""A counter and the integral of the same sensor's power may differ by so much of the counter."""
LONGEST_WINDOW_S = 60.0
"""A default run is not stretched beyond this for a slow meter; `--rigorous` is."""


class Heard(Protocol):
    """What meters said, and which of them fell silent: a recorder's, or a sampler's on another device."""

    failures: dict[str, MeterError]

    def samples(self, source: str) -> list[Sample]:
        """Everything a meter said so far."""


@dataclass(slots=True, kw_only=True)
class Metering:
    """The open meters of a run, and the one its figures are taken from."""

    meters: list[Meter] = field(default_factory=list)
    chosen: MeterFacts | None = None
    reason: Absence = Absence.SWITCHED_OFF
    why: str = "--energy none"
    fix: str = ""
    tdp_w: float | None = None
    n_cores: int = 1
    elsewhere: str | None = None
    """What a device without edgebench has to read energy of; None: nothing now, or no such device."""

    def close(self) -> None:
        """Give the meters back."""
        for meter in self.meters:
            meter.close()

    def minimum_s(self, *, rigorous: bool) -> float:
        """How long a test's window must be for the chosen meter."""
        if self.chosen is None:
            return 0.0
        needed_s = max(self.chosen.minimum_s, 100 * self.chosen.update_s)
        return needed_s if rigorous else min(needed_s, LONGEST_WINDOW_S)

    def told(self) -> str:
        """One line for people: what energy is measured with, or why it is not."""
        if self.chosen is None:
            more = f"; {self.fix}" if self.fix else "; edgebench devices probe tells more"
            return f"energy: not measured ({self.reason}: {self.why}{more})"
        also = [m.facts.source for m in self.meters if m.facts.source != self.chosen.source]
        beside = f"; also recorded: {', '.join(also)}" if also else ""
        kind = "" if self.chosen.evidence == "measured" else f" ({self.chosen.evidence})"
        return f"energy: {self.chosen.source}{kind}, scope {self.chosen.scope}, {self.chosen.method}{beside}"

    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "headline": self.chosen.source if self.chosen else None,
            "reason": None if self.chosen else self.reason.value,
            "why": "" if self.chosen else self.why,
            "meters": [asdict(meter.facts) for meter in self.meters],
        }

    def energy(self, recorder: Heard, facts: MeterFacts, start_s: float, end_s: float) -> EnergyReading:
        """What one meter says of a stretch of time (stamps of the recorder's clock)."""
        failure = recorder.failures.get(facts.source)
        samples = recorder.samples(facts.source)
        heard_all = samples and samples[0].t_s <= start_s and samples[-1].t_s >= end_s
        if failure is not None and not heard_all:
            return _absent(failure, facts)
        return energy_between(samples, facts, start_s, end_s)

    def trial_columns(self, recorder: Heard, start_s: float, end_s: float) -> dict[str, Any]:
        """The energy columns of one repetition; most are too short for a figure of their own."""
        if self.chosen is None:
            return {"energy_reason": self.reason.value}
        reading = self.energy(recorder, self.chosen, start_s, end_s)
        return {
            "energy_j": reading.value_j,
            "energy_resolution_j": reading.resolution_j,
            "energy_source": self.chosen.source,
            "energy_scope": self.chosen.scope.value,
            "energy_method": self.chosen.method.value,
            "energy_u95_j": reading.u95_j,
            "energy_reason": reading.reason.value if reading.reason else None,
            "energy_evidence": self.chosen.evidence.value if reading.value_j is not None else None,
        }

    def windows(
        self,
        recorder: Heard,
        clock: Clock,
        start_s: float,
        end_s: float,
        columns: Mapping[str, Any],
        *,
        busy_core_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of `energy_window`: one for each meter, or one that says why there is none."""
        own = {"start_s": clock.run_s(start_s), "end_s": clock.run_s(end_s), **columns}
        modelled = self._modelled(busy_core_s)
        if self.chosen is None:
            return [
                {**own, **modelled, "headline": 1, "energy_reason": self.reason, "energy_detail": self.why}
            ]
        readings = {m.facts.source: self.energy(recorder, m.facts, start_s, end_s) for m in self.meters}
        rows = []
        for meter in self.meters:
            facts = meter.facts
            is_headline = facts.source == self.chosen.source
            rows.append(
                {
                    **own,
                    **(modelled if is_headline else {}),
                    "headline": int(is_headline),
                    **window_columns(_cross_checked(facts.source, readings), facts),
                }
            )
        return rows

    def _modelled(self, busy_core_s: float | None) -> dict[str, Any]:
        if self.tdp_w is None or busy_core_s is None:
            return {}
        model = tdp_energy_j(busy_core_s, self.n_cores, self.tdp_w)
        return {"energy_modelled_j": model.value_j, "energy_model": f"{model.label}: {model.formula}"}


def _cross_checked(source: str, readings: Mapping[str, EnergyReading]) -> EnergyReading:
    """A counter's reading, flagged where the same sensor's sampled power (`nvml:0:power`) disagrees."""
    reading, other = readings[source], readings.get(f"{source}{POWER}")
    if other is None or not reading.value_j or other.value_j is None:
        return reading
    if abs(other.value_j - reading.value_j) <= CROSS_CHECK_SHARE * reading.value_j:
        return reading
    return replace(
        reading,
        flags=(*reading.flags, "power_disagrees"),
        detail=f"sampled power makes {other.value_j:.4g} J of the counter's {reading.value_j:.4g} J",
    )


def window_columns(reading: EnergyReading, facts: MeterFacts) -> dict[str, Any]:
    """A meter's reading as columns of `energy_window`."""
    return {
        "source": facts.source,
        "scope": facts.scope.value,
        "method": facts.method.value,
        "energy_j": reading.value_j,
        "energy_u95_j": reading.u95_j,
        "energy_resolution_j": reading.resolution_j,
        "energy_reason": reading.reason.value if reading.reason else None,
        "energy_detail": reading.detail or None,
        "n_samples": reading.n_samples,
        "evidence": facts.evidence.value if reading.value_j is not None else None,
        "flags_json": json.dumps(list(reading.flags)),
    }


def open_metering(
    choice: str, *, on_gpu: bool, gpu: str | None = None, tdp_w: float | None = None, n_cores: int = 1
) -> Metering:
    """The meters of this computer. `choice`: `auto`, `none`, or a source's name to take the figures from.

    `gpu` is the counter of the GPU that computes (`nvml:1`): those of others are left alone.
    """
    if choice == NONE:
        return Metering(tdp_w=tdp_w, n_cores=n_cores)
    meters = _without_other_gpus(open_all(), gpu)
    facts = [meter.facts for meter in meters]
    chosen = headline(facts, on_gpu=on_gpu)
    if choice != AUTO:
        chosen = next((fact for fact in facts if fact.source == choice), None)
        if chosen is None:
            _refuse(choice, facts)
    if chosen is not None:
        return Metering(meters=meters, chosen=chosen, tdp_w=tdp_w, n_cores=n_cores)
    statuses = probe_all()
    best = _closest(statuses)
    return Metering(
        meters=meters,
        reason=best.reason if best and best.reason else Absence.NO_SENSOR,
        why=best.why if best else "this computer shows no power sensor",
        fix=best.fix if best else "",
        tdp_w=tdp_w,
        n_cores=n_cores,
    )


def _without_other_gpus(meters: Sequence[Meter], gpu: str | None) -> list[Meter]:
    """Close the meters of GPUs that do not compute; of `nvml:1`, those of `nvml:0` and their cross-checks."""
    if gpu is None:
        return list(meters)
    family = gpu.partition(":")[0]
    ours: list[Meter] = []
    for meter in meters:
        source = meter.facts.source
        if not source.startswith(f"{family}:") or source in (gpu, f"{gpu}{POWER}"):
            ours.append(meter)
        else:
            meter.close()
    return ours


def _refuse(choice: str, facts: Sequence[MeterFacts]) -> None:
    status = next((one for one in probe_all() if one.source == choice), None)
    if status is not None:
        raise UsageError(f"meter {choice} can't be read: {status.why}", status.fix or None)
    raise nearest(choice, [AUTO, NONE, *(fact.source for fact in facts)], kind="meter")


def _closest(statuses: Sequence[SourceStatus]) -> SourceStatus | None:
    """The source that is nearest to being usable: one that is there and shut before one that is absent."""
    order = [Absence.PERMISSION_DENIED, Absence.PLUGGED_IN]
    there = [s for s in statuses if s.reason in order and s.fix]
    if there:
        return min(there, key=lambda status: order.index(status.reason or Absence.NO_SENSOR))
    absent = [s for s in statuses if s.reason is Absence.NO_SENSOR]
    return min(absent, key=lambda status: not status.source.startswith("rapl"), default=None)


def _absent(failure: MeterError, facts: MeterFacts) -> EnergyReading:
    return EnergyReading(
        value_j=None,
        reason=failure.reason,
        detail=failure.message,
        hint=failure.hint or "",
        source=facts.source,
        scope=facts.scope,
        method=facts.method,
    )
