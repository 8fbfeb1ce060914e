"""What Android's services print: as real devices printed it, and short texts of our own."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.devices.phone_dumps import BatteryService, Sensor, read_battery, read_heat, read_rails

SAMPLES = Path(
    os.environ.get("EDGEBENCH_PHONE_SAMPLES", Path(__file__).parents[3] / "shared" / "phone" / "samples")
)
"""Texts of real devices, not part of the project."""


def sample(name: str) -> list[str]:
    """A text of a real device; lines that begin with # are its collector's."""
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"no {name} of a real device: EDGEBENCH_PHONE_SAMPLES names a folder with such texts")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def test_a_real_battery_on_its_cable() -> None:
    assert read_battery(sample("battery.txt")) == BatteryService(
        discharging=False, current=None, voltage=4352, charge=3_270_000, level=100, temperature=274
    )


def test_a_real_thermal_service_that_throttles() -> None:
    heat = read_heat(sample("thermalservice_xiaomi13t.txt"))
    assert heat is not None
    assert heat.status == 3  # of the skin; the service's own is 0, its cache's are not of now
    assert heat.hottest() == Sensor(3, "SKIN", 50.77, 3)
    assert [sensor.celsius for sensor in heat.sensors] == [62.842, 62.842, 44.3, 50.77, 62.77]


def test_a_real_pixel_thermal_hal() -> None:
    heat = read_heat(sample("thermal_hal_pixel.txt"))
    assert heat is not None
    assert heat.hottest() == Sensor(3, "VIRTUAL-SKIN", 28.9687, 0)
    assert heat.status == 0


def test_power_rails_of_the_documented_format() -> None:
    assert read_rails(sample("powerstats_meter.txt")) == {
        "[S2M_VDD_CPUCL2]:CPU(BIG)": 22.4451,
        "[S3M_VDD_CPUCL1]:CPU(MID)": pytest.approx(11.22255),
        "[S4M_VDD_CPUCL0]:CPU(LITTLE)": pytest.approx(3.74085),
        "[VSYS_PWR_DISPLAY]:Display": pytest.approx(5.75503),
    }


@pytest.mark.parametrize(
    ("lines", "discharging"),
    [
        (["  USB powered: false", "  status: 3"], True),
        (["  USB powered: true", "  status: 3"], False),
        (["  Dock powered: true", "  status: 1"], False),
        (["  AC powered: false", "  status: 2"], False),
        (["  AC powered: false", "  status: 4"], False),
        (["  AC powered: false", "  status: 5"], False),
        (["  AC powered: false", "  USB powered: false", "  status: 1"], True),
        (["  status: 1"], None),
        (["  level: 80"], None),
        (["  status: three"], None),
    ],
)
def test_whether_the_battery_empties(lines: list[str], discharging: bool | None) -> None:
    told = read_battery(["Current Battery Service state:", *lines])
    assert told is not None
    assert told.discharging is discharging


def test_makers_own_sections_and_fields() -> None:
    told = read_battery(
        [
            "Current OPLUS Battery Service state:",
            "  status: 2",
            "  voltage: 1",
            "Current Battery Service state:",
            "  status: 3",
            "  current now: 321",
            "  voltage: 3912",
            "Something else:",
            "  level: 5",
        ]
    )
    assert told is not None
    assert (told.discharging, told.current, told.voltage, told.level) == (True, 321, 3912, None)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Can't find service: battery"],
        ["Current Battery Service state:", "  (UPDATES STOPPED -- use 'reset' to restart)", "  status: 3"],
    ],
)
def test_a_battery_service_that_tells_nothing_of_now(lines: list[str]) -> None:
    assert read_battery(lines) is None


def test_rows_with_a_difference_and_rows_that_are_no_rails() -> None:
    assert read_rails(
        [
            "Elapsed time: 1000 ms",
            "  [S1M_VDD_MIF]:MIF   2000.50 mWs (   10.00)",
            "  [S1M_VDD_MIF]:MIF   9999.00 mWs",  # a name that comes twice is one rail
            "  [S2S_VDD_G3D]:GPU   nan mWs",
            "  [S2S_VDD_G3D]:GPU   -5.00 mWs",
            "  DISPLAY      :   77.00 mWs",
            "       10123 -     1.00 mWs",
            "  [S2S_VDD_G3D]:GPU   99999999999999999999 mWs",
        ]
    ) == {"[S1M_VDD_MIF]:MIF": 2.0005}


@pytest.mark.parametrize("value", ["NaN", "inf", "1e3", "-", "150.0", "-41", "0.0", "٣"])
def test_a_thermometer_that_is_none(value: str) -> None:
    row = f"\tTemperature{{mValue={value}, mType=3, mName=SKIN, mStatus=2}}"
    heat = read_heat(["Current temperatures from HAL:", row])
    assert heat is not None
    assert heat.hottest() is None
    assert heat.status == 2


def test_the_processor_where_there_is_no_skin() -> None:
    rows = [
        f"\tTemperature{{mValue={c}, mType={kind}, mName=T{c}, mStatus=0}}"
        for c, kind in ((55, 0), (60, 0), (80, 2))
    ]
    heat = read_heat(["Current temperatures from HAL:", *rows])
    assert heat is not None
    hottest = heat.hottest()
    assert hottest is not None
    assert hottest.name == "T60"


def test_nothing_of_the_cache_counts() -> None:
    row = "\tTemperature{mValue=90.0, mType=3, mName=SKIN, mStatus=6}"
    heat = read_heat(["Thermal Status: 0", "Cached temperatures:", row, "HAL Ready: false"])
    assert heat is not None
    assert (heat.sensors, heat.status) == ((), 0)
    assert read_heat(["Can't find service: thermalservice"]) is None


LINES = st.lists(
    st.text(max_size=80)
    | st.from_regex(r"\s*\[[A-Z_]{1,9}\]:[A-Z()]{0,9} +[0-9.]{1,20} mWs( \(.*\))?", fullmatch=True)
    | st.from_regex(r"\tTemperature\{mValue=.{0,9}, mType=.{0,3}, mName=.{0,5}, mStatus=.?\}", fullmatch=True)
    | st.from_regex(r"Type: \w+ Name: \w+ CurrentValue: .{0,9} ThrottlingStatus: \w*", fullmatch=True)
    | st.from_regex(r"  [a-z ]{1,12}: .{0,12}", fullmatch=True)
    | st.sampled_from(
        ["Current temperatures from HAL:", "Current Battery Service state:", "Thermal Status: 9"]
    )
)


@given(LINES)
def test_no_lines_raise(lines: list[str]) -> None:
    read_battery(lines)
    assert all(0 <= energy_j <= 1e12 for energy_j in read_rails(lines).values())
    heat = read_heat(lines)
    assert heat is None or all(-40 <= sensor.celsius < 125 for sensor in heat.sensors)
