"""The Raspberry Pi's power chip: readings as published, a pretend `vcgencmd` on the PATH."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.energy import Absence, MeterError, Method, Scope
from edgebench.devices.meters import pi
from edgebench.devices.meters.pi import PiPmic, rail_watts, read_throttle_flags, throttle_flags

ADC = """\
   3V7_WL_SW_A current(0)=0.09368929A
   3V3_SYS_A current(1)=0.08783370A
   1V8_SYS_A current(2)=0.18054710A
  DDR_VDD2_A current(3)=0.22543980A
  DDR_VDDQ_A current(4)=0.06666720A
   1V1_SYS_A current(5)=0.17566740A
    0V8_SW_A current(6)=0.37670900A
  VDD_CORE_A current(7)=6.22421000A
   3V3_DAC_A current(17)=0.00006105A
   3V3_ADC_A current(18)=0.00036630A
   0V8_AON_A current(16)=0.00305250A
      HDMI_A current(22)=0.02417580A
 3V7_WL_SW_V volt(8)=3.69977600V
   3V3_SYS_V volt(9)=3.31003300V
   1V8_SYS_V volt(10)=1.80512600V
  DDR_VDD2_V volt(11)=1.10476100V
  DDR_VDDQ_V volt(12)=0.60146460V
   1V1_SYS_V volt(13)=1.11025500V
    0V8_SW_V volt(14)=0.80146440V
  VDD_CORE_V volt(15)=0.86173300V
   3V3_DAC_V volt(20)=3.31318300V
   3V3_ADC_V volt(21)=3.30677300V
   0V8_AON_V volt(19)=0.80029220V
      HDMI_V volt(23)=5.08664000V
     EXT5V_V volt(24)=5.09066000V
      BATT_V volt(25)=0.00000000V
"""
SUM_W = 7.2398
"""Of the twelve pairs above, by hand."""


class Write:
    """Puts a `vcgencmd` on an otherwise empty PATH that prints what is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, adc: str, throttled: str = "throttled=0x0\n") -> None:
        for name, text in (("pmic_read_adc", adc), ("get_throttled", throttled)):
            (self.folder / name).write_text(text)
        script = f'#!/bin/sh\nwhile IFS= read -r line; do echo "$line"; done < "{self.folder}/$1"\n'
        (self.folder / "vcgencmd").write_text(script)
        (self.folder / "vcgencmd").chmod(0o755)


@pytest.fixture
def vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(pi, "_MODEL", tmp_path / "model")
    return Write(folder)


def only_status() -> tuple[Absence | None, str]:
    (status,) = PiPmic().probe()
    assert status.why
    assert PiPmic().open() == []
    return status.reason, status.fix


def test_power_is_volts_times_amperes_of_paired_rails() -> None:
    rails = rail_watts(ADC)
    assert len(rails) == 12
    assert not {"EXT5V", "BATT"} & set(rails)
    assert rails["VDD_CORE"] == pytest.approx(6.22421 * 0.861733)
    assert sum(rails.values()) == pytest.approx(SUM_W, abs=1e-3)


def test_rail_without_its_pair_or_with_nonsense_is_left_out() -> None:
    text = (
        "A_A current(0)=1.0A\nA_V volt(1)=2.0V\nB_A current(2)=1.0A\nC_V volt(3)=1.0V\n"
        "D_A current(4)=nanA\nD_V volt(5)=1.0V\nE_A volt(6)=1.0V\nE_V volt(7)=1.2.3V\n"
    )
    assert rail_watts(text) == {"A": 2.0}
    assert rail_watts('error=1 error_msg="Command not registered"') == {}


@given(st.text(max_size=300))
def test_any_text_is_survived(text: str) -> None:
    assert all(watt >= 0 for watt in rail_watts(text).values())
    assert throttle_flags(text) is None or "throttled=0x" in text


def test_meter_reads_the_sum(vcgencmd: Write) -> None:
    vcgencmd(ADC)
    (meter,) = PiPmic().open()
    assert (meter.facts.source, meter.facts.scope, meter.facts.method) == (
        "pi:pmic",
        Scope.SOC_RAILS,
        Method.SAMPLED,
    )
    assert meter.facts.minimum_s == 10.0
    first, second = meter.read(), meter.read()
    assert first.value == pytest.approx(SUM_W, abs=1e-3)
    assert second.t_s > first.t_s
    (status,) = PiPmic().probe()
    assert status.facts == meter.facts
    meter.close()


def test_meter_whose_rails_change_is_unreadable(vcgencmd: Write) -> None:
    vcgencmd(ADC)
    (meter,) = PiPmic().open()
    vcgencmd(ADC.replace("HDMI_A", "HDMI_X"))
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason is Absence.UNREADABLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('error=1 error_msg="Command not registered"\n', (Absence.NO_SENSOR, "")),
        (
            "Can't open device file: /dev/vcio\nTry creating a device file with: mknod /dev/vcio c 100 0\n",
            (Absence.PERMISSION_DENIED, "sudo usermod -aG video $USER  # then log in again"),
        ),
    ],
)
def test_older_board_and_missing_rights_are_told_apart(
    vcgencmd: Write, text: str, expected: tuple[Absence, str]
) -> None:
    vcgencmd(text)
    assert only_status() == expected


def test_program_that_can_not_run_is_unreadable(vcgencmd: Write) -> None:
    vcgencmd("")
    (vcgencmd.folder / "vcgencmd").write_bytes(b"\x7fELF of another processor")
    assert only_status()[0] is Absence.UNREADABLE
    assert read_throttle_flags() is None


@pytest.mark.usefixtures("vcgencmd")
def test_absent_program_matters_on_a_raspberry_pi_only(tmp_path: Path) -> None:
    assert only_status() == (Absence.NO_SENSOR, "")
    (tmp_path / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert only_status() == (Absence.NOT_INSTALLED, "sudo apt install raspi-utils")
    assert read_throttle_flags() is None


def test_other_systems_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert only_status() == (Absence.OS_UNSUPPORTED, "")


def test_throttle_bits_have_their_names(vcgencmd: Write) -> None:
    vcgencmd(ADC, "throttled=0x50005\n")
    flags = read_throttle_flags()
    assert flags is not None
    assert flags.now == flags.since_boot == ("under_voltage", "throttled")
    everything = throttle_flags("throttled=0xf000a")
    assert everything is not None
    assert everything.now == ("frequency_capped", "soft_temperature_limit")
    assert len(everything.since_boot) == 4
    none = throttle_flags("throttled=0x0\n")
    assert none is not None
    assert none.now == none.since_boot == ()


@pytest.mark.parametrize("text", ["", "throttled=", "throttled=0x", "throttled=0xzz", "error=1"])
def test_other_answer_is_no_flags(text: str) -> None:
    assert throttle_flags(text) is None
