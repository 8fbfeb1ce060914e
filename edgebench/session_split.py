"""A GGUF file into parts, by llama.cpp's own program."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.paths import free_bytes
from edgebench.runners.llama_source import tool

_SIZE = re.compile(r"[1-9]\d*[MG]")


def check_shard_size(size: str) -> str:
    """The size as llama.cpp spells it (`500M`, `2G`); UsageError for anything else."""
    if not _SIZE.fullmatch(size.upper()):
        raise UsageError(f"--max-shard {size!r} is no size", "a whole number and M or G: 500M, 2G")
    return size.upper()


def split_gguf(source: Path, target: Path, size: str, say: Callable[[str], None]) -> Path:
    """Write `NAME-00001-of-0000N.gguf` … beside `target`, none larger than `size`; the first one's path.

    A file that fits is moved to `target` whole. The first part appears last: what others open is complete.
    """
    limit = int(size[:-1]) * 10 ** (9 if size[-1] == "G" else 6)
    for stale in target.parent.glob(f"{target.stem}-?????-of-?????.gguf"):
        stale.unlink()
    if source.stat().st_size <= limit:
        shutil.move(source, target)
        return target
    if free_bytes(target.parent) < source.stat().st_size:
        raise ModelError(
            f"{target.parent} has no room for the parts of {target.name} "
            f"({source.stat().st_size / 1e6:.0f} MB)",
            "free some disk, or write to another one with --out",
        )
    program = tool("llama-gguf-split", say)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as folder:
        command = [
            str(program),
            "--split",
            "--split-max-size",
            size,
            str(source),
            str(Path(folder) / target.stem),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        parts = sorted(Path(folder).glob("*.gguf"))
        if done.returncode or not parts:
            told = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ModelError(f"llama-gguf-split could not cut {target.name}: {told}")
        for part in reversed(parts):
            part.replace(target.with_name(part.name))
    return target.with_name(parts[0].name)
