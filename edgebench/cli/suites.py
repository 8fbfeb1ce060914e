"""`suites`: what there is to ask, where it comes from, and whether the files are the right ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from edgebench.cli.output import Column, emit, emit_one, examples, output_option, remark, yes_no
from edgebench.cli.run_options import data_option
from edgebench.cli.suites_key import calibrate_key, score
from edgebench.core.errors import SuiteError
from edgebench.core.types import MEDICAL_NOTE

SAMPLE_CHARS = 1200
"""So much of a sample prompt is shown; `-o json` has all of it."""


@click.group(
    epilog=examples(
        "edgebench suites list --data DIR",
        "edgebench suites show mmlu-medical -o json",
        "edgebench suites fetch pubmedqa",
        "edgebench suites add ./mine.toml",
    )
)
def suites() -> None:
    """Question suites."""


suites.add_command(score)
suites.add_command(calibrate_key)


@suites.command("list", epilog=examples("edgebench suites list", "edgebench suites list --data DIR -o md"))
@data_option
@output_option
def suites_list(data: Path | None, output: str) -> None:
    """Every known suite, and whether its questions are in reach."""
    from edgebench.session_suites import list_suites

    columns = [
        Column("name", "name"),
        Column("n_questions", "questions", right=True),
        Column("available", "available", yes_no),
        Column("default_scorer", "scorer"),
        Column("headline", "headline"),
        Column("licence", "licence"),
        Column("title", "title"),
    ]
    rows = list_suites(data)
    emit(rows, columns, output)
    _stand_beside(rows)


@suites.command(
    "show",
    epilog=examples(
        "edgebench suites show everyday",
        "edgebench suites show mmlu-medical --data DIR -o json",
        "edgebench suites show ./mine.toml",
    ),
)
@click.argument("name")
@data_option
@output_option
def suites_show(name: str, data: Path | None, output: str) -> None:
    """A suite's provenance, counts and a sample prompt per scorer; NAME or a suite file."""
    from edgebench.session_suites import show_suite

    shown = show_suite(name, data)
    if output == "table":
        prompts = shown.get("sample_prompt", {})
        emit_one(shown | ({"sample_prompt": "below"} if prompts else {}), output, name)
        _show_prompts(prompts)
    else:
        emit_one(shown, output, name)
    _stand_beside([shown])


def _show_prompts(prompts: Mapping[str, Any]) -> None:
    """One question as each scorer asks it: text, long ones cut short."""
    for scorer, prompt in prompts.items():
        text = prompt["context"]
        cut = f"{text[:SAMPLE_CHARS]} […]" if len(text) > SAMPLE_CHARS else text
        wanted = ", ".join(map(repr, prompt["continuations"])) or f"up to {prompt['n_gen']} tokens"
        click.echo(f"{scorer}\n{indent(cut, '  | ')}\n  → {wanted}\n")


@suites.command(
    "verify",
    epilog=examples(
        "edgebench suites verify --data DIR", "edgebench suites verify medqa pubmedqa --data DIR"
    ),
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@data_option
@output_option
def suites_verify(names: tuple[str, ...], data: Path | None, output: str) -> None:
    """Compare files with the hashes and counts the definitions pin; without NAME, of every suite in reach."""
    from edgebench.session_suites import verify_suites

    columns = [
        Column("suite", "suite"),
        Column("file", "file"),
        Column("n_questions", "questions", right=True),
        Column("n_expected", "expected", right=True),
        Column("sha256", "sha256", lambda digest: digest[:12]),
        Column("ok", "as pinned", yes_no),
        Column("why", "why not"),
    ]
    rows = verify_suites(names, data)
    emit(rows, columns, output)
    if wrong := [row for row in rows if row["ok"] is False]:
        first = wrong[0]
        raise SuiteError(
            f"{len(wrong)} of {len(rows)} are not what was pinned: {first['suite']}, {first['file']}: "
            f"{first['why']}",
            "other content is scored under another suite id",
        )


@suites.command(
    "fetch", epilog=examples("edgebench suites fetch pubmedqa", "edgebench suites fetch mmlu-pro medqa")
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def suites_fetch(names: tuple[str, ...]) -> None:
    """Get suites' files from where their authors put them, at pinned revisions, into the cache."""
    from edgebench.session_suites import fetch_suite, show_suite

    for name in names:
        folder = fetch_suite(name, remark)
        remark(f"{name} is in the cache: {folder}")
        _stand_beside([show_suite(name, None)])


@suites.command(
    "add", epilog=examples("edgebench suites add ./mine.toml", "edgebench suites add ./mine.toml --data DIR")
)
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@data_option
@output_option
def suites_add(path: Path, data: Path | None, output: str) -> None:
    """Adopt a suite file of your own: it is checked, copied, and known by its name from now on."""
    from edgebench.session_suites import add_suite, show_suite

    shown = show_suite(add_suite(path, data).name, data)
    emit_one(shown, output, shown["name"])
    _stand_beside([shown])


def _stand_beside(shown: Iterable[Mapping[str, Any]]) -> None:
    """What must be read with a suite's figures, on stderr."""
    shown = list(shown)
    for suite in shown:
        if suite.get("label"):
            remark(f"{suite['name']}: {suite['label']}")
    if any(suite.get("medical") for suite in shown):
        remark(MEDICAL_NOTE)
