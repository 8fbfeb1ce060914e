"""Every verb is documented: a section of docs/cli.md, and a mention in the README."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

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


@pytest.mark.parametrize("top", sorted({words[0] for words in VERBS}))
def test_verb_has_its_section(top: str) -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    pattern = re.compile(rf"\bedgebench {top}\b")
    assert any(pattern.search(heading) for heading in headings), f"docs/cli.md: no ## edgebench {top}"


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_verb_is_told_of_in_the_reference(words: tuple[str, ...]) -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert re.search(rf"\bedgebench {' '.join(words)}\b", text), f"docs/cli.md: edgebench {' '.join(words)}"


@pytest.mark.parametrize("top", sorted({words[0] for words in VERBS}))
def test_verb_is_in_the_readme(top: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"(\bedgebench |`){top}\b", text), f"README.md never mentions edgebench {top}"


def test_every_verb_has_help() -> None:
    def walk(command: click.Command) -> None:
        assert command.help, f"{command.name} has no help"
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(app)
