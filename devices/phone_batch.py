"""A batch: a folder of jobs that `batch.sh` does one after another on a device that has only a shell."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.paths import atomic_path

SCRIPTS = Path(__file__).parent / "phone"
BATCH, SAMPLER = "batch.sh", "sampler.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One process on the device, or some time in which nothing is to run there."""

    name: str
    """Letters, digits and `-_.+`: it is a folder's name there."""
    text: str | None = None
    """The job file of the program; None: the device is only watched."""
    idle_s: float = 0.0
    cpu_mask: str | None = None
    """Hex: the processors the program may use; None: all."""


def write_batch(folder: Path, jobs: Sequence[BatchJob], *, settings: Mapping[str, str]) -> None:
    """Lay out a batch; `settings` (cool_cap_s, screen) are what batch.sh reads of that name."""
    with atomic_path(folder) as part:
        part.mkdir()
        for name in (BATCH, SAMPLER):
            shutil.copyfile(SCRIPTS / name, part / name)
        rows = []
        for job in jobs:
            place = part / "jobs" / job.name
            place.mkdir(parents=True)
            if job.text is not None:
                (place / "job.txt").write_text(job.text, encoding="ascii")
            rows.append(f"{job.name} {round(job.idle_s)} {job.cpu_mask or '-'}\n")
        (part / "jobs.txt").write_text("".join(rows), encoding="ascii")
        told = "".join(f"{key} {value}\n" for key, value in settings.items())
        (part / "settings").write_text(told, encoding="ascii")


def batch_argv(folder: str, program: str) -> list[str]:
    """The command that does a batch; where it was done in part, it goes on."""
    return ["sh", f"{folder}/{BATCH}", folder, program]


def restore_argv(folder: str) -> list[str]:
    """The command that puts back what a killed batch has left changed; of any other it does nothing."""
    script = f'[ ! -f "$1/{BATCH}" ] || sh "$1/{BATCH}" "$1" restore'
    return ["sh", "-c", script, "sh", folder]
