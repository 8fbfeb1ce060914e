"""`reproduce`: the command that makes an artifact or a run again, and what is different now."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import db_option
from edgebench.cli.output import emit_one, examples, output_option, remark
from edgebench.core.errors import UsageError


@click.command(
    epilog=examples(
        "edgebench reproduce latest",
        "edgebench reproduce 01JD9A -o json",
        "edgebench reproduce levels/smollm2-135m-q4_k_m.gguf",
        "edgebench reproduce 3f2a9c01",
    )
)
@click.argument("what")
@db_option
@output_option
def reproduce(what: str, db: Path, output: str) -> None:
    """Print the command that makes WHAT again: an artifact or a run.

    An artifact is its path or the beginning of its sha256; a run is `latest` or the beginning of its id:
    then everything that is different now from what it was then is told, too.
    """
    told = _run(what, db) or _artifact(what, db)
    if output in ("json", "jsonl"):
        emit_one(told, output)
        return
    click.echo(told["command"])
    for one in told.get("differs", ()):
        remark(f"differs: {one['name']}: {_shown(one['before'])} then, {_shown(one['after'])} now")
    if "differs" in told and not told["differs"]:
        remark("nothing that is recorded differs from then")
    for note in told["notes"]:
        remark(note)


def _run(what: str, db: Path) -> dict[str, Any] | None:
    """A run's reproduction; None where no run has this name."""
    from edgebench.results.store import Store
    from edgebench.session_reproduce import reproduction_of

    if Path(what).expanduser().exists() or not db.exists():
        return None
    with Store.open_readonly(db) as store:
        try:
            found = reproduction_of(store, what)
        except UsageError:
            if what == "latest":
                raise
            return None
    return asdict(found)


def _artifact(what: str, db: Path) -> dict[str, Any]:
    from edgebench.session_ladder import creation_of

    command, notes = creation_of(what, db)
    return {"command": command, "notes": notes}


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
