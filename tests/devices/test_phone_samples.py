"""A phone's sampler log: joules of three sources of phones that never were, what is refused, and garbage."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.core.energy import Absence, EnergyReading, Method, Scope
from edgebench.core.types import Evidence
from edgebench.devices.phone_samples import ProcessMemory, Samples
from edgebench.session_energy import Metering
from edgebench.session_native_store import Heard, Meter
from edgebench.session_recorder import Clock

Power = Callable[[float], float]
RAILS = "android.hardware.power.stats.IPowerStats/default"
START_S = 5000.0


def integral_j(power_w: Power, start_s: float, end_s: float, *, n: int = 2000) -> float:
    """Joules of a power, by the midpoint rule."""
    step_s = (end_s - start_s) / n
    return step_s * sum(power_w(start_s + (i + 0.5) * step_s) for i in range(n))


@dataclass(kw_only=True)
class FakePhone:
    """A phone that draws `power_w` at each moment of its uptime, and how it tells of that."""

    power_w: Power
    length_s: float = 30.0
    tick_s: float = 0.3
    voltage_v: float = 4.0
    amps_per_unit: float = 1e-6
    sign: int = -1
    charge_step_uah: int = 1
    charge_unit_uah: int = 1
    current_every_s: float = 0.0
    """How old the current may be; 0: it is of the moment it is read in."""
    has_files: bool = True
    has_rails: bool = True
    has_services: bool = True
    charging: Callable[[float], bool] = lambda _: False
    process: tuple[float, float] | None = None
    """From when to when the job's process lives. It keeps one core busy, others a tenth of one."""
    extra: dict[str, str] = field(default_factory=dict)
    """Answers of services instead of, or beside, its own."""

    def text(self) -> str:
        """The log."""
        n = round(self.length_s / self.tick_s)
        lines = ["edgebench-samples 1"]
        for i in range(n + 1):
            lines += self._tick(i, START_S + i * self.tick_s, is_last=i == n)
        return "\n".join(lines) + "\n"

    def end_s(self) -> float:
        """The uptime of its last tick."""
        return START_S + round(self.length_s / self.tick_s) * self.tick_s

    def _tick(self, i: int, t_s: float, *, is_last: bool) -> list[str]:
        lines = [f"t {t_s:.2f}"]
        t_s = float(f"{t_s:.2f}")
        status = "Charging" if self.charging(t_s) else "Discharging"
        if self.has_files:
            level = f"{self._current(t_s)} {round(self.voltage_v * 1e6)} {self._charge(t_s)}"
            lines.append(f"b {level} {status} 301 80")
        else:
            lines.append("b - - - - - -")
        lines += ["f 1704000 - 2914000", self._cpu(t_s)]
        if self.process and self.process[0] <= t_s <= self.process[1]:
            lines.append(f"p 200000 90000 {round(100 * (t_s - self.process[0]))} 0")
        lines += ["z soc_therm 51000 battery 99000", "m 4000000"]
        if i % 3 == 0 or is_last:
            lines += self._answer(RAILS, t_s, self._rails(t_s + 0.01) if self.has_rails else "")
        if i % 6 == 0 or is_last:
            lines += self._answer("battery", t_s, self._battery(t_s))
            lines += self._answer("thermalservice", t_s, "")
        return lines

    def _answer(self, service: str, t_s: float, own: str) -> list[str]:
        text = self.extra.get(service, own if self.has_services else "")
        return [f"> {service}", *(f"| {line}" for line in text.splitlines()), f"< {t_s + 0.02:.2f}"]

    def _drawn_j(self, t_s: float) -> float:
        """What left the battery since the beginning."""
        power_w = self.power_w
        return integral_j(lambda s: -6.0 if self.charging(s) else power_w(s), START_S, t_s, n=400)

    def _current(self, t_s: float) -> int:
        at_s = t_s - (t_s - START_S) % self.current_every_s if self.current_every_s else t_s
        drawn_w = -6.0 if self.charging(at_s) else self.power_w(at_s)
        return round(self.sign * drawn_w / self.voltage_v / self.amps_per_unit)

    def _charge(self, t_s: float) -> int:
        uah = 3_270_000 - self._drawn_j(t_s) / self.voltage_v / 3.6e-3
        return int(uah // self.charge_step_uah) * self.charge_step_uah // self.charge_unit_uah

    def _cpu(self, t_s: float) -> str:
        own_s = (
            0.0 if not self.process else min(max(t_s - self.process[0], 0), self.process[1] - self.process[0])
        )
        return f"c {round(100 * (own_s + 0.1 * (t_s - START_S)))} 0 0 90000 500 0 0 0"

    def _battery(self, t_s: float) -> str:
        return (
            "Current Battery Service state:\n  AC powered: false\n"
            f"  USB powered: {str(self.charging(t_s)).lower()}\n  Wireless powered: false\n"
            f"  Max charging current: 0\n  Charge counter: {self._charge(t_s)}\n"
            f"  status: {2 if self.charging(t_s) else 3}\n  level: 80\n  scale: 100\n"
            f"  voltage: {self.voltage_v * 1e3:.0f}\n  temperature: 301\n"
        )

    def _rails(self, t_s: float) -> str:
        """Two rails that share what is drawn, a part of one of them, and the battery's own, which has all."""
        energy_j = integral_j(self.power_w, START_S, t_s, n=400)
        rows = {
            "[S4M_VDD_CPUCL0]:CPU(LITTLE)": 0.7 * energy_j + 100,
            "[S3S_LLDO1]:LDO": 0.3 * energy_j + 50,
            "[L7S_SENSORS]:Sensors": 0.1 * energy_j,
            "[VSYS_PWR_VBATT]:Battery": energy_j,
        }
        return (
            "============= PowerStats HAL 2.0 energy meter ==============\n"
            + "".join(f"  {name:>32}   {1e3 * value:14.2f} mWs\n" for name, value in rows.items())
            + "========== End of PowerStats HAL 2.0 energy meter ==========\n"
        )


def ramp(t_s: float) -> float:
    """1 W at first, and 0.1 W more each second."""
    return 1.0 + 0.1 * (t_s - START_S)


def idle_then_busy(t_s: float) -> float:
    """0.5 W, then 4.5 W, with what no real load is without."""
    return (0.5 if t_s < START_S + 8 else 4.5) * (1 + 0.02 * math.sin(7 * t_s))


def read(phone: FakePhone) -> Samples:
    return Samples.read(phone.text(), synthetic=False)


def metering(samples: Samples) -> tuple[Metering, Heard]:
    """The meters as a run's energy windows see them."""
    meters = samples.meters()
    chosen = samples.headline()
    found = Metering(meters=[Meter(facts) for facts, _ in meters], chosen=chosen)
    if chosen is None:
        found.reason, found.why = samples.why_no_energy()
    return found, Heard({facts.source: told for facts, told in meters}, failures=samples.failures())


def energies(samples: Samples, start_s: float, end_s: float) -> dict[str, EnergyReading]:
    """What each source says of a window, in seconds since the log began."""
    found, heard = metering(samples)
    window_s = START_S + start_s, START_S + end_s
    return {facts.source: found.energy(heard, facts, *window_s) for facts, _ in samples.meters()}


def facts(samples: Samples, source: str):
    return next(facts for facts, _ in samples.meters() if facts.source == source)


SOURCES = ["rails", "charge_counter", "current_voltage"]


@pytest.mark.parametrize(("power_w", "between_j"), [(ramp, 0.0), (idle_then_busy, 4.0 * 0.3 / 2)])
@pytest.mark.parametrize(("start_s", "end_s"), [(3.0, 9.0), (5.05, 25.17), (12.4, 29.9)])
def test_known_joules_from_each_source(
    power_w: Power, between_j: float, start_s: float, end_s: float
) -> None:
    samples = read(FakePhone(power_w=power_w))
    truth_j = integral_j(power_w, START_S + start_s, START_S + end_s)
    found = energies(samples, start_s, end_s)
    assert list(found) == SOURCES
    for reading in found.values():
        assert reading.reason is None
        assert reading.u95_j is not None
        # What a jump between two looks may hide stands in the interval at the edges only.
        assert abs(reading.value_j - truth_j) <= reading.u95_j + between_j + 0.005 * truth_j
        assert reading.u95_j < 0.3 * truth_j
    assert samples.headline() == facts(samples, "rails")


def test_what_the_sources_say_of_themselves() -> None:
    samples = read(FakePhone(power_w=ramp))
    rails, charge, current = (facts for facts, _ in samples.meters())
    assert (rails.scope, rails.method) == (Scope.RAILS, Method.COUNTER)
    assert (charge.scope, charge.method) == (Scope.BATTERY, Method.COUNTER)
    assert (current.scope, current.method) == (Scope.BATTERY, Method.SAMPLED)
    assert "sum of 2 rails" in rails.detail
    counted, left_out = rails.detail.split("not added")
    assert "CPUCL0" in counted
    assert "LLDO1" in counted
    assert "VBATT" in left_out
    assert "SENSORS" in left_out
    assert charge.step == pytest.approx(3.6e-3 * 4.0)  # 1 µAh at 4 V
    assert {one.evidence for one in (rails, charge, current)} == {Evidence.MEASURED}
    stand_in = Samples.read(FakePhone(power_w=ramp).text(), synthetic=True)
    assert {facts.evidence for facts, _ in stand_in.meters()} == {Evidence.SYNTHETIC}


def test_windows_and_repetitions_are_rows_of_the_database() -> None:
    found, heard = metering(read(FakePhone(power_w=ramp)))
    rows = found.windows(heard, Clock(offset_s=-START_S), START_S + 5, START_S + 25, {"kind": "test"})
    assert [(row["source"], row["headline"], row["energy_reason"]) for row in rows] == [
        ("rails", 1, None),
        ("charge_counter", 0, None),
        ("current_voltage", 0, None),
    ]
    assert [row["energy_j"] for row in rows] == pytest.approx([50.0] * 3, rel=0.005)
    trial = found.trial_columns(heard, START_S + 5, START_S + 25)
    assert trial["energy_j"] == pytest.approx(50.0, rel=0.005)
    assert (trial["energy_source"], trial["energy_evidence"]) == ("rails", "measured")


# --- Unit and sign


@pytest.mark.parametrize(("amps_per_unit", "unit"), [(1e-6, "µA"), (1e-3, "mA")])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("charge_step_uah", [1, 1000])
def test_unit_and_sign_of_the_current_are_found(
    amps_per_unit: float, unit: str, sign: int, charge_step_uah: int
) -> None:
    phone = FakePhone(power_w=ramp, amps_per_unit=amps_per_unit, sign=sign, charge_step_uah=charge_step_uah)
    samples = read(phone)
    assert energies(samples, 5, 25)["current_voltage"].value_j == pytest.approx(50.0, rel=0.005)
    words = facts(samples, "current_voltage").detail
    assert f"current_now in {unit} " in words
    assert ("above 0" if sign > 0 else "below 0") in words
    assert "what the charge counter tells" in words
    assert "0.9" in words or "1.0" in words


def test_without_a_counter_the_size_alone_decides() -> None:
    samples = read(FakePhone(power_w=ramp, charge_step_uah=10**9))
    assert "by its size alone" in facts(samples, "current_voltage").detail


def test_a_current_that_the_charge_counter_contradicts_is_refused() -> None:
    samples = read(FakePhone(power_w=ramp, amps_per_unit=2e-6, has_rails=False))  # one cell of two, say
    assert [facts.source for facts, _ in samples.meters()] == ["charge_counter"]
    assert energies(samples, 5, 25)["charge_counter"].value_j == pytest.approx(50.0, rel=0.005)


@pytest.mark.parametrize("power_w", [lambda _: 2e-5, lambda _: 300.0])
def test_a_power_no_phone_has_is_no_reading(power_w: Power) -> None:
    phone = FakePhone(power_w=power_w, has_rails=False, charge_step_uah=10**9)
    samples = read(phone)
    assert samples.headline() is None
    assert samples.why_no_energy()[0] is Absence.INCONSISTENT_SENSOR


def test_a_sign_that_changes_by_itself_is_refused() -> None:
    lines = FakePhone(power_w=ramp, has_rails=False, charge_step_uah=10**9).text().split("\n")
    rows = [i for i, line in enumerate(lines) if line.startswith("b ")]
    for i in rows[::3]:
        lines[i] = lines[i].replace("b -", "b ")
    samples = Samples.read("\n".join(lines), synthetic=False)
    assert samples.headline() is None
    reason, why = samples.why_no_energy()
    assert reason is Absence.INCONSISTENT_SENSOR
    assert "above 0" in why


# --- Steps, and what is too short


@pytest.mark.parametrize("charge_step_uah", [1, 7, 100, 1000])
def test_the_counters_step_is_seen(charge_step_uah: int) -> None:
    samples = read(FakePhone(power_w=ramp, charge_step_uah=charge_step_uah))
    assert facts(samples, "charge_counter").step == pytest.approx(charge_step_uah * 3.6e-3 * 4.0)


def test_a_counter_of_milliampere_hours() -> None:
    phone = FakePhone(power_w=ramp, length_s=120, charge_step_uah=1000, charge_unit_uah=1000)
    assert "charge counter in mAh" in facts(read(phone), "charge_counter").detail


@pytest.mark.parametrize(
    ("phone", "source"),
    [
        (FakePhone(power_w=ramp, has_rails=False), "charge_counter"),
        (FakePhone(power_w=ramp, has_rails=False, charge_step_uah=1000), "current_voltage"),
        (FakePhone(power_w=ramp, has_rails=False, current_every_s=2.0), "charge_counter"),
        (FakePhone(power_w=ramp, has_rails=False, has_files=False), "charge_counter"),
        (FakePhone(power_w=ramp, has_rails=False, charge_step_uah=10**9), "current_voltage"),
        (FakePhone(power_w=ramp, charging=lambda _: True), "rails"),
    ],
)
def test_the_source_whose_figure_counts(phone: FakePhone, source: str) -> None:
    found = read(phone).headline()
    assert found is not None
    assert found.source == source


def test_windows_that_are_too_short_say_how_long_is_enough() -> None:
    found = energies(read(FakePhone(power_w=ramp)), 10.0, 11.5)
    assert {reading.reason for reading in found.values()} == {Absence.WINDOW_TOO_SHORT}
    slow = energies(read(FakePhone(power_w=ramp, current_every_s=2.0)), 3, 29)["current_voltage"]
    assert slow.reason is Absence.WINDOW_TOO_SHORT
    assert "repeat the request until it lasts" in slow.hint


def test_less_than_a_hundred_steps_are_no_figure() -> None:
    # New at each look, so its pauses are no reason; but every look is one step of 0.3 J more.
    phone = FakePhone(power_w=lambda _: 1.0, tick_s=0.3, charge_step_uah=20, has_rails=False)
    reading = energies(read(phone), 3, 13)["charge_counter"]
    assert reading.value_j is None
    assert reading.reason is Absence.BELOW_RESOLUTION


def test_a_counter_that_stands_still_is_no_source() -> None:
    phone = FakePhone(power_w=ramp, charge_step_uah=10**9, has_files=False, has_rails=False)
    samples = read(phone)
    assert samples.meters() == []
    assert samples.headline() is None
    reason, why = samples.why_no_energy()
    assert reason is Absence.BELOW_RESOLUTION
    assert "stood still" in why


def test_rails_that_stand_still_leave_it_to_the_battery() -> None:
    stub = "  [S1M_VDD_MIF]:MIF   100.00 mWs\n"
    samples = read(FakePhone(power_w=ramp, extra={RAILS: stub}))
    assert [facts.source for facts, _ in samples.meters()] == ["charge_counter", "current_voltage"]


def test_counters_that_begin_anew() -> None:
    text = FakePhone(power_w=ramp).text()
    before, mark, after = text.partition(f"t {START_S + 15:.2f}")
    rows = after.split("\n")
    rows = ["|   [S4M_VDD_CPUCL0]:CPU(LITTLE)   1.00 mWs" if "CPU(LITTLE)" in row else row for row in rows]
    found = energies(Samples.read(before + mark + "\n".join(rows), synthetic=False), 5, 25)
    assert found["rails"].reason is Absence.COUNTER_RESET
    assert found["charge_counter"].value_j == pytest.approx(50.0, rel=0.005)


@pytest.mark.parametrize(("has_files", "unit_uah"), [(True, 1), (True, 1000), (False, 1)])
def test_what_a_full_charge_holds(has_files: bool, unit_uah: int) -> None:
    phone = FakePhone(power_w=ramp, has_files=has_files, charge_unit_uah=unit_uah)
    found = read(phone).full_charge_j()
    assert found is not None
    at_s, full_j = found
    assert at_s == pytest.approx(phone.end_s(), abs=0.05)
    # 3270 mAh less what was drawn, at 80 %, at 4 V.
    drawn_j = integral_j(ramp, START_S, phone.end_s())
    assert full_j == pytest.approx((3.27 * 3600 * 4.0 - drawn_j) / 0.8, rel=0.001)


def test_a_full_charge_that_no_battery_holds() -> None:
    assert read(FakePhone(power_w=ramp, charge_unit_uah=10**6)).full_charge_j() is None
    assert read(FakePhone(power_w=ramp, charging=lambda _: True)).full_charge_j() is None
    empty = FakePhone(power_w=ramp).text().replace("Discharging 301 80", "Discharging 301 1")
    assert Samples.read(empty, synthetic=False).full_charge_j() is None


# --- Chargers


def test_a_charger_in_the_middle_of_a_window_leaves_the_rails() -> None:
    samples = read(FakePhone(power_w=ramp, charging=lambda t_s: t_s > START_S + 15))
    found = energies(samples, 5, 25)
    assert found["rails"].value_j == pytest.approx(50.0, rel=0.005)
    for source in ("charge_counter", "current_voltage"):
        assert found[source].value_j is None
        assert found[source].reason is Absence.PLUGGED_IN
    before = energies(samples, 3, 13)
    assert before["current_voltage"].value_j == pytest.approx(18.0, rel=0.005)


def test_a_charger_that_is_pulled_leaves_what_comes_after() -> None:
    samples = read(FakePhone(power_w=ramp, charging=lambda t_s: t_s < START_S + 10))
    after = energies(samples, 15, 25)
    assert after["current_voltage"].value_j == pytest.approx(30.0, rel=0.005)
    assert after["charge_counter"].value_j == pytest.approx(30.0, rel=0.005)
    over = energies(samples, 5, 25)
    assert over["current_voltage"].value_j is None
    assert over["charge_counter"].value_j is None


def test_always_on_a_charger_and_no_rails_is_no_energy() -> None:
    samples = read(FakePhone(power_w=ramp, charging=lambda _: True, has_rails=False))
    assert samples.headline() is None
    reason, why = samples.why_no_energy()
    assert reason is Absence.PLUGGED_IN
    assert "charg" in why
    found, heard = metering(samples)
    assert found.trial_columns(heard, START_S + 5, START_S + 25) == {"energy_reason": "plugged_in"}


def test_a_weak_charger_counts_though_the_battery_empties() -> None:
    said = "Current Battery Service state:\n  USB powered: true\n  status: 3\n  voltage: 4000\n"
    samples = read(FakePhone(power_w=ramp, has_rails=False, extra={"battery": said}))
    assert samples.why_no_energy()[0] is Absence.PLUGGED_IN


def test_a_frozen_battery_service_is_not_believed() -> None:
    frozen = (
        "Current Battery Service state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n"
        "  USB powered: false\n  status: 3\n  voltage: 4000\n  Charge counter: 100\n"
    )
    samples = read(FakePhone(power_w=ramp, has_rails=False, has_files=False, extra={"battery": frozen}))
    assert samples.headline() is None
    assert samples.why_no_energy()[0] is Absence.UNREADABLE
    # The kernel's own files go on telling the truth.
    files = read(FakePhone(power_w=ramp, has_rails=False, extra={"battery": frozen}))
    assert energies(files, 5, 25)["current_voltage"].value_j == pytest.approx(50.0, rel=0.005)


# --- The clock, and what is missing


def test_a_clock_that_goes_back_ends_the_log() -> None:
    text = FakePhone(power_w=ramp).text()
    again = FakePhone(power_w=ramp).text().replace("t 5", "t 1")
    samples = Samples.read(text + again, synthetic=False)
    assert len(samples.states()) == 101
    assert energies(samples, 5, 25)["current_voltage"].value_j == pytest.approx(50.0, rel=0.005)
    assert energies(samples, 5, 45)["rails"].reason is Absence.GAP


def test_a_pause_is_a_gap_for_what_is_sampled_and_none_for_counters() -> None:
    head, *ticks = FakePhone(power_w=ramp).text().split("\nt ")
    kept = [tick for tick in ticks if not START_S + 10 <= float(tick.split("\n")[0]) < START_S + 18]
    found = energies(Samples.read("\nt ".join([head, *kept]), synthetic=False), 5, 25)
    assert found["current_voltage"].reason is Absence.GAP
    assert found["charge_counter"].value_j == pytest.approx(50.0, rel=0.01)
    assert found["rails"].value_j == pytest.approx(50.0, rel=0.01)


def test_nothing_at_all() -> None:
    samples = Samples.read("", synthetic=False)
    assert samples.meters() == samples.states() == samples.memory() == []
    assert samples.headline() is None
    assert samples.why_no_energy() == (Absence.UNREADABLE, "the sampler left nothing")
    assert samples.foreign_cpu_s(0, 1) is None


def test_a_phone_that_tells_nothing() -> None:
    samples = read(FakePhone(power_w=ramp, has_files=False, has_rails=False, has_services=False))
    assert samples.headline() is None
    assert samples.why_no_energy()[0] is Absence.UNREADABLE
    # A board or a laptop has no such battery either: its other figures are there.
    (_, state), *_ = samples.states()
    assert state.temperature_c == 51.0
    assert state.on_battery is None


# --- Heat, memory, neighbours

HAL = (
    "Thermal Status: {overall}\nCached temperatures:\n"
    "\tTemperature{{mValue=99.0, mType=3, mName=VIRTUAL-SKIN, mStatus=6}}\nHAL Ready: {ready}\n"
)
CURRENT = (
    "Current temperatures from HAL:\n\tTemperature{{mValue=71.5, mType=0, mName=BIG, mStatus=0}}\n"
    "\tTemperature{{mValue=38.25, mType=3, mName=VIRTUAL-SKIN, mStatus={skin}}}\n"
    "Current cooling devices from HAL:\n\tCoolingDevice{{mValue=2, mType=2, mName=thermal-cpufreq-0}}\n"
)


@pytest.mark.parametrize(("skin", "throttled"), [(0, False), (1, False), (2, True), (3, True)])
def test_heat_is_what_the_hal_says_now(skin: int, throttled: bool) -> None:
    said = (HAL + CURRENT).format(overall=0, ready="true", skin=skin)
    states = read(FakePhone(power_w=ramp, extra={"thermalservice": said})).states()
    assert len(states) == 101
    for _, state in states:
        assert (state.temperature_c, state.temperature_sensor) == (38.25, "thermalservice:VIRTUAL-SKIN")
        assert state.throttled_now is throttled
        assert state.on_battery is True
        assert state.frequency_hz == pytest.approx(2.309e9)


@pytest.mark.parametrize(("overall", "throttled"), [(0, False), (2, True)])
def test_heat_without_a_hal_is_of_zones(overall: int, throttled: bool) -> None:
    said = HAL.format(overall=overall, ready="false")
    states = read(FakePhone(power_w=ramp, extra={"thermalservice": said})).states()
    assert {state.temperature_c for _, state in states} == {51.0}
    assert {state.temperature_sensor for _, state in states} == {"zone:soc_therm"}
    assert {state.throttled_now for _, state in states} == {throttled}


def test_heat_without_zones_is_the_batterys() -> None:
    text = FakePhone(power_w=ramp).text().replace("z soc_therm 51000 battery 99000\n", "")
    (_, state), *_ = Samples.read(text, synthetic=False).states()
    assert (state.temperature_c, state.temperature_sensor) == (30.1, "battery")
    assert state.throttled_now is None


def test_what_was_said_long_ago_is_not_of_now() -> None:
    said = (HAL + CURRENT).format(overall=0, ready="true", skin=3)
    text = FakePhone(power_w=ramp, extra={"thermalservice": said}).text()
    head, _, rest = text.partition(f"t {START_S + 6:.2f}")
    silent = rest.replace("> thermalservice", "> something else")
    states = Samples.read(head + f"t {START_S + 6:.2f}" + silent, synthetic=False).states()
    assert states[0][1].temperature_c == 38.25
    assert states[-1][1].temperature_c is None
    assert states[-1][1].throttled_now is None


def test_memory_and_neighbours_while_the_process_lives() -> None:
    process = START_S + 3, START_S + 27
    samples = read(FakePhone(power_w=ramp, process=process))
    memory = samples.memory()
    assert all(process[0] <= t_s <= process[1] for t_s, _ in memory)
    assert {one for _, one in memory} == {ProcessMemory(anon_bytes=204_800_000, file_bytes=92_160_000)}
    # Others have a tenth of a core.
    assert samples.foreign_cpu_s(START_S + 5, START_S + 25) == pytest.approx(2.0, abs=0.05)
    assert samples.foreign_cpu_s(START_S + 5.1, START_S + 27.2) == pytest.approx(2.21, abs=0.05)
    assert samples.foreign_cpu_s(START_S + 26, START_S + 40) is None
    assert samples.foreign_cpu_s(START_S + 8, START_S + 8) is None
    assert read(FakePhone(power_w=ramp)).foreign_cpu_s(START_S + 5, START_S + 25) is None


# --- Garbage

WHOLE = FakePhone(
    power_w=ramp,
    length_s=9.0,
    process=(START_S + 1, START_S + 8),
    extra={"thermalservice": (HAL + CURRENT).format(overall=1, ready="true", skin=2)},
).text()
TEXTS = st.text(max_size=400) | st.text(alphabet="tbfcpzm><| -.0123456789\n\x00é٣∞:mWs[]{}=,", max_size=400)
WORDS = st.sampled_from(
    [
        "-",
        "0",
        "-1",
        "1",
        "3900000",
        "4000",
        "9" * 18,
        "9" * 400,
        "1e308",
        "nan",
        "inf",
        "٣",
        "Discharging",
        "\x00",
        "",
    ]
)
MARKS = st.sampled_from(["t", "b", "f", "c", "p", "z", "m", "<", ">", "|", "?"])
LINES = st.builds(lambda mark, words: " ".join([mark, *words]), MARKS, st.lists(WORDS, max_size=9))


def look_at_everything(samples: Samples) -> None:
    """Every accessor, and what the session does with what they give."""
    found, heard = metering(samples)
    for window_s in ((START_S + 1, START_S + 8), (0.0, 1.0), (0.0, 1e12), (2.0, 1.0)):
        found.windows(heard, Clock(offset_s=-START_S), *window_s, {"kind": "test"})
        found.trial_columns(heard, *window_s)
        foreign_s = samples.foreign_cpu_s(*window_s)
        assert foreign_s is None or foreign_s >= 0
    assert (samples.headline() is None) == (samples.meters() == [])
    reason, why = samples.why_no_energy()
    assert isinstance(reason, Absence)
    assert samples.headline() is not None or why
    full = samples.full_charge_j()
    assert full is None or full[1] > 0
    stamps_s = [t_s for t_s, _ in samples.states()]
    assert stamps_s == sorted(set(stamps_s))
    for _, state in samples.states():
        assert state.temperature_c is None or -40 <= state.temperature_c < 125
    for _, memory in samples.memory():
        assert memory.anon_bytes >= 0
        assert memory.file_bytes >= 0


@given(TEXTS | st.lists(LINES, max_size=40).map("\n".join))
def test_no_text_raises(text: str) -> None:
    look_at_everything(Samples.read(text, synthetic=False))


@given(st.lists(LINES, min_size=2, max_size=30))
def test_no_lines_between_good_ones_raise(lines: list[str]) -> None:
    good = WHOLE.split("\n")
    middle = len(good) // 2
    look_at_everything(Samples.read("\n".join(good[:middle] + lines + good[middle:]), synthetic=False))


@settings(max_examples=200)
@given(st.integers(0, len(WHOLE)), st.integers(0, 300), TEXTS)
def test_no_hole_or_patch_raises(start: int, length: int, patch: str) -> None:
    look_at_everything(Samples.read(WHOLE[:start] + patch + WHOLE[start + length :], synthetic=False))


@given(st.integers(0, len(WHOLE)))
def test_a_cut_log_tells_the_same_as_far_as_it_goes(length: int) -> None:
    whole, cut = Samples.read(WHOLE, synthetic=False), Samples.read(WHOLE[:length], synthetic=False)
    look_at_everything(cut)
    n_rows = len(cut.memory())
    assert cut.memory() == whole.memory()[:n_rows]
    rails = next((told for facts, told in cut.meters() if facts.source == "rails"), [])
    assert rails == next(told for facts, told in whole.meters() if facts.source == "rails")[: len(rails)]


def test_a_huge_log_is_read_in_one_go() -> None:
    noise = "| " + "x" * 300 + "\n"
    text = WHOLE.replace("> battery\n", "> battery\n" + 20_000 * noise, 1)
    look_at_everything(Samples.read(text, synthetic=False))
    look_at_everything(Samples.read("b " + "9" * 5_000_000 + "\n" + WHOLE, synthetic=False))
