"""Every verb is documented: a section of docs/cli.md, and a mention in the README."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from edgebench.cli import app

ROOT = Path(__file__).parents[2]


def verbs(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that does something: `run`, `runs list`, …"""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from verbs(child, (*words, name))
    else:
        yield words


VERBS = sorted(verbs(app))


def test_the_tree_has_the_verbs_the_design_names() -> None:
    tops = {words[0] for words in VERBS}
    assert {"run", "sweep", "compare", "pareto", "runs", "models", "suites", "runners", "cache"} <= tops


def test_verbs_have_their_sections() -> None:
    reference = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", reference, re.MULTILINE)
    assert [verb for verb in {words[0] for words in VERBS} if f"edgebench {verb}" not in headings] == []
    assert [words for words in VERBS if not mentioned(" ".join(words), reference)] == []


def test_verbs_are_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in {words[0] for words in VERBS} if not mentioned(verb, readme)] == []


def mentioned(verb: str, text: str) -> bool:
    return re.search(rf"(\bedgebench |`){verb}\b", text) is not None


def test_every_verb_has_help() -> None:
    def walk(command: click.Command) -> None:
        assert command.help, f"{command.name} has no help"
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(app)
