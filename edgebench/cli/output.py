"""Results to stdout in the form asked for; progress and remarks to stderr."""

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from edgebench.core.units import ABSENT

FORMATS = ("table", "json", "jsonl", "csv", "md")

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How results are printed on stdout.",
)


def examples(*lines: str) -> str:
    """The examples at the end of a verb's help, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: which key of the row, its title, and how a person reads the value.

    A line break in what `show` gives keeps tables narrow; elsewhere it is a blank.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False


def emit(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], output: str, title: str = "") -> None:
    """Print rows. json, jsonl and csv carry every raw value; table and md what a person reads."""
    match output:
        case "json":
            click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        case "jsonl":
            for row in rows:
                click.echo(json.dumps(row, ensure_ascii=False))
        case "csv":
            click.echo(_csv(rows), nl=False)
        case "md":
            click.echo(_markdown(rows, columns))
        case _:
            _table(rows, columns, title)


def emit_one(thing: Mapping[str, Any], output: str, title: str = "") -> None:
    """Print one thing: a JSON object, or its facts line by line."""
    if output in ("json", "jsonl"):
        click.echo(json.dumps(thing, indent=2 if output == "json" else None, ensure_ascii=False))
    elif output == "csv":
        click.echo(_csv([thing]), nl=False)
    else:
        rows = [{"fact": key, "value": _plain(value)} for key, value in thing.items()]
        emit(rows, [Column("fact", "fact"), Column("value", "value")], output, title)


def yes_no(value: object) -> str:
    """How a table says true and false."""
    return "yes" if value else "no"


def remark(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def _cell(row: Mapping[str, Any], column: Column) -> str:
    value = row.get(column.key)
    return ABSENT if value is None else column.show(value)


def _plain(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()})
    return out.getvalue()


def _markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    lines = [
        "| " + " | ".join(c.title for c in columns) + " |",
        "|" + "|".join(" ---: " if c.right else " --- " for c in columns) + "|",
    ]
    lines += [
        "| " + " | ".join(_cell(row, c).replace("|", "\\|").replace("\n", " ") for c in columns) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = Text(title) if title else None
    table = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        # Text, not markup: a file's name may hold brackets.
        table.add_row(*(Text(_cell(row, column)) for column in columns))
    # A pipe has no width: never cut or fold what another program will read.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    console.print(table)
