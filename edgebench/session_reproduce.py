"""How a run is made again: its command, and everything that is different now from what it was then."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from edgebench import __version__
from edgebench.core import registry
from edgebench.core.errors import EdgebenchError
from edgebench.core.setting_flags import SETTING_FLAGS
from edgebench.devices.environment import Difference, differences, local_environment
from edgebench.devices.profiles import find_profile
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.session_git import git_state
from edgebench.session_models import peek
from edgebench.session_plan import Request

_FLAGS = {
    "models": "-m",
    "quants": "--quant",
    "suites": "--suite",
    "permutation": "--permute",
    "n_chat": "--chat",
    **SETTING_FLAGS,
    "n_prompt": "-p",
    "n_gen": "-n",
    "n_depth": "-d",
    "meter": "--energy",
    "tdp_w": "--model-energy",
    "sustained_s": "--sustained",
}
"""Fields of a request that are not spelled like their flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What `edgebench reproduce RUN` says."""

    run_id: str
    command: str
    differs: tuple[Difference, ...]
    """Name, value then, value now."""
    notes: tuple[str, ...]


def command_of(request: Request) -> str:
    """The command that asks for the same: everything that is not the default."""
    words = ["edgebench", "run"]
    for field in fields(request):
        value = getattr(request, field.name)
        usual = field.default if field.default is not MISSING else None
        if value == usual and field.name != "models":
            continue
        flag = _FLAGS.get(field.name, f"--{field.name.replace('_', '-')}")
        if value is True:
            words.append(flag)
        elif value is False:
            words.append(f"--no-{flag.removeprefix('--')}")
        else:
            words += [flag, _spelled(value)]
    return shlex.join(words)


def _spelled(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value.value) if isinstance(value, Enum) else str(value)


def reproduction_of(store: Store, name: str) -> Reproduction:
    """The run under this name against this computer as it is now. UsageError when there is no such run."""
    run = store.run(name)
    then, now = _program(run), _program_now(run)
    notes = list(_notes(run))
    if (phone := _phone_of(run, store)) is None:
        facts = store.rows("SELECT facts_json FROM environment WHERE id = ?", (run.environment_id,))
        then, now = json.loads(facts[0]["facts_json"]) | then, dict(local_environment().facts) | now
    else:
        then, now = then | {"device": None}, now | {"device": None}
        notes.append(f"it ran on a phone, {phone}: whether that one has changed is not looked at")
    return Reproduction(
        run_id=run.id,
        command=run.command or "",
        differs=tuple(differences(then, now)),
        notes=tuple(notes),
    )


def _phone_of(run: RunRow, store: Store) -> str | None:
    """The phone a run was of, whose facts say nothing beside this computer's; None of any other run."""
    rows = store.rows("SELECT profile_json FROM device WHERE id = ?", (run.device_id,))
    profile: Mapping[str, Any] = json.loads(rows[0]["profile_json"]) if rows else {}
    return f"{profile.get('name')} ({run.device_id})" if profile.get("transport") == "adb" else None


def _program(run: RunRow) -> dict[str, Any]:
    return {
        "device": run.device_id,
        "edgebench": run.edgebench_version,
        "git_commit": run.git_commit,
        "git_dirty": None if run.git_dirty is None else bool(run.git_dirty),
        "runner": f"{run.runner} {run.runner_version}",
    }


def _program_now(run: RunRow) -> dict[str, Any]:
    commit, dirty = git_state()
    try:
        version = registry.load("runners", run.runner).version()
    except (EdgebenchError, ImportError):
        version = "not installed"
    return {
        "device": find_profile("local").id,
        "edgebench": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "runner": f"{run.runner} {version}",
    }


def _notes(run: RunRow) -> Iterator[str]:
    yield f"artifact sha256 {run.artifact_id}"
    if not run.command:
        yield "the run is from before commands were recorded: see its configuration in runs show"
    elif (changed := _changed_model(run)) is not None:
        yield changed
    engine: Mapping[str, Any] = json.loads(run.engine_json) if run.engine_json else {}
    if engine.get("system_info"):
        yield f"the engine was built with and used: {engine['system_info']}"
    if run.git_dirty:
        yield "edgebench's checkout had changes that were not committed: its code can't be had again"


def _changed_model(run: RunRow) -> str | None:
    """What to say when the command's model is a file that is not there, or not the one that was measured."""
    words = shlex.split(run.command or "")
    names: Iterable[str] = words[words.index("-m") + 1].split(",") if "-m" in words else ()
    for name in names:
        if "--server" in words:
            continue  # whether it still serves the same is the server's to say
        if Path(name).expanduser().suffix and not Path(name).expanduser().exists():
            return f"no file at {name} now"
        if "--quant" not in words and len(words[words.index("-m") + 1].split(",")) == 1:
            try:
                artifact = peek(name)
            except EdgebenchError as error:
                return error.message
            if artifact is not None and artifact.sha256 != run.artifact_id:
                return f"{name} is another file now: sha256 {artifact.sha256}"
    return None
