"""Whatever is in a file: questions as they stand in it, or one line that tells where it is wrong."""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.core.errors import EdgebenchError
from edgebench.suites.loader import load_suite
from edgebench.suites.prompts import LETTERS

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).map(str.strip)
WORDS = TEXT.filter(bool)
QUESTION = st.lists(WORDS, min_size=2, max_size=8).flatmap(
    lambda choices: st.tuples(WORDS, st.just(choices), st.integers(0, len(choices) - 1))
)
QUESTIONS = st.lists(QUESTION, min_size=1, max_size=5)

DEFINITION = """
name = "mine"
version = "1"
[data]
format = "{form}"
answer = "{answer}"
fields = {{ question = "q", choices = "c", answer = "a"{more} }}
files = [{{ path = "a.file" }}]
[prompt.cloze]
context = "{{question}}"
"""


def load(content: bytes, form: str, answer: str = "index", more: str = "") -> Any:
    with tempfile.TemporaryDirectory() as folder:
        definition = Path(folder) / "mine.toml"
        definition.write_text(DEFINITION.format(form=form, answer=answer, more=more), encoding="utf-8")
        (Path(folder) / "a.file").write_bytes(content)
        return load_suite(str(definition))


@given(QUESTIONS, st.sampled_from(["index", "number", "letter"]), st.booleans(), st.sampled_from([None, 1]))
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_what_is_read(
    questions: list[Any], answer: str, escaped: bool, indent: int | None
) -> None:
    spelled = {"index": lambda i: i, "number": lambda i: i + 1, "letter": lambda i: LETTERS[i]}[answer]
    rows = {
        f"id {n}": {"q": q, "c": dict(zip(LETTERS, c, strict=False)), "a": spelled(i)}
        for n, (q, c, i) in enumerate(questions)
    }
    by_key = json.dumps(rows, ensure_ascii=escaped, indent=indent).encode()
    by_line = "\n".join(json.dumps({**row, "id": key}) for key, row in rows.items()).encode()
    expected = [(q, tuple(c), i) for q, c, i in questions]
    suites = [load(by_key, "json", answer, ', id = "$key"'), load(by_line, "jsonl", answer, ', id = "id"')]
    for suite in suites:
        assert [(q.text, q.choices, q.answer_index) for q in suite.questions] == expected
    assert suites[0].sha256 == suites[1].sha256


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, st.sampled_from("AB")), min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_csv_holds_quotes_commas_and_line_breaks(rows: list[tuple[str, ...]]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([("q", "x", "y", "a"), *rows])
    definition = DEFINITION.format(form="csv", answer="letter", more="").replace('"c"', '["x", "y"]')
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mine.toml").write_text(definition, encoding="utf-8")
        with (Path(folder) / "a.file").open("w", encoding="utf-8", newline="") as file:
            file.write(out.getvalue())
        suite = load_suite(str(Path(folder) / "mine.toml"))
    assert [(q.text, *q.choices, LETTERS[q.answer_index or 0]) for q in suite.questions] == rows


@given(QUESTIONS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_order_of_the_rows_does_not_name_the_content(questions: list[Any], random: Any) -> None:
    rows = [{"q": q, "c": c, "a": i, "id": n} for n, (q, c, i) in enumerate(questions)]
    shuffled = random.sample(rows, len(rows))
    hashes = {
        load("\n".join(map(json.dumps, order)).encode(), "jsonl", more=', id = "id"').sha256
        for order in (rows, shuffled)
    }
    assert len(hashes) == 1


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["q", "c", "a", "A", "B"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.binary(max_size=60) | VALUE.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["csv", "jsonl", "json", "parquet"]),
)
@settings(deadline=None, max_examples=150)
def test_no_content_ends_in_anything_but_a_line_that_names_the_file(content: bytes, form: str) -> None:
    told = "a.file has no questions"
    try:
        load(content, form)
    except EdgebenchError as error:
        told = error.message
    assert "\n" not in told
    assert "a.file" in told or "has no questions" in told
