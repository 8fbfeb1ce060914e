"""Write docs/cli.md and docs/schema.md from the code: `python docs/generate.py` (or `make docs`).

A test fails when what stands in the files is not what the code says.
"""

import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from edgebench.cli import app
from edgebench.results.store import Store

HERE = Path(__file__).parent
WIDTH = 100


def cli_page() -> str:
    """The help of every verb."""
    parts = [
        "# The command line",
        "Written by `python docs/generate.py` from the commands themselves.",
        """Results go to stdout (`-o table|json|jsonl|csv|md`), progress and remarks to stderr. Exit codes:
0 done, 1 failed, 2 usage, 3 regression, 4 invalid run, 130 interrupted.""",
    ]
    settings: dict[str, Any] = {"max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
    for path, command in _walk((), app):
        name = " ".join(("edgebench", *path))
        ctx = click.Context(command, info_name=name, terminal_width=WIDTH, **settings)
        parts.append(f"{'#' * min(2 + max(len(path) - 1, 0), 3)} {name}\n\n```\n{command.get_help(ctx)}\n```")
    return "\n\n".join(parts) + "\n"


def _walk(path: tuple[str, ...], command: click.Command) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            found += _walk((*path, name), child)
    return found


def schema_page() -> str:
    """The tables and views of a fresh database."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fresh.sqlite"
        Store.open(path).close()
        with sqlite3.connect(path) as connection:
            sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
            statements = ";\n\n".join(row[0] for row in connection.execute(sql))
    return f"""# The database

Written by `python docs/generate.py` from the migrations. Table and column names are public and stable;
columns may be added. Units stand in the names, everything is SI. Question text is never stored. `summary`
can be thrown away: `edgebench db rebuild` makes it from the raw rows.

```sql
{statements};
```
"""


PAGES = {"cli.md": cli_page, "schema.md": schema_page}


def main() -> None:
    """Write the pages."""
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")
        sys.stderr.write(f"{HERE / name}\n")


if __name__ == "__main__":
    main()
