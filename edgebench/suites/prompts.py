"""A question to the text an engine scores.

`letter` lists the options and asks for " A", " B", …; `cloze` asks for the option's own words. The
continuation begins with the blank that separates it from "Answer:", as in lm-eval.
"""

import re

from edgebench.core.errors import UsageError
from edgebench.core.types import Prompt, Question, Scorer, Suite
from edgebench.suites.loader import LETTERS

_FIELD = re.compile(r"\{(\w+)\}")


def build_prompt(suite: Suite, question: Question, scorer: Scorer) -> Prompt:
    """Context and continuations of one question."""
    template = suite_template(suite, scorer)
    options = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)
    )
    values = {
        "question": question.text,
        "options": options,
        "subject": question.subject.replace("_", " "),
    }
    letters = LETTERS[: len(question.choices)]
    return Prompt(
        question_id=question.id,
        # A plain replacement: question text can hold braces, and no attribute is ever looked up.
        context=_FIELD.sub(lambda match: values[match[1]], template),
        continuations=tuple(f" {c}" for c in (letters if scorer is Scorer.LETTER else question.choices)),
    )


def suite_template(suite: Suite, scorer: Scorer) -> str:
    """The suite's prompt for a scorer; UsageError when it has none."""
    if scorer not in suite.prompts:
        raise UsageError(
            f"suite {suite.name} has no prompt for --scorer {scorer}", f"it has: {', '.join(suite.prompts)}"
        )
    return suite.prompts[scorer]["context"]
