"""Which runs are exported, and files that don't take another one's place by accident."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import UsageError
from edgebench.core.types import Evidence, Mode, Status
from edgebench.results.records import RunRow
from edgebench.results.store import Store

HAVE_OWN_KEY = "SELECT id FROM suite WHERE json_extract(facts_json, '$.key_sha256') IS NOT NULL"
"""Suites whose key is not public: somebody supplied one here, and what follows from it stays here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Runs for an export, oldest first, and why others are not among them."""

    runs: tuple[RunRow, ...]
    left_out: tuple[str, ...]
    """For people: `2 runs that were not measured (synthetic)`."""


def chosen_runs(store: Store, names: Sequence[str]) -> list[RunRow]:
    """The runs of these names, all where none is named; oldest first."""
    found = {run.id: run for run in (map(store.run, names) if names else store.runs())}
    return sorted(found.values(), key=lambda run: (run.started_at, run.id))


def comparable_runs(store: Store, names: Sequence[str], mode: Mode, *, allow_synthetic: bool) -> Chosen:
    """Runs for a format that can't say what a figure is worth: complete ones, measured unless allowed.

    Raises UsageError when none is left, and says why.
    """
    fit = {run: _unfit(run, mode, allow_synthetic=allow_synthetic) for run in chosen_runs(store, names)}
    runs = [run for run, why in fit.items() if why is None]
    dropped = Counter(why for why in fit.values() if why and (names or why != _OTHER_MODE))
    left_out = tuple(f"{n} {'run' if n == 1 else 'runs'} left out: {why}" for why, n in dropped.items())
    if not runs:
        raise nothing_to_export(store.path, left_out, mode)
    return Chosen(runs=tuple(runs), left_out=left_out)


def nothing_to_export(path: Path, left_out: Iterable[str], mode: Mode) -> UsageError:
    """The error for a database that has nothing for a format."""
    why = "; ".join(left_out)
    return UsageError(
        f"{path} has nothing to export" + (f" ({why})" if why else ""),
        f"edgebench run --mode {mode.value} makes such runs; --allow-synthetic takes what was not measured",
    )


_OTHER_MODE = "of the other mode"


def _unfit(run: RunRow, mode: Mode, *, allow_synthetic: bool) -> str | None:
    if run.mode is not mode:
        return _OTHER_MODE
    if run.status is not Status.COMPLETE:
        return run.status.value
    if run.is_tuning:
        return "a trial of tune"
    if run.evidence is not Evidence.MEASURED and not allow_synthetic:
        return f"not measured here but {run.evidence.value}"
    return None


def refuse_existing(out: Path, database: Path, *, force: bool) -> None:
    """UsageError when a file is in the way, or when it is the database itself."""
    if out.exists() and database.exists() and out.samefile(database):
        raise UsageError(f"{out} is the database itself", "name another file with --out")
    if out.exists() and not force:
        raise UsageError(
            f"{out} is there already", "name another file with --out, or replace it with --force"
        )
