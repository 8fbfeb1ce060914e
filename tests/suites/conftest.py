"""A suite written into a temporary folder, and invented questions."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.types import Question, Scorer, Suite

WriteSuite = Callable[..., Path]

PROMPTS = """
[prompt.letter]
context = "{subject}: {question}\\n{options}\\nAnswer:"
[prompt.cloze]
context = "Question: {question}\\nAnswer:"
"""


@pytest.fixture
def write_suite(tmp_path: Path) -> WriteSuite:
    """`write_suite({"a.csv": "…"}, answer="letter")`: the definition's path; data lies beside it."""

    def write(content: Mapping[str, str | bytes], *, prompts: str = PROMPTS, **data: Any) -> Path:
        settings = {
            "format": "csv",
            "header": False,
            "answer": "letter",
            "fields": {"question": 0, "choices": [1, 2], "answer": 3},
            "files": [{"path": name, "subject": Path(name).stem} for name in content],
        } | data
        for name, text in content.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        definition = tmp_path / "mine.toml"
        body = "\n".join(f"{key} = {toml(value)}" for key, value in settings.items())
        definition.write_text(f'name = "mine"\nversion = "3"\n[data]\n{body}\n{prompts}', encoding="utf-8")
        return definition

    return write


def toml(value: object) -> str:
    """A value as TOML writes it; JSON's spelling does for all but tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture
def make_suite() -> Callable[..., Suite]:
    """`make_suite(questions, seed=1)`."""

    def make(questions: list[Question], **more: Any) -> Suite:
        fields: dict[str, Any] = {
            "name": "mine",
            "version": "1",
            "title": "mine",
            "sha256": "0" * 64,
            "questions": tuple(questions),
            "default_scorer": Scorer.LETTER,
            "prompts": {},
            "license": "CC0-1.0",
            "citation": "",
            "source": "",
        }
        return Suite(**(fields | more))

    return make
