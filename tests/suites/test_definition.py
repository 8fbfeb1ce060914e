from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.types import Scorer
from edgebench.suites.definition import (
    built_in_suites,
    find_definition,
    known_suites,
    read_definition,
)

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
    (form,) = definition.forms
    assert (form.root, form.header, form.answer, form.dev) == ("beside", True, "index", ())
    assert (definition.headline, definition.label, definition.first_shots) == ("acc", "", True)
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
        ('"csv"', '"xlsx"', "'xlsx' is not csv, jsonl, json or parquet"),
        ('"csv"', '"csv"\nanswer = "roman"', "'roman' is not letter, index, number, text or none"),
        ('"csv"', '"csv"\nroot = "web"', "'web' is not beside or data"),
        ("n_questions", "n_rows", "n_rows"),
        ("n_questions = 7", 'n_questions = "7"', "n_questions of data file 'a.csv' is a str"),
        ("n_questions = 7", 'sha256 = "abc"', "not 64 hexadecimal digits"),
        ("version", "medcal = true\nversion", "unknown key.s. medcal"),
        ("version", 'medical = "yes"\nversion', "medical is a str, not a bool"),
        ("version", 'headline = "best"\nversion', "'best' is not acc, mean_of_subjects, macro_f1"),
        ("version", "categories = 3\nversion", "categories is a int, not a table"),
        ("version", "slices = { a = [1] }\nversion", r"slices\.a is not a list of texts"),
        ('name = "mine"', 'name = "../mine"', "is not letters, digits"),
        ('"csv"', '"csv"\nheaders = true', r"unknown key.s. data\.headers"),
        ('"csv"', '"csv"\nheader = "no"', r"data\.header is a str"),
        ('"csv"', '"csv"\noptions = [1, 2]', r"data\.options is not a list of texts"),
        ('"csv"', '"csv"\nfolder = "a/b"', "is not a folder's name"),
        ('"csv"', '"csv"\nfolder = ".."', "is not a folder's name"),
        ('"csv"', '"csv"\nroot = "data"\nhub = "name"', "'name' is not org/name"),
        ('"csv"', '"csv"\nroot = "data"\nhub = "org/.."', "is not org/name"),
        ('"csv"', '"csv"\nroot = "data"\nhub = "org/name"\nrevision = "main"', "must be a commit"),
        ('"csv"', '"csv"\nroot = "data"\nurl = "http://example.org/"', "is not https://"),
        ('"csv"', '"csv"\nroot = "data"\nurl = "file:///etc/"', "is not https://"),
        ('"csv"', f'"csv"\nhub = "org/name"\nrevision = "{"0" * 40}"', 'needs root = "data"'),
        ("answer = 3", "answer = 3, topic = 4", r"unknown field\(s\) topic"),
        ("[prompt.cloze]", "[prompt.generate]", "n_gen is the number of tokens"),
        ("[prompt.cloze]", "[prompt.cloze]\nn_gen = 5", "n_gen is the number of tokens"),
        ("[prompt.cloze]", "[prompt.cloze]\nstop = [1]", r"prompt\.cloze\.stop is not a list of texts"),
        ('[prompt.cloze]\ncontext = "{question}"', "[prompt]", r"no \[prompt\.letter\]"),
        ('[prompt.cloze]\ncontext = "{question}"', "[prompt.cloze]", "missing key 'context'"),
        ('context = "{question}"', "context = 3", r"prompt\.cloze\.context is not text"),
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


def test_several_forms_of_the_same_questions(tmp_path: Path) -> None:
    """A further form may name its own files; where it names none it has the first one's, without pins."""
    pin = "0" * 64
    text = WHOLE.replace("[data]", "[[data]]").replace(
        "n_questions = 7", f'n_questions = 7\nsha256 = "{pin}"'
    )
    forms = f"""
[[data]]
format = "csv"
header = false
fields = {{ question = 0, choices = [1, 2], answer = 3 }}
[[data]]
format = "parquet"
root = "data"
hub = "org/name"
revision = "{"0" * 40}"
fields = {{ question = "q", choices = "c", answer = "a" }}
files = [{{ path = "b.parquet" }}]
[prompt.cloze]"""
    first, second, third = read_definition(write(tmp_path, text.replace("[prompt.cloze]", forms))).forms
    assert [(f.path, f.sha256, f.n_questions) for f in second.files] == [("a.csv", None, 7)]
    assert (first.files[0].sha256, second.root) == (pin, "beside")
    assert [f.path for f in third.files] == ["b.parquet"]


def test_questions_without_a_key_need_no_answer_field(tmp_path: Path) -> None:
    text = WHOLE.replace(", answer = 3", "").replace('"csv"', '"csv"\nanswer = "none"')
    assert not read_definition(write(tmp_path, text)).has_key


def test_the_same_options_for_every_question_need_no_field(tmp_path: Path) -> None:
    text = WHOLE.replace(", choices = [1, 2]", "").replace('"csv"', '"csv"\noptions = ["yes", "no"]')
    assert read_definition(write(tmp_path, text)).forms[0].options == ("yes", "no")


def test_built_in_definitions_are_named_as_their_files_and_say_where_they_are_from() -> None:
    assert set(built_in_suites()) <= set(known_suites())
    for name in built_in_suites():
        definition = find_definition(name)
        assert definition.name == name
        assert definition.n_questions
        assert definition.license != "unknown"
        assert definition.citation
        assert definition.source
        for form in definition.forms:
            assert all(file.n_questions for file in (*form.files, *form.dev))
            if form.hub or form.url:
                assert len(form.revision) == 40
                assert all(file.sha256 for file in form.needed), name
                assert form.revision in form.url or not form.url


def test_counts_are_the_published_ones() -> None:
    counts = {name: find_definition(name).n_questions for name in built_in_suites()}
    assert counts == {
        "everyday": 136,
        "mobile-mmlu": 16186,
        "mobile-mmlu-pro": 9497,
        "mmlu": 14042,
        "mmlu-medical": 1089,
        "mmlu-pro": 12032,
        "mmlu-pro-health": 818,
        "medqa": 1273,
        "medqa-5": 1273,
        "medmcqa": 4183,
        "pubmedqa": 500,
        "pubmedqa-closed": 500,
        "mirage": 7663,
    }


def test_mobile_mmlu_has_its_fields_categories_and_health_slices() -> None:
    full, pro = find_definition("mobile-mmlu"), find_definition("mobile-mmlu-pro")
    sizes = {file.subject: file.n_questions or 0 for file in full.forms[0].files}
    assert (len(sizes), len(full.categories)) == (80, 9)
    assert sorted(sizes) == sorted(field for fields in full.categories.values() for field in fields)
    assert sum(sizes[field] for field in full.categories["Health & Safety"]) == 1480
    assert sum(sizes[field] for field in full.slices["health"]) == 1298
    assert all(file.path == f"test/{file.subject}.csv" for file in full.forms[0].files)
    assert (pro.categories, pro.slices, pro.prompts) == (full.categories, full.slices, full.prompts)
    assert (full.label, pro.label) == ("non-commercial, no derivatives", "no derivatives")
    assert full.submission
    assert pro.submission
    assert not full.has_key


def test_mmlu_has_57_subjects_in_four_groups() -> None:
    mmlu = find_definition("mmlu")
    subjects = [file.subject for file in mmlu.forms[0].files]
    assert len(subjects) == 57
    assert sorted(subject for group in mmlu.categories.values() for subject in group) == subjects
    assert set(mmlu.slices["medical"]) == {
        file.subject for file in find_definition("mmlu-medical").forms[0].files
    }


def test_example_in_the_documentation_is_a_suite(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
    example = page.split("```toml\n")[1].split("```")[0]
    pins = 'sha256 = "…"'
    assert pins in example
    definition = read_definition(write(tmp_path, example.replace(pins, f'sha256 = "{"0" * 64}"')))
    assert set(definition.prompts) == set(Scorer)
    assert definition.forms[0].dev
    for name in built_in_suites():
        assert f"`{name}`" in page


def test_mistake_of_a_pin_is_told(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="sha256 is not 64 hexadecimal digits"):
        read_definition(write(tmp_path, 'sha256 = "abc"\n' + WHOLE))
