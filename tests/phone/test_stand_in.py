"""The stand-in itself: what other tests believe of it is so."""

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stand_in.phone import Phone

HERE = Path(__file__).parent
RAILS = "dumpsys android.hardware.power.stats.IPowerStats/default"
BATTERY = "/sys/class/power_supply/battery"
BUSY = """read -r up _ </proc/uptime; end=$((${up%%.*} + SECONDS))
while read -r up _ </proc/uptime; [ ${up%%.*} -lt $end ]; do
  i=0; while [ $((i += 1)) -lt 1000 ]; do :; done
done
"""

Done = subprocess.CompletedProcess[str]


def adb(*words: object, timeout: float = 30) -> Done:
    """The environment leads it to the server of these tests."""
    return subprocess.run(
        ["adb", *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
    )


def shell(phone: "Phone", command: str, timeout: float = 30) -> Done:
    return adb("-s", phone.serial, "shell", command, timeout=timeout)


def told(phone: "Phone", command: str) -> str:
    done = shell(phone, command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def send(phone: "Phone", path: Path, target: str) -> None:
    done = adb("-s", phone.serial, "push", path, target)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------- what it is


def test_its_a_pixel_8_that_says_it_is_a_double(phone: "Phone") -> None:
    names = ("ro.product.model", "ro.soc.model", "ro.product.cpu.abi", "ro.edgebench.double")
    assert [told(phone, f"getprop {name}") for name in names] == ["Pixel 8", "Tensor G3", "x86_64", "1"]
    assert "[ro.product.device]: [shiba]\n" in shell(phone, "getprop").stdout
    line = next(row for row in adb("devices", "-l").stdout.splitlines() if row.startswith(phone.serial))
    assert "model:Pixel_8" in line


def test_adbutils_finds_it_by_the_environment(phone: "Phone") -> None:
    adbutils = pytest.importorskip(
        "adbutils", reason="adbutils is not installed: pip install -e '.[android]'"
    )
    device = adbutils.AdbClient().device(phone.serial)
    done = device.shell2("echo out; exit 3", v2=True)
    assert (done.stdout, done.returncode) == ("out\n", 3)


def test_the_shell_is_user_2000_and_may_write_in_one_place_only(phone: "Phone") -> None:
    assert told(phone, "id -u") == "2000"
    assert told(phone, "echo x >/data/local/tmp/x; cat /data/local/tmp/x") == "x"
    for place in ("/system/x", "/data/x", "/sys/x", "/data/misc/adb/adb_keys"):
        assert "ermission denied" in shell(phone, f"echo x >{place}").stderr


def test_exit_status_output_and_errors_arrive_apart(phone: "Phone") -> None:
    done = shell(phone, "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_other_properties_and_proc_files_make_another_phone(make_phone: Callable[..., "Phone"]) -> None:
    properties = {"ro.product.model": "2107113SG", "ro.soc.model": ""}
    phone = make_phone(properties=properties, proc={"meminfo": "MemAvailable:  1024 kB\n"})
    assert told(phone, "getprop ro.product.model") == "2107113SG"
    assert told(phone, "getprop ro.soc.model") == ""
    assert told(phone, "cat /proc/meminfo") == "MemAvailable:  1024 kB"


# ---------------------------------------------------------------------------------------------------- physics


SAMPLER = f"""while [ ! -e stop ]; do
  read -r t _ </proc/uptime
  read -r i <{BATTERY}/current_now; read -r v <{BATTERY}/voltage_now; read -r c <{BATTERY}/charge_counter
  print -r -- "$t $i $v $c"
  sleep 0.25
done >samples
"""


def rails_mj(text: str) -> float:
    return sum(map(float, re.findall(r"([\d.]+) mWs", text)))


def test_the_battery_files_and_rails_tell_the_true_joules(phone: "Phone", tmp_path: Path) -> None:
    for name, text in {"sampler.sh": SAMPLER, "busy.sh": BUSY}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        send(phone, tmp_path / name, "/data/local/tmp/")
    work = f"sleep 1; {RAILS} >rails0; SECONDS=6 sh busy.sh; {RAILS} >rails1; sleep 0.5"
    told(phone, f"cd /data/local/tmp; sh sampler.sh & {work}; touch stop; wait")
    lines = told(phone, "cat /data/local/tmp/samples").splitlines()
    rows = [[float(word) for word in line.split()] for line in lines]
    true_j = phone.truth_j(rows[0][0], rows[-1][0])
    assert true_j > 0.55 * (rows[-1][0] - rows[0][0]) + 1, "the work has to weigh more than rest does"
    powers = [(row[0], -row[1] * row[2] / 1e12) for row in rows]
    measured_j = sum((w0 + w1) / 2 * (t1 - t0) for (t0, w0), (t1, w1) in pairwise(powers))
    assert measured_j == pytest.approx(true_j, rel=0.1)
    charge_c = (rows[0][3] - rows[-1][3]) * 3.6e-3
    assert charge_c * rows[0][2] / 1e6 == pytest.approx(true_j, rel=0.1)
    first_mj, last_mj = (rails_mj(told(phone, f"cat /data/local/tmp/rails{i}")) for i in (0, 1))
    # Their window is the work alone.
    assert 0.5 * true_j < (last_mj - first_mj) / 1e3 < 1.05 * true_j


def test_truth_is_of_the_window_asked_for(phone: "Phone") -> None:
    start_s = phone.uptime_s()
    time.sleep(1)
    end_s = phone.uptime_s()
    at_rest_w = phone.truth_j(start_s, end_s) / (end_s - start_s)
    assert at_rest_w == pytest.approx(0.55, rel=0.2)
    middle_s = (start_s + end_s) / 2
    halves_j = phone.truth_j(start_s, middle_s) + phone.truth_j(middle_s, end_s)
    assert halves_j == pytest.approx(phone.truth_j(start_s, end_s))
    with pytest.raises(ValueError, match="the model began at"):
        phone.truth_j(0.0, end_s)


# ----------------------------------------------------------------------------------------------------- faults


CURRENT = f"cat {BATTERY}/current_now"
HEAT = "dumpsys thermalservice"
SHOWN: dict[str, tuple[dict[str, Any], str, str]] = {
    "mA": ({"milliamps": True}, CURRENT, r"-[1-9]\d{2,3}"),
    "positive": ({"positive": True}, CURRENT, r"[1-9]\d{5,6}"),
    "coarse": ({"charge_step_uah": 100_000}, f"cat {BATTERY}/charge_counter", r"3[12]00000"),
    "charging": ({"charging": True}, f"cat {BATTERY}/status {BATTERY}/current_now", r"Charging\n1500000"),
    "plugged in": ({"charging": True}, "dumpsys battery", r"(?s).*USB powered: true.*status: 2\n.*"),
    "no HAL": ({"hal_ready": False}, HEAT, r"(?s)(?!.*from HAL).*HAL Ready: false"),
    "hot": ({"skin_c": 61.5}, HEAT, r"(?s).*from HAL:\n\tTemperature{mValue=61\.500, .*"),
    "moderate": ({"skin_c": 44.0}, HEAT, r"(?s).*Thermal Status: 2\n.*"),
    "throttled": ({"throttle_at_c": 20.0}, HEAT, r"(?s).*Thermal Status: 3\n.*"),
    "battery": ({"battery": {"current_now": "garbage"}}, CURRENT, "garbage"),
    "dumpsys": ({"dumpsys": {"thermalservice": "garbage"}}, HEAT, "garbage"),
    "words": ({"dumpsys": {"a.b/default -x": "words"}}, "dumpsys a.b/default -x", "words"),
}


@pytest.mark.parametrize(("faults", "command", "expected"), SHOWN.values(), ids=SHOWN)
def test_a_fault_shows_and_goes(phone: "Phone", faults: dict[str, Any], command: str, expected: str) -> None:
    phone.set(**faults)
    assert re.fullmatch(expected, told(phone, command))
    phone.reset()
    assert not re.fullmatch(expected, shell(phone, command).stdout.strip())


def test_battery_files_may_be_closed_to_the_shell(phone: "Phone") -> None:
    phone.set(readable=False)
    assert "Permission denied" in shell(phone, f"cat {BATTERY}/current_now").stderr
    phone.set(readable=True)
    told(phone, f"cat {BATTERY}/current_now")


def test_a_phone_may_have_no_power_stats(phone: "Phone") -> None:
    assert rails_mj(told(phone, RAILS)) > 0
    phone.set(rails=False)
    done = shell(phone, RAILS)
    assert (done.stdout, done.stderr.split(":")[0]) == ("", "Can't find service")


@pytest.mark.parametrize("faults", [{"throttle_at_c": 20.0}, {"n_cpus": 0.5}], ids=str)
def test_a_slow_phone_has_half_a_core(phone: "Phone", faults: dict[str, float]) -> None:
    phone.set(**faults)
    start_s = phone.uptime_s()
    told(phone, f"SECONDS=3; {BUSY}")
    end_s = phone.uptime_s()
    busy = (phone.truth_j(start_s, end_s) / (end_s - start_s) - 0.55) / 1.9
    assert 0.1 < busy < 0.65


def test_what_needs_too_much_memory_is_killed(phone: "Phone") -> None:
    hungry = "a=0123456789abcdef; while [ ${#a} -lt 40000000 ]; do a=$a$a; done"
    assert told(phone, f"({hungry}); echo $?") == "0"
    phone.set(memory_bytes=32 * 2**20)
    assert told(phone, f"({hungry}); echo $?").splitlines()[-1] == "137"


def test_a_disk_may_be_full(make_phone: Callable[..., "Phone"]) -> None:
    phone = make_phone(disk_bytes=2**20)
    done = shell(phone, "head -c 2000000 /dev/zero >/data/local/tmp/x")
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert phone.path("/data/local/tmp/x").stat().st_size == 2**20


# -------------------------------------------------------------------------------------------- links and power


def test_a_detached_run_survives_the_cut_link(phone: "Phone", wait_until: Callable[..., Any]) -> None:
    told(phone, "cd /data/local/tmp; (setsid sh -c 'sleep 3; echo over >rc' >/dev/null 2>&1 </dev/null &)")
    phone.cut()
    with pytest.raises(subprocess.TimeoutExpired):
        shell(phone, "true", timeout=2)
    wait_until((phone.root / "data/local/tmp/rc").exists)
    phone.mend()
    phone.connect()
    assert told(phone, "cat /data/local/tmp/rc; ps -A -o PID,NAME | grep -c sleep || true") == "over\n0"


def test_switched_off_it_keeps_its_files_and_nothing_else(phone: "Phone") -> None:
    told(phone, "echo x >/data/local/tmp/x; (setsid sleep 1000 >/dev/null 2>&1 </dev/null &)")
    assert phone.on
    phone.stop()
    assert not phone.on
    assert shell(phone, "true").returncode != 0
    phone.start()
    assert told(phone, "cat /data/local/tmp/x") == "x"
    assert "sleep" not in told(phone, "ps -A")


def test_a_phone_that_asks_lets_nobody_in_until_its_owner_agrees(make_phone: Callable[..., "Phone"]) -> None:
    phone = make_phone(secure=True)
    assert "unauthorized" in shell(phone, "true").stderr
    phone.trust()
    assert told(phone, "id -u") == "2000"


def test_reset_leaves_nothing_of_a_test(phone: "Phone") -> None:
    told(phone, "echo x >/data/local/tmp/x; (setsid sleep 1000 >/dev/null 2>&1 </dev/null &)")
    told(phone, "dumpsys battery unplug; settings put system screen_brightness 1")
    phone.set(skin_c=70.0, charging=True)
    phone.cut()
    phone.reset()
    assert told(phone, "ls /data/local/tmp; ps -A | grep sleep || true") == ""
    assert "UPDATES STOPPED" not in told(phone, "dumpsys battery")
    assert float(told(phone, f"cat {BATTERY}/temp")) == pytest.approx(290, abs=20)
    assert phone.settings()["system.screen_brightness"] == "102"
    assert phone.shim_log() == ""


# -------------------------------------------------------------------------------------------- the framework's


def test_settings_are_kept_and_their_changes_noted(phone: "Phone") -> None:
    assert phone.settings()["global.airplane_mode_on"] == "0"
    assert told(phone, "settings get global airplane_mode_on; settings get global nothing") == "0\nnull"
    told(phone, "settings put global airplane_mode_on 1; svc power stayon usb; settings delete system x")
    assert told(phone, "settings get global airplane_mode_on") == "1"
    assert phone.settings()["global.stay_on_while_plugged_in"] == "2"
    assert phone.shim_log().splitlines() == [
        "settings put global airplane_mode_on 1",
        "svc power stayon usb",
        "settings delete system x",
    ]


def test_unplugging_by_word_freezes_what_dumpsys_tells_until_reset(phone: "Phone") -> None:
    told(phone, "dumpsys battery unplug")
    phone.set(charging=True)
    assert "UPDATES STOPPED" in told(phone, "dumpsys battery")
    assert "USB powered: false" in told(phone, "dumpsys battery")
    told(phone, "dumpsys battery reset")
    assert "USB powered: true" in told(phone, "dumpsys battery")


def test_keys_wake_it_and_put_it_to_sleep(phone: "Phone") -> None:
    assert "mWakefulness=Awake" in told(phone, "dumpsys power")
    told(phone, "input keyevent 223")
    assert "mWakefulness=Asleep" in told(phone, "dumpsys power")


# ------------------------------------------------------------------------------------------ arm64 and the end


def arm64_program(*instructions: int) -> bytes:
    """A program for arm64 of these instructions, which then ends well."""
    code = struct.pack(f"<{len(instructions) + 3}I", *instructions, 0xD2800000, 0xD2800BA8, 0xD4000001)
    base, size = 0x400000, 64 + 56 + len(code)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, base + 64 + 56, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


SDOT = 0x4E809400


@pytest.mark.parametrize(("cpu", "status"), [("cortex-a76", 0), ("cortex-a53", 128 + signal.SIGILL)])
def test_an_arm64_phone_has_the_instructions_of_its_cpu(
    make_phone: Callable[..., "Phone"], tmp_path: Path, cpu: str, status: int
) -> None:
    phone = make_phone(abi="arm64-v8a", cpu=cpu)
    assert told(phone, "uname -m; getprop ro.product.cpu.abi") == "aarch64\narm64-v8a"
    for name, code in {"plain": arm64_program(), "dot": arm64_program(SDOT)}.items():
        (tmp_path / name).write_bytes(code)
        (tmp_path / name).chmod(0o755)
        send(phone, tmp_path / name, "/data/local/tmp/")
    assert shell(phone, "/data/local/tmp/plain").returncode == 0
    assert shell(phone, "/data/local/tmp/dot; exit $?").returncode == status
    assert told(phone, "grep -c asimddp /proc/cpuinfo") == str(os.cpu_count())


OWNER = """
import sys, tempfile, time
from pathlib import Path
from stand_in.adb_server import AdbServer
from stand_in.phone import Phone

server = AdbServer(Path(sys.argv[1]))
phone = Phone(server)
print(phone.name, phone.root, server.port, flush=True)
time.sleep(1000)
"""


def test_nothing_is_left_when_the_tests_are_killed(
    phone: "Phone", tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        name, root, port = owner.stdout.readline().split()
        assert name != phone.name
        assert Path("/run/netns", name).exists()
        owner.kill()
    wait_until(lambda: not Path(root).exists())
    wait_until(lambda: not Path("/run/edgebench-phones", name.removeprefix("ebphone")).exists())
    assert not Path("/run/netns", name).exists()
    assert name not in Path("/proc/net/dev").read_text(encoding="utf-8")
    assert not [*Path("/sys/fs/cgroup").glob(f"**/{name}")]
    listening = f":{int(port):04X} 00000000:0000 0A"
    wait_until(lambda: listening not in Path("/proc/net/tcp").read_text(encoding="utf-8"))
    told(phone, "true")
