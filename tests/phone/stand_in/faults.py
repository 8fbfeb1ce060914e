"""What can be otherwise about a stand-in while it runs."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The defaults are a Pixel at rest on its battery. Read by the battery model at each of its steps."""

    milliamps: bool = False
    """`current_now` in mA, as some Samsung and OPLUS phones have it."""
    positive: bool = False
    """`current_now` is above zero while the battery empties."""
    charge_step_uah: int = 1
    """What `charge_counter` moves by: 1000 on many phones."""
    charging: bool = False
    """The charger is plugged in: the battery fills, and its current tells nothing of the load."""
    readable: bool = True
    """Whether the shell user may read the battery's files."""
    rails: bool = True
    """Whether there is a power stats service: on Pixels, and few others."""
    hal_ready: bool = True
    """What thermalservice tells of its HAL."""
    skin_c: float | None = None
    """The skin stays at this temperature."""
    throttle_at_c: float | None = None
    """Above this skin temperature: status 3, and half of one core for the whole phone."""
    n_cpus: float | None = None
    """Cores' worth of CPU time for the whole phone: a slow one."""
    memory_bytes: int | None = None
    """What all processes of the phone may use; the kernel kills beyond it."""
    battery: dict[str, str] = field(default_factory=dict)
    """Battery files told what to say: `{"current_now": "garbage"}`."""
    dumpsys: dict[str, str] = field(default_factory=dict)
    """Answers of dumpsys, by its words: `{"thermalservice": "garbage", "battery": ""}`."""
    turn: int = 0
    """Counts changes, so that one can wait for the model to have taken the last one."""

    def write(self, path: Path) -> None:
        """Write them for the battery model, in one step."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Faults":
        """Read them back."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
