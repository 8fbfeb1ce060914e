from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.types import Scorer
from edgebench.suites.definition import find_definition, known_suites, read_definition

WriteSuite = Callable[..., Path]

WHOLE = """
name = "mine"
version = 2
[data]
format = "csv"
fields = { question = 0, choices = [1, 2], answer = 3 }
[[data.files]]
path = "a.csv"
n_questions = 7
[prompt.cloze]
context = "{question}"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    definition = read_definition(write(tmp_path, WHOLE))
    assert (definition.name, definition.version, definition.title) == ("mine", "2", "mine")
    assert (definition.license, definition.seed, definition.medical) == ("unknown", 0, False)
    assert (definition.beside, definition.header, definition.answer) == (True, True, "index")
    assert definition.default_scorer is Scorer.CLOZE
    assert definition.n_questions == 7


def test_count_is_unknown_when_one_file_does_not_say(tmp_path: Path) -> None:
    text = WHOLE.replace("[prompt", '[[data.files]]\npath = "b.csv"\n[prompt')
    assert read_definition(write(tmp_path, text)).n_questions is None


@pytest.mark.parametrize("line", ['name = "mine"', "version = 2", 'format = "csv"', "fields = {"])
def test_missing_key_is_named(tmp_path: Path, line: str) -> None:
    kept = [text for text in WHOLE.splitlines() if not text.startswith(line)]
    key = line.split()[0]
    with pytest.raises(SuiteError, match=rf"suite\.toml: missing key '{key}'") as caught:
        read_definition(write(tmp_path, "\n".join(kept)))
    assert caught.value.hint == "see docs/suites.md for the format"


@pytest.mark.parametrize("key", ["question", "choices", "answer"])
def test_missing_field_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(SuiteError, match=f"missing key '{key}'"):
        read_definition(write(tmp_path, WHOLE.replace(f"{key} =", f"other_{key} =")))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{question}", "{question} {stem}", r"prompt\.cloze uses unknown field\(s\) stem"),
        ('"a.csv"', '"../a.csv"', "must lie inside its root"),
        ('"a.csv"', '"b/../../a.csv"', "must lie inside its root"),
        ('"a.csv"', '"/a.csv"', "must lie inside its root"),
        ("version", 'default_scorer = "letter"\nversion', r"default_scorer letter has no \[prompt\.letter\]"),
        ("version", 'default_scorer = "best"\nversion', "'best' is not a valid Scorer"),
        ('"csv"', '"parquet"', "'parquet' is not csv or jsonl"),
        ('"csv"', '"csv"\nanswer = "roman"', "'roman' is not letter, index or number"),
        ('"csv"', '"csv"\nroot = "web"', "'web' is not beside or data"),
        ("n_questions", "n_rows", "n_rows"),
        ('[prompt.cloze]\ncontext = "{question}"', "[prompt]", r"no \[prompt\.letter\]"),
        ('[prompt.cloze]\ncontext = "{question}"', "[prompt.cloze]", "missing key 'context'"),
        ('context = "{question}"', "context = 3", "string"),
        ("[data]", "[data", "not valid TOML"),
    ],
)
def test_mistake_is_told_with_the_file(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WHOLE
    with pytest.raises(SuiteError, match=told) as caught:
        read_definition(write(tmp_path, WHOLE.replace(old, new, 1)))
    assert caught.value.message.startswith(str(tmp_path / "suite.toml"))
    assert "\n" not in caught.value.message


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="no suite file at"):
        read_definition(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SuiteError, match=r"can't read .*folder\.toml"):
        read_definition(tmp_path / "folder.toml")
    (tmp_path / "latin.toml").write_bytes('name = "Grüße"'.encode("latin-1"))
    with pytest.raises(SuiteError, match="not valid TOML"):
        read_definition(tmp_path / "latin.toml")


def test_built_in_suites_are_found_by_name_and_others_by_path(write_suite: WriteSuite) -> None:
    assert find_definition("everyday").name == "everyday"
    assert find_definition(str(write_suite({"a.csv": ""}))).name == "mine"
    with pytest.raises(UsageError, match="unknown suite 'every-day'") as caught:
        find_definition("every-day")
    assert caught.value.hint == "did you mean everyday?"


def test_built_in_definitions_are_named_as_their_files_and_pinned() -> None:
    assert {"everyday", "mmlu-medical"} <= set(known_suites())
    for name in known_suites():
        definition = find_definition(name)
        assert definition.name == name
        assert all(file.sha256 and file.n_questions for file in definition.files)
        assert definition.license != "unknown"
        assert definition.citation
