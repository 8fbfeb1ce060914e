"""Settings as the flags that ask for them (llama-bench's), and what tells several of them apart."""

from collections.abc import Mapping, Sequence
from typing import Any

SETTING_FLAGS = {
    "n_threads": "-t",
    "cpu_mask": "-C",
    "n_batch": "-b",
    "n_ubatch": "-ub",
    "n_gpu_layers": "-ngl",
    "flash_attn": "-fa",
    "type_k": "-ctk",
    "type_v": "-ctv",
    "mmap": "--mmap",
    "provider": "--provider",
    "dtype": "--dtype",
    "gpu": "-mg",
    "server": "--server",
}
"""Field of `core.types.Settings` -> its flag."""


def as_flags(settings: Mapping[str, Any], names: Sequence[str] = tuple(SETTING_FLAGS)) -> str:
    """`-t 2 -ub 256 --mmap off`: these of the settings; what was left to the engine is left out."""
    told = [(SETTING_FLAGS[name], settings[name]) for name in names if settings.get(name) is not None]
    return " ".join(f"{flag} {_spelled(value)}" for flag, value in told)


def _spelled(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def names_that_differ(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all of these, in the order of the flags."""
    return [name for name in SETTING_FLAGS if len({one.get(name) for one in settings}) > 1]
