"""A row to a question, by the fields a definition names. ValueError and KeyError say what is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.core.types import Question
from edgebench.suites.definition import DataFile, Form
from edgebench.suites.prompts import LETTERS


def is_wanted(form: Form, row: Any) -> bool:
    """Whether the definition keeps a row."""
    return all(str(_cell(row, key)) in values for key, values in form.where.items())


def own_id(form: Form, row: Any) -> str | None:
    """The id a row brings; None where rows have none."""
    return _text(_cell(row, form.fields["id"]), "the id") if "id" in form.fields else None


def subject_of(form: Form, file: DataFile, row: Any) -> str:
    """A row's subject: its file's, or what its own field says."""
    if file.subject is not None:
        return file.subject
    return _text(_cell(row, form.fields["subject"]), "the subject") if "subject" in form.fields else ""


def make_question(form: Form, row: Any, *, question_id: str, subject: str) -> Question:
    """The question a row holds."""
    fields = form.fields
    # Blanks at the ends of options are kept, as lm-eval keeps them; of questions where its task does.
    text = _text(_cell(row, fields["question"]), "the question", strip=not form.keep_blanks)
    given = form.options or _choices(row, fields["choices"])
    kept = [i for i, choice in enumerate(given) if choice.strip() not in form.drop_options]
    choices = tuple(given[i] for i in kept)
    if not text.strip():
        raise ValueError("the question is empty")
    if not question_id:
        raise ValueError("the id is empty")
    if not 2 <= len(choices) <= len(LETTERS) or not all(choice.strip() for choice in choices):
        raise ValueError(f"a question needs 2 to {len(LETTERS)} options, none of them empty")
    answer = None
    if form.answer != "none":
        place = _answer(_cell(row, fields["answer"]), form.answer, given)
        if place not in kept:
            raise ValueError(f"the answer is {given[place]!r}, which is no option")
        answer = kept.index(place)
    return Question(
        id=question_id,
        text=text,
        choices=choices,
        answer_index=answer,
        subject=subject,
        passage=_passage(_cell(row, fields["passage"])) if "passage" in fields else "",
        worked=_worked(row, form) if "worked" in fields else "",
    )


def _cell(row: Any, key: int | str) -> Any:
    if isinstance(row, list) and isinstance(key, int):
        if not 0 <= key < len(row):
            raise KeyError(key)
        return row[key]
    if isinstance(row, Mapping):
        if (cell := row[str(key)]) is None:
            raise ValueError(f"{key!r} is null")
        return cell
    raise ValueError(f"field {key!r} does not fit this file: name columns when it has names")


def _text(value: Any, what: str, *, strip: bool = True) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{what} is not text but {type(value).__name__}")
    text = str(value).strip() if strip else str(value)
    if not text.isascii():
        text.encode()  # half a surrogate pair, which JSON can spell, is no text: a ValueError
    return text


def _choices(row: Any, key: int | str | Sequence[int | str]) -> tuple[str, ...]:
    cells = _cell(row, key) if isinstance(key, int | str) else [_cell(row, k) for k in key]
    if isinstance(cells, Mapping):
        letters = LETTERS[: len(cells)]
        if set(cells) != set(letters):
            raise ValueError(f"the options are {', '.join(map(str, cells))}, not A, B, …")
        cells = [cells[letter] for letter in letters]
    if not isinstance(cells, list):
        raise ValueError(f"the options are not a list but {type(cells).__name__}")
    if None in cells:
        raise ValueError("an option is null")
    return tuple(_text(cell, "an option", strip=False) for cell in cells)


def _answer(value: Any, form: str, given: Sequence[str]) -> int:
    text = str(value).strip()
    index = -1
    match form:
        case "letter":
            index = LETTERS.find(text.upper()) if len(text) == 1 else -1
        case "text":
            plain = [choice.strip() for choice in given]
            index = plain.index(text) if plain.count(text) == 1 else -1
        case _ if text.isdecimal() and text.isascii():
            index = int(text[:9]) - (form == "number")
    if not 0 <= index < len(given):
        raise ValueError(f"answer {text[:80]!r} is outside the {len(given)} options")
    return index


def _passage(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(_text(part, "a part of the passage") for part in value)
    return _text(value, "the passage")


def _worked(row: Any, form: Form) -> str:
    """The answer in full; rows may lack it."""
    value = row.get(form.fields["worked"]) if isinstance(row, Mapping) else _cell(row, form.fields["worked"])
    return "" if value is None else _text(value, "`worked`").removeprefix(form.worked_prefix).strip()
