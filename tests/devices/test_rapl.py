"""RAPL on trees of files: what is summed, what is never summed, wraps, resets, permissions."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core import cpu
from edgebench.core.energy import Absence, Meter, MeterError, Method, Scope
from edgebench.core.types import Evidence
from edgebench.devices.meters.rapl import ABSURD_W, UNITS_J, Rapl, advance_j

SECONDS = 60.0
IN_PACKAGE = ("intel-rapl:0", "intel-rapl:0:2", "intel-rapl:1", "intel-rapl:1:1")


def by_source() -> dict[str, Meter]:
    return {meter.facts.source: meter for meter in Rapl().open()}


def make(fake_sysfs: Any, tree: Path, *zones: Any) -> Any:
    return fake_sysfs.RaplTree(tree, zones or fake_sysfs.standard_zones(SECONDS))


def test_joules_of_the_curve_over_two_wraps(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    rapl = make(fake_sysfs, tree)
    meters = by_source()
    assert set(meters) == {"rapl:package", "rapl:psys"}
    rng, falls, before = random.Random(1), 0, 0
    while clock.now_s < SECONDS:
        clock.now_s = min(SECONDS, clock.now_s + rng.uniform(0.1, 3.0))
        rapl.write(clock.now_s)
        counter = int((rapl.folder("intel-rapl:0") / "energy_uj").read_text())
        falls, before = falls + (counter < before), counter
        package, psys = meters["rapl:package"].read(), meters["rapl:psys"].read()
        # Every zone is off by less than the microjoule that its file drops.
        assert package.value == pytest.approx(rapl.joules(clock.now_s, *IN_PACKAGE), abs=1e-5)
        assert psys.value == pytest.approx(rapl.joules(clock.now_s, "intel-rapl:2"), abs=1e-5)
        assert package.t_s == clock.now_s
    assert falls == 2
    assert package.value == pytest.approx(120 * SECONDS, rel=0.01)
    assert psys.value == pytest.approx(150 * SECONDS, rel=0.01)


def test_what_the_meters_say_of_themselves(tree: Path, fake_sysfs: Any) -> None:
    make(fake_sysfs, tree)
    package, psys = (status.facts for status in Rapl().probe())
    assert package is not None
    assert psys is not None
    assert (package.scope, psys.scope) == (Scope.PACKAGE, Scope.PLATFORM)
    assert package.method is Method.COUNTER
    assert package.evidence is Evidence.REPLAYED
    assert (package.update_s, package.minimum_s, package.accuracy) == (0.001, 5.0, None)
    assert "package-0 + package-0/dram + package-1 + package-1/dram;" in package.detail
    assert "one wrap at most" in package.detail
    assert "step 61.0 µJ, the register's unit, the coarser" in package.detail


@pytest.mark.parametrize(
    ("ranges_j", "step_j"),
    [
        ([262_143.328_850], UNITS_J[0]),
        ([65_532.610_987], UNITS_J[1]),
        ([65_532.610_987, 262_143.328_850], UNITS_J[0]),
        ([65_532.610_987, 1000.0], UNITS_J[0]),
    ],
    ids=["intel", "amd", "mixed: the coarser", "one tells none: the coarser"],
)
def test_step_is_the_registers_unit(
    tree: Path, fake_sysfs: Any, ranges_j: list[float], step_j: float
) -> None:
    zones = [
        fake_sysfs.Zone(f"intel-rapl:{i}", f"package-{i}", 50.0, range_j=range_j)
        for i, range_j in enumerate(ranges_j)
    ]
    make(fake_sysfs, tree, *zones)
    assert by_source()["rapl:package"].facts.step == step_j


def test_dies_sum_and_each_psys_is_alone(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    zone = fake_sysfs.Zone
    rapl = make(
        fake_sysfs,
        tree,
        zone("intel-rapl:0", "package-0-die-0", 50.0),
        zone("intel-rapl:0:0", "dram", 3.0),
        zone("intel-rapl:1", "package-0-die-1", 40.0),
        zone("intel-rapl:1:0", "dram", 2.0),
        zone("intel-rapl:2", "psys", 200.0),
        zone("intel-rapl:3", "psys-1", 300.0),
    )
    meters = by_source()
    clock.now_s = 10 * fake_sysfs.PERIOD_S
    rapl.write(clock.now_s)
    joules = {source: meter.read().value for source, meter in meters.items()}
    expected = {"rapl:package": 95.0, "rapl:psys": 200.0, "rapl:psys-1": 300.0}
    assert joules == pytest.approx({source: power * clock.now_s for source, power in expected.items()})


def test_domain_that_only_mmio_shows_is_used(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    rapl = make(fake_sysfs, tree, fake_sysfs.Zone("intel-rapl-mmio:0", "package-0", 15.0))
    meter = by_source()["rapl:package"]
    clock.now_s = fake_sysfs.PERIOD_S
    rapl.write(clock.now_s)
    assert meter.read().value == pytest.approx(15.0 * fake_sysfs.PERIOD_S)


def test_no_permission_gives_the_command_for_these_files(
    tree: Path, fake_sysfs: Any, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    rapl = make(fake_sysfs, tree)
    locked = [rapl.folder(name) / "energy_uj" for name in ("intel-rapl:0:2", "intel-rapl:1")]
    for file in locked:
        file.chmod(0)
    with unprivileged():
        package, psys = Rapl().probe()
        sources = set(by_source())
    assert (package.reason, package.facts) == (Absence.PERMISSION_DENIED, None)
    assert package.fix == f"sudo chmod o+r {locked[0]} {locked[1]}"
    assert "side channel" in package.why
    assert psys.usable
    assert sources == {"rapl:psys"}


def test_of_two_ways_to_a_domain_the_readable_one_is_used(
    tree: Path, fake_sysfs: Any, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    zone = fake_sysfs.Zone
    rapl = make(
        fake_sysfs, tree, zone("intel-rapl:0", "package-0", 9.0), zone("intel-rapl-mmio:0", "package-0", 9.0)
    )
    (rapl.folder("intel-rapl:0") / "energy_uj").chmod(0)
    with unprivileged():
        (status,) = Rapl().probe()
    assert status.usable


def test_permission_taken_away_midway(
    tree: Path, fake_sysfs: Any, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    rapl = make(fake_sysfs, tree)
    meter = by_source()["rapl:package"]
    (rapl.folder("intel-rapl:1") / "energy_uj").chmod(0)
    with unprivileged(), pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason is Absence.PERMISSION_DENIED
    assert "intel-rapl:1/energy_uj" in caught.value.message


@pytest.mark.parametrize("trouble", ["gone", "no number", "a folder"])
def test_zone_that_breaks_midway_and_comes_back(
    tree: Path, fake_sysfs: Any, clock: Any, trouble: str
) -> None:
    rapl = make(fake_sysfs, tree)
    meter = by_source()["rapl:package"]
    file = rapl.folder("intel-rapl:1") / "energy_uj"
    if trouble == "no number":
        file.write_text("n/a")
    else:
        file.unlink()
        if trouble == "a folder":
            file.mkdir()
    for _ in range(2):
        clock.now_s += 1
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert caught.value.reason is Absence.UNREADABLE
    if trouble == "a folder":
        file.rmdir()
    clock.now_s += 1
    rapl.write(clock.now_s)  # the counter went on meanwhile: nothing is lost, nothing counted twice
    assert meter.read().value == pytest.approx(rapl.joules(clock.now_s, *IN_PACKAGE), abs=1e-5)


def test_stuck_counter_gives_no_joules(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    rapl = make(fake_sysfs, tree, fake_sysfs.Zone("intel-rapl:0", "package-0", 65.0))
    meter = by_source()["rapl:package"]
    rapl.stuck.add("intel-rapl:0")
    for _ in range(5):
        clock.now_s += 1
        rapl.write(clock.now_s)
        assert meter.read().value == 0.0


def test_reset_is_no_wrap_and_ends_the_meter(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    rapl = make(fake_sysfs, tree, fake_sysfs.Zone("intel-rapl:0", "package-0", 65.0, start_j=100_000.0))
    meter = by_source()["rapl:package"]
    file = rapl.folder("intel-rapl:0") / "energy_uj"
    clock.now_s = 0.1
    file.write_text("2000000")
    for counter in ("2000000", "9000000"):  # later reads can't know what was lost
        file.write_text(counter)
        clock.now_s += 0.1
        with pytest.raises(MeterError, match="package-0 was reset") as caught:
            meter.read()
        assert caught.value.reason is Absence.COUNTER_RESET


def test_counter_without_a_range_must_not_fall(tree: Path, fake_sysfs: Any, clock: Any) -> None:
    rapl = make(fake_sysfs, tree, fake_sysfs.Zone("intel-rapl:0", "package-0", 65.0, start_j=10.0))
    (rapl.folder("intel-rapl:0") / "max_energy_range_uj").unlink()
    meter = by_source()["rapl:package"]
    assert "no range is told" in meter.facts.detail
    (rapl.folder("intel-rapl:0") / "energy_uj").write_text("9999999")
    clock.now_s = 1.0
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason is Absence.COUNTER_RESET


@given(
    start_j=st.floats(0, 262_143),
    gains_j=st.lists(st.floats(0, 60_000), max_size=20),
    range_j=st.just(262_143.328_850),
)
def test_whatever_is_gained_between_two_reads_is_found_again(
    start_j: float, gains_j: list[float], range_j: float
) -> None:
    true_j, found_j, before_j = start_j, 0.0, start_j
    for gained_j in gains_j:
        true_j += gained_j
        now_j = true_j % range_j
        found = advance_j(before_j, now_j, range_j, elapsed_s=60.0)
        assert found is not None
        found_j, before_j = found_j + found, now_j
    assert found_j == pytest.approx(sum(gains_j), abs=1e-6)


@given(before_j=st.floats(1, 200_000), kept=st.floats(0, 0.99), elapsed_s=st.floats(0, 10))
def test_reset_is_told_from_a_wrap_by_its_power(before_j: float, kept: float, elapsed_s: float) -> None:
    # A wrap to here would have taken over 60 000 J in 10 s at most.
    assert advance_j(before_j, kept * before_j, 262_143.0, elapsed_s) is None


def test_reads_of_one_update_may_look_absurdly_strong() -> None:
    # 200 W for one update of 1 ms, seen by reads 10 µs apart: 20 kW, and yet a wrap.
    apart_s = 1e-5
    assert 0.2 / apart_s > ABSURD_W
    assert advance_j(999.9, 0.1, 1000.0, apart_s) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("flags", "words"), [("fpu hypervisor sse2", "virtual machine"), ("fpu sse2", "kernel module")]
)
def test_nothing_there(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, words: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", cpuinfo)
    (status,) = Rapl().probe()
    assert (status.source, status.reason, status.scope) == ("rapl", Absence.NO_SENSOR, None)
    assert words in status.why
    assert ("modprobe" in status.fix) <= (words == "kernel module")
    assert Rapl().open() == []


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert [status.reason for status in Rapl().probe()] == [Absence.OS_UNSUPPORTED]


def test_names_that_are_not_rapls_are_left_alone(tree: Path, fake_sysfs: Any) -> None:
    zone = fake_sysfs.Zone
    make(
        fake_sysfs,
        tree,
        zone("intel-rapl:0", "package-0-extra", 5.0),
        zone("intel-rapl:0:0", "dram", 5.0),
        zone("intel-rapl:x", "package-0", 5.0),
        zone("dtpm:0", "package-0", 5.0),
    )
    assert Rapl().open() == []


def test_driven_tree_follows_its_curve_in_real_time(tree: Path, fake_sysfs: Any) -> None:
    seconds = 1.0
    command = [sys.executable, "-S", fake_sysfs.__file__, str(tree), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, start = process.stdout.readline().split()
        meter = by_source()["rapl:package"]
        while process.poll() is None:
            time.sleep(0.05)
            sample = meter.read()
        sample = meter.read()
    assert (word, process.returncode) == ("ready", 0)
    assert float(start) < sample.t_s
    rapl = fake_sysfs.RaplTree(Path("expected"), fake_sysfs.standard_zones(seconds))
    rapl.write(seconds)
    for zone in rapl.zones:
        driven = (tree / "class" / "powercap" / zone.folder / "energy_uj").read_text()
        assert driven == (rapl.folder(zone.folder) / "energy_uj").read_text()
    # Opened after the start, so somewhat less than all; psys or a domain counted twice would be more.
    assert 0 < sample.value <= rapl.joules(seconds, *IN_PACKAGE)
