"""The battery, thermometers and power rails of a phone, with joules that are known.

Power is `IDLE_W + CORE_W * u`, where u is the CPU seconds a second that the phone's cgroup really uses. Ten
times a second this writes what the kernel's files and dumpsys would show, and appends to `truth.jsonl`:
`{"uptime_s": …, "energy_j": …, "power_w": …, "skin_c": …, "turn": …}`. The clock is /proc/uptime's, on the
phone too, so the truth of the very window a phone measured can be taken.

`python -m stand_in.physics ROOT STATE CGROUP`. When its starter is gone, it takes the phone down.
"""

import json
import os
import struct
import sys
import time
from pathlib import Path

from stand_in.cgroup import Cgroup
from stand_in.faults import Faults

IDLE_W, CORE_W, VOLTAGE_V, CHARGER_A = 0.55, 1.9, 3.91, 1.5
AT_REST_C, AMBIENT_C, WARM_C_PER_J, COOL_PER_S = 29.0, 25.0, 0.08, 0.012
RAILS = "android.hardware.power.stats.IPowerStats_default"
STEP_S = 0.1


class Battery:
    """The state of the model."""

    def __init__(self) -> None:
        self.energy_j = self.cpu_j = 0.0
        self.skin_c = AT_REST_C
        self.charge_uah = 3_270_000.0
        self.throttled = False
        self.power_w = IDLE_W
        self.busy = 0.0

    def step(self, elapsed_s: float, cpu_s: float, faults: Faults) -> None:
        """Let time pass, and the CPU time that was used in it."""
        self.busy = cpu_s / elapsed_s
        self.power_w = IDLE_W + CORE_W * self.busy
        self.energy_j += self.power_w * elapsed_s
        self.cpu_j += CORE_W * cpu_s
        self.charge_uah -= self.current_a(faults) * elapsed_s / 3600 * 1e6
        self.skin_c += elapsed_s * (WARM_C_PER_J * self.power_w - COOL_PER_S * (self.skin_c - AMBIENT_C))
        if faults.skin_c is not None:
            self.skin_c = faults.skin_c
        self.throttled = faults.throttle_at_c is not None and self.skin_c > faults.throttle_at_c

    def current_a(self, faults: Faults) -> float:
        """What flows out of the battery."""
        return -CHARGER_A if faults.charging else self.power_w / VOLTAGE_V

    def status(self) -> int:
        """Android's thermal status: 0 none, 1 light, 2 moderate, 3 severe."""
        return 3 if self.throttled else sum(self.skin_c >= limit for limit in (39, 43))

    def counter_uah(self, faults: Faults) -> int:
        """The charge counter, as coarse as it is."""
        return int(self.charge_uah // faults.charge_step_uah * faults.charge_step_uah)

    def files(self, faults: Faults) -> dict[str, str]:
        """What stands in /sys/class/power_supply/battery."""
        current = self.current_a(faults) * (1e3 if faults.milliamps else 1e6) * (1 if faults.positive else -1)
        told = {
            "current_now": round(current),
            "voltage_now": round(VOLTAGE_V * 1e6),
            "charge_counter": self.counter_uah(faults),
            "capacity": 80,
            "status": "Charging" if faults.charging else "Discharging",
            "temp": int(self.skin_c * 10),
        }
        return {**{name: f"{value}\n" for name, value in told.items()}, **faults.battery}

    def dumpsys(self, faults: Faults) -> dict[str, str]:
        """What the services print."""
        chip_c = self.skin_c + 6 * self.busy
        battery = (
            "Current Battery Service state:\n  AC powered: false\n"
            f"  USB powered: {str(faults.charging).lower()}\n"
            "  Wireless powered: false\n  Dock powered: false\n"
            "  Max charging current: 0\n  Max charging voltage: 0\n"
            f"  Charge counter: {self.counter_uah(faults)}\n  status: {2 if faults.charging else 3}\n"
            "  health: 2\n  present: true\n  level: 80\n  scale: 100\n"
            f"  voltage: {VOLTAGE_V * 1000:.0f}\n  temperature: {int(self.skin_c * 10)}\n"
            "  technology: Li-ion\n"
        )
        heat = (
            f"IsStatusOverride: false\nThermal Status: {self.status()}\nCached temperatures:\n"
            "\tTemperature{mValue=99.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}\n"
            f"HAL Ready: {str(faults.hal_ready).lower()}\n"
        )
        if faults.hal_ready:
            skin = f"mValue={self.skin_c:.3f}, mType=3, mName=VIRTUAL-SKIN, mStatus={self.status()}"
            heat += (
                f"Current temperatures from HAL:\n\tTemperature{{{skin}}}\n"
                f"\tTemperature{{mValue={chip_c:.3f}, mType=0, mName=BIG, mStatus=0}}\n"
                "Current cooling devices from HAL:\n"
            )
        return {
            "battery": battery,
            "thermalservice": heat,
            **({RAILS: self._rails()} if faults.rails else {}),
        }

    def _rails(self) -> str:
        rails_j = {
            "[S2M_VDD_CPUCL2]:CPU(BIG)": 0.6 * self.cpu_j,
            "[S3M_VDD_CPUCL1]:CPU(MID)": 0.3 * self.cpu_j,
            "[S4M_VDD_CPUCL0]:CPU(LITTLE)": 0.1 * self.cpu_j,
            "[VSYS_PWR_DISPLAY]:Display": self.energy_j - self.cpu_j,
        }
        rows = "".join(f"  {name:>32}   {_float32(j * 1e6) / 1e3:14.2f} mWs\n" for name, j in rails_j.items())
        return (
            "\n============= PowerStats HAL 2.0 energy meter ==============\n"
            f"  {'Channel':>32}   {'Cumulative Energy':>18}\n{rows}"
            "========== End of PowerStats HAL 2.0 energy meter ==========\n"
        )


class Display:
    """Writes what the model shows, where the phone sees it."""

    def __init__(self, root: Path) -> None:
        self.power = root / "sys_rw/class/power_supply"
        self.zone = root / "sys_rw/class/thermal/thermal_zone0"
        self.said = root / "replay/said"
        self.services = root / "replay/dumpsys"

    def show(self, battery: Battery, faults: Faults) -> None:
        """Everything anew."""
        mode = 0o644 if faults.readable else 0o600
        for name, text in battery.files(faults).items():
            _put(self.power / "battery" / name, text, mode)
        _put(self.power / "usb/online", f"{int(faults.charging)}\n")
        _put(self.zone / "type", "soc_therm\n")
        _put(self.zone / "temp", f"{(battery.skin_c + 6 * battery.busy) * 1000:.0f}\n")
        _only(self.services, battery.dumpsys(faults))
        _only(
            self.said,
            {name.replace(" ", "_").replace("/", "_"): text for name, text in faults.dumpsys.items()},
        )


def _only(folder: Path, texts: dict[str, str]) -> None:
    """Let the folder hold these files and no others."""
    for name, text in texts.items():
        _put(folder / name, text)
    for path in folder.iterdir():
        if path.name not in texts:
            path.unlink()


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.replace(path)


def _float32(value: float) -> float:
    """The HAL prints its counters through a C float."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def run(root: Path, state: Path, name: str) -> None:
    """Model the battery until the starter is gone."""
    starter = os.getppid()
    battery, display, cgroup = Battery(), Display(root), Cgroup(name)
    n_cpus: float | None = None
    n_bytes: int | None = None
    last_s, last_cpu_s = _uptime_s(), cgroup.cpu_s()
    with (state / "truth.jsonl").open("a", buffering=1, encoding="utf-8") as truth:
        while os.getppid() == starter:
            faults = Faults.read(state / "faults.json")
            now_s, cpu_s = _uptime_s(), cgroup.cpu_s()
            battery.step(max(now_s - last_s, 1e-6), cpu_s - last_cpu_s, faults)
            last_s, last_cpu_s = now_s, cpu_s
            display.show(battery, faults)
            if n_cpus != (n_cpus := 0.5 if battery.throttled else faults.n_cpus):
                cgroup.limit_cpus(n_cpus)
            if n_bytes != (n_bytes := faults.memory_bytes):
                cgroup.limit_memory(n_bytes)
            line = {
                "uptime_s": round(now_s, 4),
                "energy_j": round(battery.energy_j, 5),
                "power_w": round(battery.power_w, 4),
                "skin_c": round(battery.skin_c, 3),
                "turn": faults.turn,
            }
            truth.write(json.dumps(line) + "\n")
            time.sleep(STEP_S)


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    from stand_in.leftovers import take_down

    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    take_down(Path(sys.argv[2]))
