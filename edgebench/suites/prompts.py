"""A question to the text an engine scores or goes on from.

`letter` lists the options and asks for " A", " B", …; `cloze` asks for the option's own words; `generate`
lists the options and lets the model write. The parts are joined as lm-eval joins them: description,
worked examples, question; a continuation begins with the blank that separates it from "Answer:".
"""

import re
from collections.abc import Sequence

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.types import Prompt, PromptTemplate, Question, Scorer, Suite

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_FIELD = re.compile(r"\{(\w+)\}")


def build_prompt(
    suite: Suite,
    question: Question,
    scorer: Scorer,
    *,
    shots: Sequence[Question] = (),
    rotation: int = 0,
    chat: bool = False,
) -> Prompt:
    """Context and continuations of one question, after its worked examples.

    In rotation r, place j shows option (j + r) mod k; worked examples are never rotated. `chat` leaves out
    the blank before a continuation: under a chat template the answer begins a turn.
    """
    template = suite_template(suite, scorer)
    shown = rotated(question.choices, rotation)
    examples = [
        _filled(template.context, shot, shot.choices)
        + template.delimiter
        + _target(shot, scorer)
        + template.shot_delimiter
        for shot in shots
    ]
    context = _filled(template.context, question, shown)
    answers: Sequence[str] = ()
    if scorer is not Scorer.GENERATE:
        answers = LETTERS[: len(shown)] if scorer is Scorer.LETTER else shown
    return Prompt(
        question_id=question.id,
        context="".join([_filled(template.description, question, shown), *examples, context]),
        continuations=tuple(("" if chat else template.delimiter) + answer for answer in answers),
        rotation=rotation,
        n_shots=len(shots),
    )


def rotated(choices: Sequence[str], rotation: int) -> tuple[str, ...]:
    """The options as rotation r shows them: place j holds option (j + r) mod k."""
    return tuple(choices[(j + rotation) % len(choices)] for j in range(len(choices)))


def suite_template(suite: Suite, scorer: Scorer) -> PromptTemplate:
    """The suite's prompt for a scorer; UsageError when it has none."""
    if scorer not in suite.prompts:
        raise UsageError(
            f"suite {suite.name} has no prompt for --scorer {scorer}", f"it has: {', '.join(suite.prompts)}"
        )
    return suite.prompts[scorer]


def _target(shot: Question, scorer: Scorer) -> str:
    if shot.answer_index is None:
        raise SuiteError(f"worked example {shot.id} has no answer")
    if scorer is Scorer.GENERATE and shot.worked:
        return shot.worked
    return shot.choices[shot.answer_index] if scorer is Scorer.CLOZE else LETTERS[shot.answer_index]


def _filled(text: str, question: Question, shown: Sequence[str]) -> str:
    values = {
        "question": question.text,
        "options": "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, shown, strict=False)),
        "subject": question.subject.replace("_", " "),
        "passage": question.passage,
    }
    # A plain replacement: question text can hold braces, and no attribute is ever looked up.
    return _FIELD.sub(lambda match: values[match[1]], text)
