"""From a checkpoint to a GGUF by llama.cpp's own converter, as a process of its own; in a tool environment.

The converter sees a folder of links to the files that make the checkpoint what it is, and no others: what
it writes depends on them alone, and code that lies beside them can't be run. (It asks transformers to
trust such code.)
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError
from edgebench.core.paths import atomic_path, free_bytes
from edgebench.quantize.checkpoint import CONFIG, checkpoint_files
from edgebench.quantize.gguf_limits import check_losses
from edgebench.quantize.tokenizer import Progress

OUTTYPES = {"f32": 4, "f16": 2, "bf16": 2}
"""What it may be asked for, and the bytes of a weight."""

_PERCENT = re.compile(r"Writing:\s*(\d+)%")
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b")
_LOGGED_ERROR = re.compile(r"^ERROR:[\w-]+:")
_KEPT_LINES = 400


def convert(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """`{script, checkpoint, target, outtype}` and perhaps `name` -> `{size_bytes, name, notes}`.

    `name` becomes `general.name`. The same files, name and type give the same bytes. `notes` tell what
    llama.cpp does otherwise than the checkpoint says; a checkpoint it would compute wrongly is refused.
    """
    checkpoint, target, outtype = Path(job["checkpoint"]), Path(job["target"]), job["outtype"]
    name = job.get("name") or "model"
    if outtype not in OUTTYPES:
        raise ModelError(f"the converter is not asked for {outtype!r}", f"known: {', '.join(OUTTYPES)}")
    files = checkpoint_files(checkpoint)
    notes = check_losses(checkpoint, json.loads((checkpoint / CONFIG).read_text(encoding="utf-8")))
    n_bytes = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
    if free_bytes(target.parent) < n_bytes * OUTTYPES[outtype] // 2:  # weights of 2 bytes or more
        raise ModelError(
            f"{target.parent} has no room for {outtype} of {checkpoint} (up to "
            f"{n_bytes * OUTTYPES[outtype] / 2e6:.0f} MB)",
            "free some disk, or point EDGEBENCH_CACHE at another one",
        )
    with tempfile.TemporaryDirectory(prefix="edgebench-convert-") as scratch, atomic_path(target) as partial:
        view = Path(scratch) / "model"  # the converter puts the folder's name into the file
        view.mkdir()
        for file in files:
            (view / file.name).symlink_to(file.absolute())
        command = [sys.executable, str(job["script"]), str(view), "--outtype", outtype]
        command += ["--outfile", str(partial), "--model-name", name]
        _run(command, Path(scratch), f"{outtype} of {checkpoint}", progress)
        if not partial.is_file():
            raise ModelError(f"llama.cpp's converter wrote nothing for {checkpoint}")
    progress(1.0)
    return {"size_bytes": target.stat().st_size, "name": name, "notes": notes}


def _run(command: list[str], folder: Path, what: str, progress: Progress) -> None:
    """Run the converter to its end, telling how far it is; ModelError in its own words when it fails."""
    # Its folder must be on the path, which -P and PYTHONSAFEPATH prevent; the parent's path must not be.
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**kept, **offline, "DO_NOT_TRACK": "1", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",  # and universal newlines: each state of its progress bar is a line
    ) as process:
        try:
            assert process.stderr is not None  # noqa: S101 - a pipe was asked for
            for line in process.stderr:
                if match := _PERCENT.search(line):
                    progress(int(match[1]) / 100)
                elif line.strip():
                    lines.append(line.strip())
                    del lines[:-_KEPT_LINES]
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ModelError(f"llama.cpp's converter could not make {what}: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """Why it failed: the last exception or error it told of, else its last line."""
    told = [line for line in lines if _EXCEPTION.match(line) or _LOGGED_ERROR.match(line)]
    return _LOGGED_ERROR.sub("", (told or lines or ["it gave no reason"])[-1])
