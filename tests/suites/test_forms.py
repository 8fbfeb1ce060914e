"""The forms questions come in: JSON by key, parquet, several forms of one suite, parts of a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import MissingDependency, SuiteError
from edgebench.suites.loader import load_dev, load_pool, load_suite

WriteSuite = Callable[..., Path]

FIELDS = {"id": "$key", "question": "q", "choices": "options", "answer": "key"}
TWO = {
    "one": {"q": "Sky?", "options": {"A": "blue", "B": "red"}, "key": "A"},
    "two": {"q": "Grass?", "options": {"A": "red", "B": "green", "C": "blue"}, "key": "B"},
}


def as_json(write_suite: WriteSuite, content: Any, **data: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    settings = {"format": "json", "fields": FIELDS, "files": [{"path": "a.json"}]}
    return write_suite({"a.json": text}, **(settings | data))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    arrow = pytest.importorskip(
        "pyarrow", reason="pyarrow is not installed: pip install 'edgebench[parquet]'"
    )
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


# JSON -------------------------------------------------------------------------------------------


def test_rows_by_their_keys(write_suite: WriteSuite) -> None:
    suite = load_suite(str(as_json(write_suite, TWO)))
    assert [(q.id, q.choices, q.answer_index) for q in suite.questions] == [
        ("one", ("blue", "red"), 0),
        ("two", ("red", "green", "blue"), 1),
    ]


def test_rows_of_a_list(write_suite: WriteSuite) -> None:
    rows = [{**value, "name": key} for key, value in TWO.items()]
    suite = load_suite(str(as_json(write_suite, rows, fields=FIELDS | {"id": "name"})))
    assert [q.id for q in suite.questions] == ["one", "two"]


def test_parts_of_one_file_are_subjects(write_suite: WriteSuite) -> None:
    content = {"birds": {"b1": TWO["one"]}, "plants": {"p1": TWO["two"], "p2": TWO["one"]}}
    files = [{"path": "a.json", "member": part, "subject": part} for part in content]
    suite = load_suite(str(as_json(write_suite, content, files=files)))
    assert [(q.id, q.subject) for q in suite.questions] == [
        ("b1", "birds"),
        ("p1", "plants"),
        ("p2", "plants"),
    ]
    with pytest.raises(SuiteError, match=r"a\.json: no 'fish' in it"):
        load_suite(str(as_json(write_suite, content, files=[{"path": "a.json", "member": "fish"}])))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ":1: not valid JSON: expected a list or an object"),
        ("3", ":1: not valid JSON: expected a list or an object"),
        ("{\n\n3: {}}", ":3: not valid JSON: "),
        ('{"a"\n\n{}}', ":3: not valid JSON: expected ':'"),
        ('{"a": {}\n"b": {}}', ":1: no column 'q'"),
        ('[\n"text"]', ":2: expected an object, found str"),
        ('{"x":\n\n{"q": "", "options": {"A": "y", "B": "z"}, "key": "A"}}', ":3: the question is empty"),
        ('{"x": {"q": "Q", "options": {"A": "y", "B": "z"}, "key": "A"},\n}', ":2: not valid JSON: a comma"),
        (
            '{"x": {"q": "Q", "options": {"A": "y", "B": "z"}, "key": "A"}\n',
            ":2: not valid JSON: expected ','",
        ),
        ('{"x":\n' + "[" * 100_000, ":2: not valid JSON: nested too deeply"),
        ('{"x":\n{"q": "Q", "options": {"A": "y", "B": "z"}, "key": "C"}}', ":2: answer 'C' is outside"),
    ],
)
def test_mistake_in_a_json_is_told_with_its_line(write_suite: WriteSuite, text: str, told: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(str(as_json(write_suite, text)))
    assert f"a.json{told}" in caught.value.message


def test_key_that_stands_twice_in_a_json_is_told_with_both_lines(write_suite: WriteSuite) -> None:
    one = json.dumps(TWO["one"])
    with pytest.raises(SuiteError, match=r"a\.json:3: the id 'x' stands in .*a\.json:2 already"):
        load_suite(str(as_json(write_suite, f'{{\n"x": {one},\n"x": {one}}}')))


def test_json_that_is_not_utf8_is_told_with_its_line(write_suite: WriteSuite) -> None:
    text = b'{"x":\n{"q": "Gr\xfc\xdfe"}}'
    definition = write_suite({"a.json": text}, format="json", fields=FIELDS, files=[{"path": "a.json"}])
    with pytest.raises(SuiteError, match=r"a\.json:2: not UTF-8"):
        load_suite(str(definition))


# Parquet ----------------------------------------------------------------------------------------

HUB_ROWS = [
    {"q": "Sky?", "options": ["blue", "red"], "key": 0, "topic": "air"},
    {"q": "Grass?", "options": ["red", "green", "N/A"], "key": 1, "topic": "ground"},
]


def as_parquet(write_suite: WriteSuite, **data: Any) -> str:
    fields = {"question": "q", "choices": "options", "answer": "key", "subject": "topic"}
    settings = {"format": "parquet", "answer": "index", "fields": fields, "files": [{"path": "a.parquet"}]}
    return str(write_suite({}, **(settings | data)))


def test_parquet_rows(tmp_path: Path, write_suite: WriteSuite) -> None:
    write_parquet(tmp_path / "a.parquet", HUB_ROWS)
    suite = load_suite(as_parquet(write_suite, drop_options=["N/A"]))
    assert [(q.id, q.choices, q.answer_index) for q in suite.questions] == [
        ("air-000", ("blue", "red"), 0),
        ("ground-000", ("red", "green"), 1),
    ]


def test_mistake_in_a_parquet_file_is_told_with_its_row(tmp_path: Path, write_suite: WriteSuite) -> None:
    write_parquet(tmp_path / "a.parquet", [HUB_ROWS[0], {**HUB_ROWS[0], "key": 2}])
    with pytest.raises(SuiteError, match=r"a\.parquet:2: answer '2' is outside the 2 options"):
        load_suite(as_parquet(write_suite))


@pytest.mark.parametrize("keep", [0, 4, 100, -20])
def test_damaged_parquet_file_is_told_in_a_line(tmp_path: Path, write_suite: WriteSuite, keep: int) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, HUB_ROWS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SuiteError, match=r"a\.parquet.*(not a valid parquet file|can't be read)") as caught:
        load_suite(as_parquet(write_suite))
    assert "\n" not in caught.value.message


def test_without_pyarrow_the_way_to_get_it_is_told(
    tmp_path: Path, write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"a\.parquet is a parquet file") as caught:
        load_suite(as_parquet(write_suite))
    assert caught.value.hint == "pip install 'edgebench[parquet]'"


# One suite in several forms ---------------------------------------------------------------------

SEVERAL = """
name = "mine"
version = "1"
{sha256}
[[data]]
format = "csv"
header = false
answer = "letter"
fields = {{ question = 0, choices = [1, 2], answer = 3 }}
files = [{{ path = "a.csv", subject = "air" }}]
[[data]]
format = "csv"
answer = "index"
fields = {{ question = "q", choices = ["c0", "c1"], answer = "key" }}
[[data]]
format = "jsonl"
answer = "number"
fields = {{ question = "q", choices = "c", answer = "key", subject = "topic" }}
files = [{{ path = "a.jsonl" }}]
[prompt.cloze]
context = "{{question}}"
"""
SAME = {
    "a.csv": "Sky?,blue,red,A\nSea?,red,blue,B\n",
    "b.csv": "q,c0,c1,key\nSky?,blue,red,0\nSea?,red,blue,1\n",
    "a.jsonl": '{"q": "Sky?", "c": ["blue", "red"], "key": 1, "topic": "air"}\n'
    '{"q": "Sea?", "c": ["red", "blue"], "key": 2, "topic": "air"}\n',
}


@pytest.mark.parametrize("form", SAME)
def test_every_form_gives_the_same_questions(tmp_path: Path, form: str) -> None:
    """So one hash of the questions vouches for all of them, and the suite's id is the same."""
    definition = tmp_path / "mine.toml"
    (tmp_path / form.replace("b.csv", "a.csv")).write_text(SAME[form])
    definition.write_text(SEVERAL.format(sha256=""))
    suite = load_suite(str(definition))
    assert [q.id for q in suite.questions] == ["air-000", "air-001"]
    assert [q.answer_index for q in suite.questions] == [0, 1]
    assert suite.id == f"mine@1+{suite.sha256[:8]}"
    definition.write_text(SEVERAL.format(sha256=f'sha256 = "{suite.sha256}"'))
    assert load_suite(str(definition)).id == "mine@1"


def test_file_that_fits_no_form_is_told_by_the_first(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SEVERAL.format(sha256=""))
    (tmp_path / "a.csv").write_text("Sky?,blue,red,Z\n")
    with pytest.raises(SuiteError, match=r"a\.csv:1: answer 'Z' is outside the 2 options"):
        load_suite(str(tmp_path / "mine.toml"))


# Parts of files ---------------------------------------------------------------------------------


def test_only_wanted_rows_are_kept(write_suite: WriteSuite) -> None:
    content = {key: {**value, "kind": kind} for (key, value), kind in zip(TWO.items(), "xy", strict=True)}
    definition = as_json(write_suite, content, where={"kind": ["y", "z"]})
    assert [q.id for q in load_suite(str(definition)).questions] == ["two"]


def test_listed_ids_are_scored_and_the_others_are_the_pool(tmp_path: Path, write_suite: WriteSuite) -> None:
    files = [{"path": "a.json"}]
    definition = as_json(write_suite, TWO, files=files, dev=files, ids={"path": "ids.json"})
    (tmp_path / "ids.json").write_text('{"two": "B"}')
    assert [q.id for q in load_suite(str(definition)).questions] == ["two"]
    assert [q.id for q in load_pool(str(definition))] == ["one"]
    assert [q.id for q in load_dev(str(definition))] == ["one"]
    (tmp_path / "ids.json").write_text('["two", "three", "four"]')
    with pytest.raises(SuiteError, match="2 of the questions to score are not there, 'four' for one"):
        load_suite(str(definition))
    for text, told in (("3", "expected a list or an object"), ("{", "not valid JSON")):
        (tmp_path / "ids.json").write_text(text)
        with pytest.raises(SuiteError, match=rf"ids\.json: {told}"):
            load_suite(str(definition))


def test_answers_may_be_the_words_of_an_option(write_suite: WriteSuite) -> None:
    fields = {"id": "$key", "question": "q", "answer": "key"}
    rows = {"x": {"q": "Is it?", "key": "maybe"}}
    data = {"answer": "text", "fields": fields, "options": ["yes", "no", "maybe"]}
    (question,) = load_suite(str(as_json(write_suite, rows, **data))).questions
    assert (question.choices, question.answer_index) == (("yes", "no", "maybe"), 2)
    rows["x"]["key"] = "perhaps"
    with pytest.raises(SuiteError, match="answer 'perhaps' is outside the 3 options"):
        load_suite(str(as_json(write_suite, rows, **data)))


def test_dropped_options_move_the_answer_with_them(write_suite: WriteSuite) -> None:
    rows = {"x": {"q": "Q", "options": ["N/A", "a", "N/A", "b"], "key": "D"}}
    definition = as_json(write_suite, rows, drop_options=["N/A"])
    (question,) = load_suite(str(definition)).questions
    assert (question.choices, question.answer_index) == (("a", "b"), 1)
    rows["x"]["key"] = "A"
    with pytest.raises(SuiteError, match="the answer is 'N/A', which is no option"):
        load_suite(str(as_json(write_suite, rows, drop_options=["N/A"])))


def test_passage_is_joined_line_by_line_and_names_the_content(write_suite: WriteSuite) -> None:
    fields = FIELDS | {"passage": "read"}

    def load(passage: Any) -> Any:
        rows = {"x": TWO["one"] | {"read": passage}}
        return load_suite(str(as_json(write_suite, rows, fields=fields)))

    assert load(["One.", "Two."]).questions[0].passage == "One.\nTwo."
    assert load("One.").questions[0].passage == "One."
    assert load("One.").sha256 != load("Two.").sha256
    with pytest.raises(SuiteError, match="a part of the passage is not text"):
        load(["One.", None])


def test_worked_answers_lose_what_the_prompt_says_already(write_suite: WriteSuite) -> None:
    rows = {
        "x": TWO["one"] | {"why": "A: Let's see. Blue. The answer is (A)."},
        "y": TWO["one"] | {"why": None},
        "z": TWO["one"],
    }
    definition = as_json(write_suite, rows, fields=FIELDS | {"worked": "why"}, worked_prefix="A: Let's see.")
    worked = [q.worked for q in load_suite(str(definition)).questions]
    assert worked == ["Blue. The answer is (A).", "", ""]


def test_suite_without_a_pool_has_none(write_suite: WriteSuite) -> None:
    definition = str(as_json(write_suite, TWO))
    assert load_pool(definition) == ()
    with pytest.raises(SuiteError, match="has no train or dev questions"):
        load_dev(definition)


def test_pool_keeps_what_is_also_scored(tmp_path: Path, write_suite: WriteSuite) -> None:
    """A guard before the prompt keeps a question from answering itself; here the pool is as published."""
    (tmp_path / "dev.json").write_text(json.dumps(TWO))
    definition = str(as_json(write_suite, {"one": TWO["one"]}, dev=[{"path": "dev.json"}]))
    assert [q.id for q in load_pool(definition)] == ["one", "two"]
    assert [q.id for q in load_dev(definition)] == ["two"]
    (tmp_path / "dev.json").unlink()
    with pytest.raises(SuiteError, match=r"dev\.json is not there"):
        load_pool(definition)
