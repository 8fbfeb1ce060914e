import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import SuiteError
from edgebench.suites.loader import load_dev, load_suite

WriteSuite = Callable[..., Path]

NAMED = {"question": "q", "choices": "options", "answer": "key", "subject": "topic", "id": "id"}


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def row(**more: Any) -> dict[str, Any]:
    return {"id": "x1", "q": "Sky?", "options": ["blue", "red"], "key": 0, "topic": "nature"} | more


def load_json(write_suite: WriteSuite, *rows: Any, **data: Any) -> Any:
    settings = {"format": "jsonl", "answer": "index", "fields": NAMED, "files": [{"path": "a.jsonl"}]}
    return load_suite(str(write_suite({"a.jsonl": jsonl(*rows)}, **(settings | data))))


def test_headerless_csv(write_suite: WriteSuite) -> None:
    suite = load_suite(str(write_suite({"birds.csv": "Who sings?,owl,robin,B\n Who hoots? , owl ,wren,a\n"})))
    first, second = suite.questions
    assert (first.text, first.choices, first.answer_index) == ("Who sings?", ("owl", "robin"), 1)
    assert (second.text, second.choices, second.answer_index) == ("Who hoots?", (" owl ", "wren"), 0)
    assert [q.id for q in suite.questions] == ["birds-000", "birds-001"]
    assert {q.subject for q in suite.questions} == {"birds"}


def test_csv_with_names_and_a_byte_order_mark(write_suite: WriteSuite) -> None:
    fields = {"question": "q", "choices": ["a", "b"], "answer": "key"}
    text = "q,a,b,key\nWo?,Köln,Bonn,2\n".encode("utf-8-sig")
    definition = write_suite({"a.csv": text}, header=True, fields=fields, answer="number")
    (question,) = load_suite(str(definition)).questions
    assert (question.text, question.choices, question.answer_index) == ("Wo?", ("Köln", "Bonn"), 1)


def test_jsonl_with_its_own_ids_and_subjects(write_suite: WriteSuite) -> None:
    suite = load_json(write_suite, row(), row(id=2, q="Grass?", options=["green", "red", "blue"], key="2"))
    assert [q.id for q in suite.questions] == ["x1", "2"]
    assert [q.answer_index for q in suite.questions] == [0, 2]
    assert suite.questions[0].subject == "nature"


def test_jsonl_may_begin_with_a_byte_order_mark(write_suite: WriteSuite) -> None:
    content = jsonl(row()).encode("utf-8-sig")
    definition = write_suite(
        {"a.jsonl": content}, format="jsonl", answer="index", fields=NAMED, files=[{"path": "a.jsonl"}]
    )
    assert len(load_suite(str(definition)).questions) == 1


@pytest.mark.parametrize(
    ("form", "text", "index"),
    [("letter", "B", 1), ("letter", " b ", 1), ("index", "1", 1), ("number", "1", 0), ("number", "2", 1)],
)
def test_answers_by_letter_index_or_number(write_suite: WriteSuite, form: str, text: str, index: int) -> None:
    suite = load_suite(str(write_suite({"a.csv": f"Q,x,y,{text}\n"}, answer=form)))
    assert suite.questions[0].answer_index == index


@pytest.mark.parametrize(
    ("form", "text"),
    [
        *[("letter", t) for t in ("C", "AB", "1", "", "ß", "?")],
        *[("index", t) for t in ("2", "-1", "A", "", "1.0", "²", "--1")],
        *[("number", t) for t in ("0", "3")],
    ],
)
def test_answer_outside_the_options_is_refused(write_suite: WriteSuite, form: str, text: str) -> None:
    with pytest.raises(SuiteError, match=r"a\.csv:2: "):
        load_suite(
            str(
                write_suite({"a.csv": f"Q,x,y,{'A' if form == 'letter' else 1}\nQ,x,y,{text}\n"}, answer=form)
            )
        )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Q,x,y,A\nQ,x,y\n", r"a\.csv:2: no column 3"),
        ("Q,x,y,A\n\n\n ,x,y,A\n", r"a\.csv:4: the question is empty"),
        ("Q,x, ,A\n", r"a\.csv:1: .*none of them empty"),
        # Three lines of one quoted cell and an empty line come before the mistake.
        ('"one\ntwo\nthree",x,y,A\n\nQ,x,y,Z\n', r"a\.csv:5: answer 'Z'"),
        # The mistake is in a row of several lines: its first is told.
        ('Q,x,y,A\n"one\ntwo",x,y,Z\n', r"a\.csv:2: answer 'Z'"),
        ('Q,x,y,A\nQ,"x"y,z,A\n', r"a\.csv:2: not valid CSV"),
        ("Q,x,y,A\nQ,x,y,A\0\n", r"a\.csv:2: "),
        ('Q,x,y,A\nQ,"x,y,A\n', r"a\.csv:2: not valid CSV"),
    ],
)
def test_mistake_in_a_csv_is_told_with_its_line(write_suite: WriteSuite, text: str, told: str) -> None:
    with pytest.raises(SuiteError, match=told):
        load_suite(str(write_suite({"a.csv": text})))


def test_line_numbers_count_the_row_of_names(write_suite: WriteSuite) -> None:
    fields = {"question": "q", "choices": ["a", "b"], "answer": "key"}
    definition = write_suite({"a.csv": 'q,a,b,"the\nkey"\nQ,x,y,A\n'}, header=True, fields=fields)
    with pytest.raises(SuiteError, match=r"a\.csv:3: no column 'key'"):
        load_suite(str(definition))
    definition = write_suite({"a.csv": "q,a,b,key\nQ,x,y,A,more\n"}, header=True, fields=fields)
    with pytest.raises(SuiteError, match=r"a\.csv:2: 5 cells, but 4 columns"):
        load_suite(str(definition))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object, found list"),
        (json.dumps({"q": "Q", "id": 1, "topic": ""}), "no column 'options'"),
        (json.dumps(row(q=["Q"])), "the question is not text but list"),
        (json.dumps(row(q="\ud800")), "surrogates not allowed"),
        (json.dumps(row(id="")), "the id is empty"),
        (json.dumps(row(id=True)), "the id is not text but bool"),
        (json.dumps(row(options=["blue", {}])), "an option is not text but dict"),
        (json.dumps(row(options={"A": "blue", "C": "red"})), "the options are A, C, not A, B"),
        ("[" * 100_000, "not valid JSON"),
        (json.dumps(row(options="blue")), "the options are not a list but str"),
        (json.dumps(row(options=["blue"])), "2 to 26 options"),
        (json.dumps(row(options=[str(i) for i in range(27)])), "2 to 26 options"),
        (json.dumps(row(options=["blue", None])), "an option is null"),
        (json.dumps(row(q=None)), "'q' is null"),
        (json.dumps(row(key=2)), "answer '2' is outside the 2 options"),
        (json.dumps(row(key=True)), "answer 'True' is outside"),
    ],
)
def test_mistake_in_a_jsonl_is_told_with_its_line(write_suite: WriteSuite, line: str, told: str) -> None:
    definition = write_suite(
        {"a.jsonl": jsonl(row()) + "\n" + line + "\n"},
        format="jsonl",
        answer="index",
        fields=NAMED,
        files=[{"path": "a.jsonl"}],
    )
    with pytest.raises(SuiteError, match=rf"a\.jsonl:3: .*{told}"):
        load_suite(str(definition))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_that_is_not_utf8_is_told_with_its_line(write_suite: WriteSuite, form: str) -> None:
    content = b"Q,x,y,A\nGr\xfc\xdfe,x,y,A\n" if form == "csv" else b'{"q": "Gr\xfc\xdfe"}\n'
    line = 2 if form == "csv" else 1
    with pytest.raises(SuiteError, match=rf"a\.{form}:{line}: not UTF-8"):
        load_suite(str(write_suite({f"a.{form}": content}, format=form)))


def test_columns_by_number_need_a_file_without_names(write_suite: WriteSuite) -> None:
    with pytest.raises(SuiteError, match=r"a\.csv:1: field 'q' does not fit this file"):
        load_suite(
            str(write_suite({"a.csv": "Q,x,y,A\n"}, fields={"question": "q", "choices": [1, 2], "answer": 3}))
        )


def test_two_questions_with_one_id_are_refused(write_suite: WriteSuite) -> None:
    with pytest.raises(SuiteError, match=r"a\.jsonl:2: the id 'x1' stands in .*a\.jsonl:1 already"):
        load_json(write_suite, row(), row(q="Another?"))


def test_suite_without_questions_is_refused(write_suite: WriteSuite) -> None:
    with pytest.raises(SuiteError, match="suite mine has no questions"):
        load_suite(str(write_suite({"a.csv": "\n"})))


# Where the data is ------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["mmlu/test/a.csv", "test/a.csv", "a.csv"])
def test_data_is_found_by_its_last_parts(tmp_path: Path, write_suite: WriteSuite, inside: str) -> None:
    definition = write_suite({}, root="data", files=[{"path": "mmlu/test/a.csv", "subject": "a"}])
    path = tmp_path / "elsewhere" / inside
    path.parent.mkdir(parents=True)
    path.write_text("Q,x,y,A\n")
    assert len(load_suite(str(definition), tmp_path / "elsewhere").questions) == 1


def test_missing_data_says_what_was_looked_for(tmp_path: Path, write_suite: WriteSuite) -> None:
    definition = write_suite({}, root="data", files=[{"path": "mmlu/a.csv"}])
    with pytest.raises(SuiteError, match=r"suite mine needs its data: mmlu/a\.csv") as caught:
        load_suite(str(definition))
    assert caught.value.hint == "give --data DIR"
    with pytest.raises(SuiteError, match=f"{tmp_path}/mmlu/a.csv is not there"):
        load_suite(str(definition), tmp_path)


def test_data_beside_the_definition_needs_no_folder(tmp_path: Path, write_suite: WriteSuite) -> None:
    definition = write_suite({"a.csv": "Q,x,y,A\n"})
    assert len(load_suite(str(definition), tmp_path / "not there").questions) == 1


# What names the content -------------------------------------------------------------------------


def test_pinned_data_gives_the_plain_id(write_suite: WriteSuite) -> None:
    text = "Q,x,y,A\n"
    pin = hashlib.sha256(text.encode()).hexdigest()
    suite = load_suite(str(write_suite({"a.csv": text}, files=[{"path": "a.csv", "sha256": pin}])))
    assert suite.verified
    assert suite.id == "mine@3"


@pytest.mark.parametrize("pin", [None, "0" * 64])
def test_data_that_is_not_the_pinned_one_changes_the_id(write_suite: WriteSuite, pin: str | None) -> None:
    def identity(text: str) -> str:
        file = {"path": "a.csv"} | ({"sha256": pin} if pin else {})
        suite = load_suite(str(write_suite({"a.csv": text}, files=[file])))
        assert not suite.verified
        assert suite.id == f"mine@3+{suite.sha256[:8]}"
        return suite.id

    assert identity("Q,x,y,A\n") != identity("Q,x,y,B\n")


def test_hash_covers_everything_that_is_asked(write_suite: WriteSuite) -> None:
    changes = [{}, {"id": "x2"}, {"q": "Sea?"}, {"options": ["blue", "grey"]}, {"key": 1}, {"topic": "sky"}]
    hashes = {load_json(write_suite, row(**change)).sha256 for change in changes}
    assert len(hashes) == len(changes)
    assert load_json(write_suite, row()).sha256 in hashes


def test_dev_questions_that_are_scored_are_left_out(tmp_path: Path) -> None:
    def row(text: str) -> str:
        return json.dumps({"q": text, "c": ["yes", "no"], "a": 0}) + "\n"

    (tmp_path / "test.jsonl").write_text(row("one?") + row("two?"))
    (tmp_path / "dev.jsonl").write_text(row("two?") + row("three?"))
    suite = tmp_path / "mine.toml"
    head = 'name = "mine"\nversion = "1"\n[data]\nformat = "jsonl"\nanswer = "index"\n'
    head += 'fields = { question = "q", choices = "c", answer = "a" }\n'
    files = '[[data.files]]\npath = "test.jsonl"\n[[data.dev]]\npath = "dev.jsonl"\n'
    prompt = '[prompt.cloze]\ncontext = "{question}"\n'
    suite.write_text(head + files + prompt)
    assert [q.text for q in load_dev(str(suite))] == ["three?"]
    (tmp_path / "dev.jsonl").write_text(row("one?"))
    with pytest.raises(SuiteError, match="every dev question is also one of those scored"):
        load_dev(str(suite))
    suite.write_text(head + files.replace("dev.jsonl", "test.jsonl") + prompt)
    with pytest.raises(SuiteError, match="is scored, so it can't be in `dev`"):
        load_dev(str(suite))
    suite.write_text(head + files.split("[[data.dev]]")[0] + prompt)
    with pytest.raises(SuiteError, match="has no train or dev questions"):
        load_dev(str(suite))
