"""Help is there for every verb, shows examples, and costs no engine."""

import os
import subprocess
import sys

import click
import pytest

from edgebench.cli import app


def verbs(group=app, path=()):
    for name, command in sorted(group.commands.items()):
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))


VERBS = dict(verbs())
HEAVY = ("llama_cpp", "numpy", "matplotlib", "gguf", "scipy", "rich", "psutil", "onnxruntime", "torch")
ASK = f"""
import sys
from edgebench.cli import app
try:
    app.main(sys.argv[1:], prog_name="edgebench", standalone_mode=False)
finally:
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print("loaded:", *loaded, file=sys.stderr)
"""


@pytest.mark.parametrize("verb", [(), *VERBS], ids=" ".join)
def test_help_is_answered_without_loading_an_engine(verb):
    done = subprocess.run(
        [sys.executable, "-c", ASK, *verb, "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: edgebench " + " ".join(verb))
    assert done.stderr.split() == ["loaded:"]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_says_in_a_sentence_what_it_does(verb):
    summary = (VERBS[verb].help or "").partition("\n")[0].strip()
    assert summary.endswith((".", "?"))
    assert len(summary) > 10


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb], ids=" ".join)
def test_every_verb_shows_examples_of_itself(verb):
    epilog = VERBS[verb].epilog or ""
    assert "Examples:\n" in epilog
    examples = [
        line.strip() for line in epilog.partition("Examples:\n")[2].splitlines() if "edgebench" in line
    ]
    assert any(line.startswith("edgebench " + " ".join(verb)) for line in examples)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_option_is_explained(verb):
    for param in VERBS[verb].params:
        if isinstance(param, click.Option):
            assert param.help, f"{param.name} of {' '.join(verb)}"


@pytest.mark.parametrize(
    "verb",
    [v for v in VERBS if v[0] in ("run", "sweep", "compare", "pareto", "order", "runs", "db")],
)
def test_every_verb_that_touches_results_takes_db(verb):
    if not isinstance(VERBS[verb], click.Group):
        assert "--db" in [spelling for param in VERBS[verb].params for spelling in param.opts]


def test_examples_are_commands_that_parse():
    """Every example of every verb: its verb exists and so do its flags."""
    for verb, command in VERBS.items():
        for line in (command.epilog or "").splitlines():
            if not line.strip().startswith("edgebench "):
                continue
            words = line.split()[1:]
            found = app
            while isinstance(found, click.Group) and words:
                found = found.commands[words.pop(0)]
            known = {spelling for param in found.params for spelling in (*param.opts, *param.secondary_opts)}
            used = {
                word.partition("=")[0] for word in words if word.startswith("-") and not word[1:].isdigit()
            }
            assert used <= known, f"{' '.join(verb)}: {line}"


def test_the_version_is_the_packages(edgebench):
    from edgebench import __version__

    assert edgebench("--version").stdout.strip() == f"edgebench, version {__version__}"


def test_no_arguments_show_the_help(edgebench):
    done = edgebench()
    assert done.returncode == 2
    assert "Commands:" in done.stderr
