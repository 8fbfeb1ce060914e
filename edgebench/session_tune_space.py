"""What `tune` tries: settings by llama-bench's letters, their usual values here, every combination."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edgebench.core.errors import UsageError, nearest
from edgebench.core.types import Settings
from edgebench.devices.local import default_threads
from edgebench.session_plan import Request
from edgebench.session_sweep import WHOLE_TYPES, combinations


class Goal(StrEnum):
    """What the best setting is best at; less is better of each."""

    SPEED = "speed"
    ENERGY = "energy"
    MEMORY = "memory"


FIELDS = ("n_threads", "n_batch", "n_ubatch", "n_gpu_layers", "flash_attn", "type_k", "type_v", "mmap")
"""Settings that can be tried."""
NAMES = {
    "t": ("n_threads",),
    "b": ("n_batch",),
    "ub": ("n_ubatch",),
    "fa": ("flash_attn",),
    "kv": ("type_k", "type_v"),
    "ctk": ("type_k",),
    "ctv": ("type_v",),
    "mmap": ("mmap",),
}
"""What can be named -> the settings it moves; `kv` moves both cache types together."""
USUAL_NAMES = {
    Goal.SPEED: ("t", "ub", "fa"),
    Goal.ENERGY: ("t", "ub", "fa"),
    Goal.MEMORY: ("ub", "fa", "mmap"),
}
"""What is tried for a goal; `kv` too, where the answers are watched: a quantized cache changes them."""
TAKES_ALL = ("llama_cpp", "llama_server", "synthetic")
"""Engines that take every setting; the others take threads."""
BATCHES = {"n_batch": (256, 512, 1024, 2048), "n_ubatch": (128, 256, 512, 1024)}
CHANGES_ANSWERS = ("n_batch", "n_ubatch", "n_gpu_layers", "flash_attn", "type_k", "type_v")
"""Settings that move log-likelihoods: the others leave every bit where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The combinations to choose from."""

    settings: tuple[dict[str, Any], ...]
    """Field of `Settings` -> value; the default is the first."""
    tried: tuple[str, ...]
    """Fields that have several values."""
    remarks: tuple[str, ...]
    """What was left out, and why."""


def space_of(
    request: Request,
    goal: Goal,
    runner: str,
    *,
    names: Sequence[str] = (),
    given: Mapping[str, Sequence[Any]] | None = None,
    keeps_answers: bool = False,
) -> Space:
    """Every combination of the settings named and those given by value; of neither, the goal's usual ones.

    `given`: field -> values; a single one only fixes it. The default has each setting's usual value, or its
    first one where the usual is not among them. UsageError for what is unknown, or leaves nothing to choose.
    """
    given = {field: tuple(dict.fromkeys(values)) for field, values in (given or {}).items() if values}
    usual = Settings(n_threads=request.n_threads or default_threads())
    chosen = _checked(names, runner)
    if not chosen and all(len(values) == 1 for values in given.values()):
        chosen = _usual_names(goal, runner, keeps_answers)
    moved = {field for name in chosen for field in NAMES[name]}
    values: dict[str, Sequence[Any]] = {
        field: given.get(field)
        or (_usual_values(field, request) if field in moved else (getattr(usual, field),))
        for field in FIELDS
    }
    found, remarks = combinations(values)
    if "kv" in chosen and not {"type_k", "type_v"} & given.keys():
        found = [one for one in found if one["type_k"] == one["type_v"]]
    default = {f: getattr(usual, f) if getattr(usual, f) in some else some[0] for f, some in values.items()}
    default["n_ubatch"] = min(default["n_ubatch"], default["n_batch"])
    others = [one for one in found if one != default]
    if not others or default not in found:
        raise UsageError(
            f"nothing to choose from: {'; '.join(remarks) or 'every setting has one value'}",
            "edgebench tune --tune t,ub,fa, or several values: -t 1,2,4 -ub 128,512",
        )
    tried = tuple(f for f in values if len({one[f] for one in found}) > 1)
    return Space(settings=(default, *others), tried=tried, remarks=tuple(remarks))


def _usual_names(goal: Goal, runner: str, keeps_answers: bool) -> tuple[str, ...]:
    usual = (*USUAL_NAMES[goal], *(("kv",) if keeps_answers else ()))
    return usual if runner in TAKES_ALL else ("t",)


def _checked(names: Sequence[str], runner: str) -> tuple[str, ...]:
    for name in names:
        if name not in NAMES:
            raise nearest(name, NAMES, kind="setting to tune")
    if "kv" in names and {"ctk", "ctv"} & set(names):
        raise UsageError("kv moves both cache types together", "leave out kv, or ctk and ctv")
    takes = tuple(NAMES) if runner in TAKES_ALL else ("t",)
    if strange := [name for name in names if name not in takes]:
        raise UsageError(f"{runner} takes no setting {strange[0]}", f"it takes {', '.join(takes)}")
    return tuple(dict.fromkeys(names))


def _usual_values(field: str, request: Request) -> tuple[Any, ...]:
    """What is worth trying on this computer, for a request of this length."""
    match field:
        case "n_threads":
            return _threads()
        case "n_batch" | "n_ubatch":
            usual = getattr(Settings(n_threads=1), field)
            length = max(request.n_prompt) + max(request.n_depth)
            enough = min((v for v in BATCHES[field] if v >= length), default=max(BATCHES[field]))
            return tuple(v for v in BATCHES[field] if v <= enough or v == usual)
        case "flash_attn":
            return ("on", "off")
        case "mmap":
            return (True, False)
        case _:
            return ("f16", "q8_0", "q4_0")


def _threads() -> tuple[int, ...]:
    """Powers of two up to the logical cores, the physical and the logical number."""
    n_logical = os.cpu_count() or 1
    powers = [2**i for i in range(n_logical.bit_length())]
    return tuple(sorted({*powers, default_threads(), n_logical}))


def answers_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a setting that can change answers is not the same in both."""
    return any(one.get(field) != other.get(field) for field in CHANGES_ANSWERS)


def quantizes_cache(settings: Mapping[str, Any]) -> bool:
    """Whether keys or values are kept in fewer bits than they are computed in."""
    return {settings["type_k"], settings["type_v"]} - set(WHOLE_TYPES) != set()
