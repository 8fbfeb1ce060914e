import dataclasses
from collections.abc import Callable

import pytest

from edgebench.core.errors import SuiteError, UsageError
from edgebench.core.types import PromptTemplate, Question, Scorer, Suite
from edgebench.suites.definition import find_definition
from edgebench.suites.prompts import build_prompt

MakeSuite = Callable[..., Suite]

QUESTION = Question(
    id="q1",
    text="Which organ pumps blood?",
    choices=("liver", "heart", "lung", "skin"),
    answer_index=1,
    subject="college_medicine",
)


@pytest.fixture
def mmlu(make_suite: MakeSuite) -> Suite:
    return make_suite([QUESTION], prompts=find_definition("mmlu-medical").prompts)


def test_letters_are_asked_as_lm_eval_asks_mmlu(mmlu: Suite) -> None:
    prompt = build_prompt(mmlu, QUESTION, Scorer.LETTER)
    assert prompt.context == (
        "The following are multiple choice questions (with answers) about college medicine.\n\n"
        "Which organ pumps blood?\nA. liver\nB. heart\nC. lung\nD. skin\nAnswer:"
    )
    assert prompt.continuations == (" A", " B", " C", " D")
    assert prompt.question_id == "q1"


def test_cloze_asks_for_the_options_own_words(mmlu: Suite) -> None:
    prompt = build_prompt(mmlu, QUESTION, Scorer.CLOZE)
    assert prompt.context == "Question: Which organ pumps blood?\nAnswer:"
    assert prompt.continuations == (" liver", " heart", " lung", " skin")


@pytest.mark.parametrize(
    "text", ["{", "}", "{subject}", "{{options}}", "{0}", "{question.__class__}", "%s \\1 \\g<0>", "$x"]
)
def test_text_of_a_question_is_never_a_template(make_suite: MakeSuite, text: str) -> None:
    question = Question(id="q", text=text, choices=(text, "no"), answer_index=0, subject="s")
    suite = make_suite(
        [question], prompts={Scorer.LETTER: PromptTemplate(context="{subject}|{question}|{options}|{x y}")}
    )
    assert build_prompt(suite, question, Scorer.LETTER).context == f"s|{text}|A. {text}\nB. no|{{x y}}"


def test_as_many_letters_as_options(make_suite: MakeSuite) -> None:
    question = Question(id="q", text="?", choices=tuple(map(str, range(10))), answer_index=9)
    prompt = build_prompt(
        make_suite([question], prompts={Scorer.LETTER: PromptTemplate(context="{options}")}),
        question,
        Scorer.LETTER,
    )
    assert prompt.continuations[-1] == " J"
    assert prompt.context.endswith("\nJ. 9")


def test_scorer_without_a_prompt_is_refused(make_suite: MakeSuite) -> None:
    suite = make_suite([QUESTION], prompts={Scorer.CLOZE: PromptTemplate(context="{question}")})
    with pytest.raises(UsageError, match="no prompt for --scorer letter") as caught:
        build_prompt(suite, QUESTION, Scorer.LETTER)
    assert caught.value.hint == "it has: cloze"


def test_worked_examples_stand_between_description_and_question(mmlu: Suite) -> None:
    shot = dataclasses.replace(QUESTION, id="q2", text="Which organ makes bile?", answer_index=0)
    options = "\nA. liver\nB. heart\nC. lung\nD. skin\nAnswer:"
    prompt = build_prompt(mmlu, QUESTION, Scorer.LETTER, shots=[shot])
    assert prompt.context == (
        "The following are multiple choice questions (with answers) about college medicine.\n\n"
        f"Which organ makes bile?{options} A\n\nWhich organ pumps blood?{options}"
    )
    assert prompt.n_shots == 1
    cloze = build_prompt(mmlu, QUESTION, Scorer.CLOZE, shots=[shot])
    assert cloze.context.startswith("Question: Which organ makes bile?\nAnswer: liver\n\nQuestion:")


def test_worked_example_without_an_answer_is_refused(mmlu: Suite) -> None:
    shot = dataclasses.replace(QUESTION, id="q2", answer_index=None)
    with pytest.raises(SuiteError, match="worked example q2 has no answer"):
        build_prompt(mmlu, QUESTION, Scorer.LETTER, shots=[shot])


def test_reasoning_of_a_worked_example_is_shown_where_the_model_writes(make_suite: MakeSuite) -> None:
    template = PromptTemplate(context="Q: {question}\nA:", n_gen=8)
    suite = make_suite([QUESTION], prompts={Scorer.GENERATE: template, Scorer.LETTER: template})
    shot = dataclasses.replace(QUESTION, id="q2", worked="It pumps. The answer is (B).")
    written = build_prompt(suite, QUESTION, Scorer.GENERATE, shots=[shot])
    assert written.context.startswith("Q: Which organ pumps blood?\nA: It pumps. The answer is (B).\n\n")
    assert written.continuations == ()
    assert "It pumps" not in build_prompt(suite, QUESTION, Scorer.LETTER, shots=[shot]).context


def test_rotations_move_the_options_and_not_the_letters(mmlu: Suite) -> None:
    prompt = build_prompt(mmlu, QUESTION, Scorer.LETTER, rotation=1)
    assert "\nA. heart\nB. lung\nC. skin\nD. liver\nAnswer:" in prompt.context
    assert (prompt.continuations, prompt.rotation) == ((" A", " B", " C", " D"), 1)


def test_under_a_chat_template_the_answer_begins_a_turn(mmlu: Suite) -> None:
    assert build_prompt(mmlu, QUESTION, Scorer.LETTER, chat=True).continuations == ("A", "B", "C", "D")


@pytest.mark.parametrize("name", ["everyday", "mmlu-medical"])
def test_built_in_contexts_end_without_a_blank(name: str) -> None:
    # A trailing blank would move to the continuation in lm-eval; ours carries it from the start.
    for prompt in find_definition(name).prompts.values():
        assert prompt.context.endswith("Answer:")
