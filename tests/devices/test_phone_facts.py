"""What a phone says of itself, in texts that are made up, recorded, or garbage."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.core.energy import Absence
from edgebench.core.errors import DeviceError
from edgebench.devices import phone_facts
from edgebench.devices.phone_cpu import Cluster, clusters_of, features_of, mask_of, ranges, thread_candidates
from edgebench.devices.phone_facts import SCRIPT, PhoneFacts, read, read_files, read_text, sold_gib
from edgebench.devices.phone_identity import (
    PROPERTIES,
    Identity,
    cleaned,
    profile_of,
    read_identity,
    read_properties,
    target_of,
)
from edgebench.devices.phone_probe import MICROAMPERES_FROM, Probe, probe

SAMPLES = Path(
    os.environ.get("EDGEBENCH_PHONE_SAMPLES", Path(__file__).parents[3] / "shared" / "phone" / "samples")
)
"""Texts of real devices, not part of the project."""
CPU = "/sys/devices/system/cpu"
SUPPLY = "/sys/class/power_supply/battery"
LITTLE, MIDDLE, BIG = (170, 1704000), (650, 2367000), (1024, 2914000)

PROPERTIES_TEXT = """\
[ro.product.model]: [Pixel 8]
[ro.product.manufacturer]: [Google]
[ro.product.device]: [shiba]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
[ro.build.fingerprint]: [google/shiba/shiba:14/X/1:user/release-keys]
[ro.build.version.release]: [14]
[ro.build.version.sdk]: [34]
[ro.build.version.security_patch]: [2024-01-05]
[ro.edgebench.double]: []
"""
SERVICE = """\
Current OTHER Battery Service state:
  voltage: 1
Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Charge counter: 3270000
  status: 3
  level: 80
  scale: 100
  voltage: 3910
  temperature: 291
"""
RAILS = """\
============= PowerStats HAL 2.0 energy meter ==============
                           Channel    Cumulative Energy
         [S2M_VDD_CPUCL2]:CPU(BIG)         22445.10 mWs
      [S4M_VDD_CPUCL0]:CPU(LITTLE)          3740.85 mWs
========== End of PowerStats HAL 2.0 energy meter ==========
"""
THERMAL = """\
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=99.0, mType=3, mName=SKIN, mStatus=5}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=61.5, mType=0, mName=CPU, mStatus=0}
\tTemperature{mValue=33.5, mType=3, mName=SKIN, mStatus=1}
Current cooling devices from HAL:
"""


def cpu_text(kinds: Sequence[tuple[int, int]], online: str | None = None) -> str:
    """Files of processors: their capacity and highest clock in kHz."""
    last = len(kinds) - 1
    lines = [f"{CPU}/present:0-{last}", f"{CPU}/online:{online or f'0-{last}'}"]
    for i, (capacity, khz) in enumerate(kinds):
        lines += [
            f"{CPU}/cpu{i}/cpu_capacity:{capacity}",
            f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq:{khz}",
            f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq:{khz // 2}",
            f"{CPU}/cpu{i}/cpufreq/scaling_governor:sched_own",
        ]
    return "\n".join(lines)


def supply_text(current: int | str = -512000, status: str = "Discharging", **more: object) -> str:
    files = {"current_now": current, "voltage_now": 3910000, "charge_counter": 3270000, "capacity": 80}
    files |= {"temp": 291, "status": status, **more}
    return "\n".join(f"{SUPPLY}/{name}:{value}" for name, value in files.items())


PARTS = {
    "properties": PROPERTIES_TEXT,
    "board": "",
    "cpuinfo": "".join(f"processor\t: {i}\nFeatures\t: fp asimd asimdhp asimddp i8mm\n" for i in range(9)),
    "memory": "MemTotal:        7700000 kB\nMemAvailable:    5200000 kB\n",
    "cpu": cpu_text([LITTLE] * 4 + [MIDDLE] * 4 + [BIG]),
    "kernel": "aarch64\n5.15.110-android14\n#1 SMP PREEMPT\n",
    "supply": supply_text(),
    "zones": "/sys/class/thermal/thermal_zone0/type:BIG\n/sys/class/thermal/thermal_zone0/temp:",
    "storage": "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/fuse 1000 400 600 40% /data",
    "battery": SERVICE,
    "rails": RAILS,
    "thermal": THERMAL,
    "screen": "  mWakefulness=Awake",
    "uptime": "8123.45 60000.1",
}


def said(**parts: str) -> str:
    """What a phone prints for the script, but for the parts that are given."""
    return "".join(f"\n@@ edgebench {name}\n{text}\n" for name, text in {**PARTS, **parts}.items())


def facts(**parts: str) -> PhoneFacts:
    return read_text(said(**parts))


# A phone that tells everything ------------------------------------------------------------------


def test_a_phone_is_read_in_one_round_trip() -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> str:
        asked.append(argv)
        return said()

    found = read(run)
    assert asked == [["sh", "-c", SCRIPT]]
    assert found.target == "android-arm64"
    assert found.features == {"fp", "asimd", "asimdhp", "asimddp", "i8mm"}
    assert found.available_bytes == 5_200_000 * 1024
    assert found.memory_bytes == 7_700_000 * 1024
    assert found.free_bytes == 600 * 1024
    assert found.uptime_s == 8123.45
    assert found.kernel == "5.15.110-android14"
    assert found.governor == "sched_own"
    assert found.rails_j["[S2M_VDD_CPUCL2]:CPU(BIG)"] == pytest.approx(22.4451)
    assert not found.is_double
    assert found.told() == (
        "Google Pixel 8 (Google Tensor G3; 1+4+4 cores; 7.34 GiB of memory, 4.96 GiB of it free; Android 14)"
    )


def test_lines_may_end_as_a_terminal_ends_them() -> None:
    assert replace(read_text(said().replace("\n", "\r\n")), texts={}) == replace(facts(), texts={})


def test_a_device_is_its_model_not_its_specimen() -> None:
    device = facts().device_profile()
    assert re.fullmatch(r"pixel8-[0-9a-f]{8}", device.id)
    assert (device.name, device.kind, device.transport) == ("Google Pixel 8", "phone", "adb")
    assert device.soc == "Google Tensor G3"
    assert device.facts["memory_gib"] == 8
    json.dumps(dict(device.facts), allow_nan=False)
    # An update that keeps a little more memory, a core that is off, a clock that is held down: the same.
    same = facts(
        memory="MemTotal: 7650000 kB",
        cpu=cpu_text([LITTLE] * 4 + [MIDDLE] * 4 + [(1024, 2000000)], "0-7"),
        uptime="1.0 1.0",
    )
    assert same.device_profile().id == device.id
    other = facts(memory="MemTotal: 11650000 kB").device_profile()
    assert other.id != device.id
    assert facts(properties=PROPERTIES_TEXT.replace("G3", "G4")).device_profile().id != device.id


def test_a_stand_in_is_never_taken_for_the_phone_it_plays() -> None:
    double = facts(properties=PROPERTIES_TEXT.replace("double]: []", "double]: [1]"))
    assert double.is_double
    assert "stand-in" in double.told()
    assert double.device_profile().id != facts().device_profile().id
    assert double.device_profile().name == "Google Pixel 8 (stand-in)"
    odd = facts(properties=PROPERTIES_TEXT.replace("double]: []", "double]: [no]"))
    assert not odd.is_double


def test_an_environment_is_its_software_whether_or_not_a_cable_is_in() -> None:
    environment = facts().environment()
    assert (environment.os, environment.kernel) == ("Android 14", "5.15.110-android14")
    assert environment.on_battery is None
    plugged = facts(
        supply=supply_text(status="Charging"),
        battery=SERVICE.replace("USB powered: false", "USB powered: true"),
    )
    assert plugged.environment() == environment
    assert facts(kernel="aarch64\n6.1\n#1").environment().id != environment.id


def test_no_serial_number_is_asked_for() -> None:
    assert not [name for name in PROPERTIES if "serial" in name or "mac" in name or "imei" in name]
    assert not re.search(r"getprop *(2>|\)|$)", SCRIPT, re.MULTILINE)


# Windows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "minimum_s"),
    [
        ({}, 5.0),  # the battery's figures stand beside those of the rails
        ({"supply": "", "battery": ""}, 2.0),
        ({"rails": ""}, 5.0),
        ({"rails": "", "supply": supply_text(status="Charging")}, 5.0),
        ({"rails": "", "supply": supply_text(current=0)}, 5.0),
        ({"rails": "", "supply": ""}, 0.0),
        ({"rails": "", "supply": "", "battery": SERVICE + "  current now: 321\n"}, 5.0),
        ({"rails": RAILS.replace("22445.10", "0.00").replace("3740.85", "0.00"), "supply": ""}, 0.0),
    ],
)
def test_a_window_is_as_long_as_the_meter_wants(parts: dict[str, str], minimum_s: float) -> None:
    assert facts(**parts).minimum_window_s() == minimum_s


# Who it is --------------------------------------------------------------------------------------


def test_a_phone_without_a_profile_is_called_what_it_calls_itself() -> None:
    text = PROPERTIES_TEXT.replace("Pixel 8", "Nine").replace("shiba", "nine").replace("[Google]", "[Maker]")
    found = facts(properties=text)
    assert found.identity.title == "Maker Nine"
    assert found.identity.soc == "Maker Tensor G3"
    profile = profile_of(found.identity)
    assert profile is not None
    assert profile.name == "generic-android"
    assert found.device_profile().id.startswith("nine-")


def test_the_chip_of_a_model_that_has_two_is_the_phones_word() -> None:
    props = {"ro.product.model": "SM-S921B", "ro.product.manufacturer": "samsung", "ro.product.device": "e1s"}
    identity = read_identity({**props, "ro.soc.manufacturer": "Samsung", "ro.soc.model": "s5e9945"})
    assert (identity.title, identity.soc) == ("Samsung Galaxy S24", "Samsung s5e9945")
    assert read_identity({**props, "ro.board.platform": "erd"}).soc == "erd"


@pytest.mark.parametrize(
    ("abi", "abilist", "machine", "target"),
    [
        ("arm64-v8a", "", None, "android-arm64"),
        ("x86_64", "", "x86_64", "android-x86_64"),
        ("armeabi-v7a", "armeabi-v7a,arm64-v8a", None, "android-arm64"),
        ("", "", "aarch64", "android-arm64"),
        ("armeabi-v7a", "armeabi-v7a,armeabi", "aarch64", None),
        ("", "", "armv8l", None),
        ("", "", None, None),
        ("riscv64", "", "riscv64", None),
    ],
)
def test_only_64_bits_are_measured(abi: str, abilist: str, machine: str | None, target: str | None) -> None:
    identity = read_identity({"ro.product.cpu.abi": abi, "ro.product.cpu.abilist": abilist})
    if target is None:
        with pytest.raises(DeviceError, match="can't be measured") as caught:
            target_of(identity, machine)
        assert "64 bits" in str(caught.value.hint)
    else:
        assert target_of(identity, machine) == target


def test_a_32_bit_phone_is_refused_with_its_name() -> None:
    text = PROPERTIES_TEXT.replace("arm64-v8a,", "").replace("arm64-v8a", "armeabi-v7a")
    with pytest.raises(DeviceError, match=r"^Google Pixel 8 can't be measured: its ABI is armeabi-v7a$"):
        facts(properties=text)


def test_a_phone_without_a_clock_is_refused() -> None:
    with pytest.raises(DeviceError, match="does not tell its clock"):
        facts(uptime="cat: /proc/uptime: Permission denied")


def test_a_board_that_is_no_phone_is_named_by_its_device_tree() -> None:
    found = facts(properties="", board="/proc/device-tree/model:Some Board Rev 2")
    device = found.device_profile()
    assert (device.name, device.kind) == ("Some Board Rev 2", "computer")
    assert device.id.startswith("some-board-rev-2-")
    assert found.environment().os == "Linux"


# Processors -------------------------------------------------------------------------------------


def test_clusters_are_told_apart_by_capacity_then_by_clock_then_not_at_all() -> None:
    kinds = [LITTLE] * 4 + [MIDDLE] * 4 + [BIG]
    whole = read_files(cpu_text(kinds))
    expected = [(8,), (4, 5, 6, 7), (0, 1, 2, 3)]
    found = clusters_of(whole, "")
    assert [cluster.cpus for cluster in found] == expected
    assert found[0] == Cluster(cpus=(8,), max_freq_hz=2.914e9, capacity_share=1.0)
    clocks = {path: value for path, value in whole.items() if not path.endswith("cpu_capacity")}
    assert [cluster.cpus for cluster in clusters_of(clocks, "")] == expected
    assert clusters_of(clocks, "")[0].capacity_share is None
    nothing = {path: value for path, value in whole.items() if path.endswith("present")}
    assert [cluster.cpus for cluster in clusters_of(nothing, "")] == [tuple(range(9))]
    listed = "processor : 0\nprocessor : 1\n"
    assert [cluster.cpus for cluster in clusters_of({}, listed)] == [(0, 1)]
    assert clusters_of({}, "") == ()


def test_a_capacity_that_some_do_not_tell_is_not_used() -> None:
    files = read_files(cpu_text([LITTLE, BIG]))
    del files[f"{CPU}/cpu1/cpu_capacity"]
    assert [cluster.cpus for cluster in clusters_of(files, "")] == [(1,), (0,)]
    files[f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq"] = ""
    assert [cluster.cpus for cluster in clusters_of(files, "")] == [(0, 1)]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        # one strongest, four strong, four little
        ([LITTLE] * 4 + [MIDDLE] * 4 + [BIG], [(5, "1f0"), (4, "1e0"), (2, "180"), (8, "1fe"), (9, None)]),
        # four and four
        ([LITTLE] * 4 + [BIG] * 4, [(4, "f0"), (3, "e0"), (2, "c0"), (7, "fe"), (8, None)]),
        # six that do nearly what the two do: no core is to be left out
        ([(780, 3530000)] * 6 + [BIG] * 2, [(7, "fe"), (2, "c0"), (4, "f0"), (8, None)]),
        # all equal
        ([BIG] * 4, [(3, None), (4, None), (2, None)]),
        ([LITTLE, BIG], [(1, "2"), (2, None)]),
        ([BIG], [(1, None)]),
    ],
)
def test_threads_to_try_are_few_and_the_strong_cores_come_first(
    kinds: list[tuple[int, int]], expected: list[tuple[int, str | None]]
) -> None:
    found = thread_candidates(clusters_of(read_files(cpu_text(kinds)), ""))
    assert found[0] == expected[0]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_a_core_that_is_off_is_not_counted_on() -> None:
    clusters = clusters_of(read_files(cpu_text([LITTLE] * 4 + [BIG] * 4)), "")
    assert thread_candidates(clusters, {0, 1, 2, 3, 4, 5})[0] == (2, "30")
    assert facts(cpu=cpu_text([LITTLE] * 4 + [BIG] * 4, "0-5")).thread_candidates()[0] == (2, "30")


def test_without_a_word_of_the_processors_usual_numbers_are_tried() -> None:
    assert facts(cpu="", cpuinfo="").thread_candidates()[0][0] > 1
    assert all(mask is None for _, mask in facts(cpu="", cpuinfo="").thread_candidates())


CLUSTERS = st.lists(st.tuples(st.integers(1, 1024), st.integers(1, 5_000_000)), min_size=1, max_size=16)


@given(CLUSTERS, st.sets(st.integers(0, 15)))
def test_candidates_are_sound_for_any_processors(kinds: list[tuple[int, int]], on: set[int]) -> None:
    clusters = clusters_of(read_files(cpu_text(kinds)), "")
    online = on & set(range(len(kinds)))
    usable = online or set(range(len(kinds)))
    found = thread_candidates(clusters, online)
    assert 1 <= len(found) <= 6
    assert len(set(found)) == len(found)
    for n_threads, mask in found:
        assert 1 <= n_threads <= len(usable)
        if mask is not None:
            cpus = {cpu for cpu in range(16) if int(mask, 16) >> cpu & 1}
            assert mask == mask_of(cpus)
            assert cpus <= usable
            assert len(cpus) == n_threads


def test_instructions_are_those_that_every_processor_has() -> None:
    assert features_of("Features : a b c\nfeatures: b c d\n") == {"b", "c"}
    assert features_of("flags\t\t: sse2 avx2\n") == {"sse2", "avx2"}
    assert features_of("Features :\nprocessor : 1\n") == frozenset()


@pytest.mark.parametrize("text", ["", "0-", "3-1", "-1", "0-999999999", "0,x", "0 1", "\u0663"])
def test_ranges_that_are_none_are_empty(text: str) -> None:
    assert ranges(text) == set()
    assert ranges("0-2,5\n") == {0, 1, 2, 5}


# Texts from outside -----------------------------------------------------------------------------


def test_words_of_a_device_are_made_harmless() -> None:
    assert cleaned("a\x1b[31m\0b\u202e c\n") == "a [31m b c"
    assert cleaned("\0\n ") is None
    assert len(str(cleaned("x" * 10_000))) == 200
    lines = "[ro.product.model]: [a]\nro.product.device: [b]\n[ro.x]: []\n[ro.product.device]: [c]]\n"
    assert read_properties(lines) == {"ro.product.model": "a", "ro.product.device": "c]"}
    assert read_identity({"ro.product.model": "\x07"}) == Identity()


def test_sizes_are_those_things_are_sold_with() -> None:
    assert [sold_gib(int(gib * 2**30)) for gib in (3.6, 5.5, 7.4, 8, 11.3, 15.2)] == [4, 6, 8, 8, 12, 16]
    assert sold_gib(None) is None
    assert sold_gib(0) is None
    assert sold_gib(2**60) is None


@pytest.mark.parametrize("name", [name for name in PARTS if name not in ("uptime", "properties")])
def test_a_part_that_is_missing_is_absent_not_an_error(name: str) -> None:
    found = facts(**{name: ""})
    assert found.target == "android-arm64"
    assert found.told()
    json.dumps(dict(found.device_profile().facts), allow_nan=False)
    json.dumps(dict(found.environment().facts), allow_nan=False)
    assert probe(found).findings
    if name == "memory":
        assert (found.available_bytes, found.memory_bytes) == (None, None)
    if name == "storage":
        assert found.free_bytes is None


GARBAGE = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "replace")),
    st.sampled_from(
        ["9" * 5000, "-1", "NaN", "1e999", "0-999999999999999999", "\u0663\u00b2", "a:b:c", "[x]: [y"]
    ),
)


def exercise(text: str) -> None:
    """Everything that is made of what a phone says."""
    try:
        found = read_text(text)
    except DeviceError:
        return
    assert found.told().isprintable()
    assert 1 <= len(found.thread_candidates()) <= 6
    json.dumps(dict(found.device_profile().facts), allow_nan=False)
    assert found.environment().id
    assert found.minimum_window_s() >= 0
    told = probe(found, lambda target, features: f"{target} {len(features)}")
    assert len(told.sources) == 3
    assert all((source.reason is None) != bool(source.reason) for source in told.sources)
    json.dumps(dict(told.now), allow_nan=False)


@given(GARBAGE)
def test_garbage_is_refused_or_read_but_never_a_crash(text: str) -> None:
    exercise(text)
    read_identity(dict.fromkeys(PROPERTIES, text))


@settings(max_examples=300)
@given(st.sampled_from(sorted(PARTS)), GARBAGE, st.integers(0, 400))
def test_garbage_in_any_part_is_none_or_refused(name: str, garbage: str, at: int) -> None:
    exercise(said(**{name: garbage}))
    cut = PARTS[name][: at % (len(PARTS[name]) + 1)]
    exercise(said(**{name: cut + garbage}))
    exercise(
        said(**{name: "\n".join(line.partition(":")[0] + ":" + garbage for line in PARTS[name].splitlines())})
    )


# The script -------------------------------------------------------------------------------------

SHELLS = [["dash"], ["mksh"], ["bash", "--posix"], ["sh"]]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("answers", [True, False], ids=["android", "nothing"])
def test_the_script_runs_under_any_shell(shell: list[str], answers: bool, tmp_path: Path) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]} here")
    if answers:
        getprop = 'case $1 in ro.product.model) echo "A  model";; ro.build.version.sdk) echo 34;; esac\n'
        for name, body in {"getprop": getprop, "dumpsys": 'echo "said $*"; echo lost >&2\n'}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}")
            (tmp_path / name).chmod(0o755)
    for name in ("cat", "df", "grep", "uname"):  # all that it needs of a system
        (tmp_path / name).symlink_to(shutil.which("toybox") or str(shutil.which(name)))
    program = [str(shutil.which(shell[0])), *shell[1:]]
    environment = {"PATH": str(tmp_path), "LC_ALL": "C"}
    done = subprocess.run(
        [*program, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr == ""
    found = read_text(done.stdout)
    assert set(found.texts) == set(PARTS)
    assert found.uptime_s > 0
    assert found.n_cpus > 0
    assert found.kernel
    assert not re.search("^serial", found.texts["cpuinfo"], re.MULTILINE | re.IGNORECASE)
    if answers:
        assert found.identity.model == "A model"
        assert found.texts["battery"] == "said battery"
        assert found.texts["rails"] == "said android.hardware.power.stats.IPowerStats/default"
    else:
        assert found.texts["battery"] == ""
        assert found.identity.android is None


# What probe says --------------------------------------------------------------------------------


def source(found: Probe, name: str) -> tuple[bool, Absence | None, str]:
    one = next(one for one in found.sources if one.source == name)
    return one.usable, one.reason, one.why


def finding(found: Probe, name: str) -> tuple[bool | None, str]:
    one = next(one for one in found.findings if one.name == name)
    return one.usable, one.told


def test_a_phone_on_its_battery_has_all_three_sources() -> None:
    found = probe(facts(), lambda target, features: "the best" if "i8mm" in features else "any")
    assert [one.source for one in found.sources] == ["rails", "charge_counter", "current_voltage"]
    assert all(one.usable and one.facts is None and not one.fix for one in found.sources)
    assert "2 rails (S2M_VDD_CPUCL2, S4M_VDD_CPUCL0)" in source(found, "rails")[2]
    assert "step is not known" in source(found, "charge_counter")[2]
    assert "µA, by its size; negative while it discharges" in source(found, "current_voltage")[2]
    assert finding(found, "program") == (True, "android-arm64, the best")
    assert finding(found, "clusters")[1].startswith("1 (cpu 8) at up to 2.91 GHz + 4 (cpu 4-7)")
    assert finding(found, "threads")[1].startswith("to be tried: 5 on mask 1f0, ")
    assert finding(found, "power") == (True, "it runs on its battery")
    assert finding(found, "thermal service")[0] is True
    assert finding(found, "thermal zones") == (False, "0 of 1 can be read")
    assert found.now["temperature_c"] == 33.5
    assert found.now["throttling_level"] == 1
    assert found.now["battery_temperature_c"] == pytest.approx(29.1)
    assert found.now["frequency_hz"] == pytest.approx(1.0e9, rel=0.2)
    assert found.now["plugged_in"] is False
    assert found.now["screen"] == "awake"


@pytest.mark.parametrize(
    "parts",
    [
        {"supply": supply_text(status="Charging")},
        {"supply": supply_text(status="Full")},
        {"supply": supply_text(status="Not charging")},
        {"battery": SERVICE.replace("USB powered: false", "USB powered: true")},  # a weak charger
    ],
)
def test_a_charger_leaves_the_rails(parts: dict[str, str]) -> None:
    found = probe(facts(**parts))
    assert source(found, "rails")[0]
    for name in ("charge_counter", "current_voltage"):
        usable, reason, _ = source(found, name)
        assert (usable, reason) == (False, Absence.PLUGGED_IN)
    assert all("Wi-Fi" in one.fix for one in found.sources if not one.usable)
    assert finding(found, "power")[0] is False


@pytest.mark.parametrize(
    ("current", "words"),
    [
        (321, "probably mA: as µA it would be less than 10 mA; positive"),
        (-MICROAMPERES_FROM, "µA, by its size; negative"),
        (0, "neither unit nor sign"),
    ],
)
def test_unit_and_sign_are_told_as_far_as_one_look_can(current: int, words: str) -> None:
    assert words in source(probe(facts(supply=supply_text(current))), "current_voltage")[2]


def test_a_file_that_is_closed_is_not_one_that_is_missing() -> None:
    closed = probe(facts(supply=supply_text(current=""), battery=""))
    assert source(closed, "current_voltage")[1] is Absence.PERMISSION_DENIED
    missing = probe(facts(supply="", battery=""))
    assert source(missing, "current_voltage")[1] is Absence.NO_SENSOR
    assert source(missing, "charge_counter")[1] is Absence.NO_SENSOR
    assert finding(missing, "power")[0] is None
    wrong = probe(facts(supply=supply_text(current="many"), battery=""))
    assert source(wrong, "current_voltage")[1] is Absence.UNREADABLE


def test_where_files_are_closed_the_service_is_asked() -> None:
    found = probe(facts(supply="", battery=SERVICE + "  current now: 321\n"))
    assert source(found, "charge_counter")[0]
    assert "mA, as the battery service tells it" in source(found, "current_voltage")[2]
    assert found.now["plugged_in"] is False


def test_a_service_that_was_told_to_lie_is_not_believed() -> None:
    lying = SERVICE.replace("  AC powered", "  (UPDATES STOPPED -- use 'reset' to restart)\n  AC powered")
    found = probe(facts(supply=supply_text(status="Charging"), battery=lying))
    assert found.now["plugged_in"] is True
    power = next(one for one in found.findings if one.name == "power")
    assert (power.usable, power.fix) == (False, "adb shell dumpsys battery reset")


def test_rails_that_stand_at_0_are_no_meter() -> None:
    zero = RAILS.replace("22445.10", "0.00").replace("3740.85", "0.00")
    assert source(probe(facts(rails=zero)), "rails")[1] is Absence.UNREADABLE
    assert source(probe(facts(rails="")), "rails")[1] is Absence.NO_SENSOR
    assert source(probe(facts(rails="nothing of that kind")), "rails")[1] is Absence.NO_SENSOR


def test_a_thermal_service_without_a_vendors_part_says_so() -> None:
    down = probe(facts(thermal="Thermal Status: 0\nHAL Ready: false\nCurrent temperatures from HAL:\n"))
    assert finding(down, "thermal service") == (False, "it has no vendor's part to ask (HAL Ready: false)")
    assert down.now["temperature_c"] is None
    assert finding(probe(facts(thermal="")), "thermal service")[1] == "there is no thermal service"


def test_a_processor_that_names_no_instructions_gets_the_plainest_program() -> None:
    found = probe(facts(cpuinfo=""), lambda target, features: "any" if not features else "the best")
    usable, told = finding(found, "program")
    assert usable is None
    assert told.startswith("android-arm64, any")


# Real devices' words ----------------------------------------------------------------------------


@pytest.fixture
def sample() -> Callable[[str], str]:
    """Text of a real device, by its file's name."""

    def read_sample(name: str) -> str:
        path = SAMPLES / name
        if not path.is_file():
            pytest.skip(f"no {name} of a real device: EDGEBENCH_PHONE_SAMPLES names a folder with such texts")
        text = path.read_text(encoding="utf-8")
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))

    return read_sample


def test_a_pixel_8_pro_is_one(sample: Callable[[str], str]) -> None:
    identity = read_identity(read_properties(sample("getprop_pixel8pro.txt")))
    profile = profile_of(identity)
    assert profile is not None
    assert profile.name == "pixel8-pro"
    assert (identity.android, identity.sdk, identity.soc_model) == ("14", "34", "Tensor G3")


def test_its_first_core_has_dot_products(sample: Callable[[str], str]) -> None:
    assert {"asimddp", "asimdhp", "sve2"} <= features_of(sample("cpuinfo_pixel8pro.txt"))


def test_capacities_of_a_phone_with_two_clusters(sample: Callable[[str], str]) -> None:
    files = read_files(sample("cpu_capacity.txt"))
    assert files[f"{CPU}/cpu4/cpu_capacity"] == "1024"
    del files[f"{CPU}/cpu7/cpufreq/scaling_max_freq"]  # the only clock that was recorded
    found = clusters_of(files, "")
    assert [cluster.cpus for cluster in found] == [(4,), (0, 3)]
    assert thread_candidates(found)[0] == (1, "10")


def test_a_dump_of_one_apps_memory_is_no_memory_of_the_phone(sample: Callable[[str], str]) -> None:
    found = facts(memory=sample("meminfo.txt"))
    assert (found.memory_bytes, found.available_bytes) == (None, None)


def test_a_full_phone_on_its_cable_is_plugged_in(sample: Callable[[str], str]) -> None:
    found = probe(facts(supply="", battery=sample("battery.txt"), rails=sample("powerstats_meter.txt")))
    assert found.now["plugged_in"] is True
    assert source(found, "rails")[0]
    assert source(found, "charge_counter")[1] is Absence.PLUGGED_IN


def test_heat_is_that_of_now(sample: Callable[[str], str]) -> None:
    found = probe(facts(thermal=sample("thermalservice_xiaomi13t.txt")))
    assert found.now["temperature_c"] == 50.77
    assert found.now["throttling_level"] == 3


def test_everything_it_reads_goes_by_the_public_names() -> None:
    assert {"SCRIPT", "PhoneFacts", "read", "read_text", "read_identity", "profile_of"} <= set(
        phone_facts.__all__
    )
