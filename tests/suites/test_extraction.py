"""What counts as an answer in a model's own words, on invented examples and on real ones."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.core.types import Question
from edgebench.suites.extraction import extract
from edgebench.suites.prompts import LETTERS


def question(*choices: str) -> Question:
    return Question(id="q", text="?", choices=choices, answer_index=0)


FOUR = question("Lime", "Salt", "Chalk", "Ash")
TEN = question(*(f"word{i}" for i in range(10)))
DECIDE = question("yes", "no", "maybe")
TERMS = question("Vitamin A", "Vitamin D", "C. albicans", "none")


def letter(text: str, asked: Question = FOUR, rotation: int = 0) -> str | None:
    index = extract(text, asked, rotation=rotation).choice_index
    return None if index is None else LETTERS[index]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("json", '{"step_by_step_thinking": "The answer is A.", "answer_choice": "B"}'),
        ("json", '{"answer_choice": "B) Salt"}'),
        ("json", '{"answer_choice": "(B)"}'),
        ("json", '{"answer_choice": "salt"}'),
        ("json", '{"answer_choice": B}'),
        ("json", "{'answer': 'B'}"),
        ("json", '```json\n{"final_answer": "B. Salt\\n"}\n```'),
        ("json", '{"answer_choice": "B'),
        ("boxed", r"So it is \boxed{B}."),
        ("boxed", r"The answer is $\boxed{\text{B}}$"),
        ("boxed", r"\boxed{(B) Salt}"),
        ("answer_is", "The answer is (B)."),
        ("answer_is", "the answer is B"),
        ("answer_is", "Let's think step by step. (A) is too old. The answer is **B**."),
        ("answer_is", "The correct answer is:\n\n**B. Salt**"),
        ("answer_is", "The best option would be (b)."),
        ("answer_is", "The answer is salt."),
        ("answer_is", "The answer is B because salt dissolves."),
        ("answer_is", "The answer is B, I think."),
        ("answer_is", "The answer is B. The answer is B."),
        ("answer_is", "<think>The answer is A.</think>The answer is B."),
        ("answer_is", "it is A, the answer is A </think> The answer is B."),
        ("answer_colon", "Answer: B"),
        ("answer_colon", "**Answer:** B"),
        ("answer_colon", "Answer： Ｂ"),
        ("answer_colon", "final answer: b"),
        ("answer_colon", "Answer: salt"),
        ("answer_colon", "answer_choice = B"),
        ("is_correct", "B is correct."),
        ("is_correct", "Option B is the correct answer"),
        ("is_correct", "A is wrong, B is right."),
        ("words", "Salt"),
        ("words", "Salt, as it dissolves."),
        ("words", "It dissolves.\nsalt."),
        ("line", "B"),
        ("line", "b"),
        ("line", " B.\n"),
        ("line", "(B)"),
        ("line", "**B**"),
        ("line", "B</s>"),
        ("line", "B<|im_end|>"),
        ("line", "B\n\nIt dissolves."),
        ("line", "B\n\nQuestion: Which is red?\nA. …\nB. …"),
        ("bold", "It dissolves, thus **B. Salt**"),
        ("brackets", "It dissolves, which leaves (B)"),
        ("brackets", "It is [B]"),
        ("mark", "B. Salt"),
        ("mark", "B) Salt"),
        ("mark", "B: Salt"),
        ("mark", "b) Salt"),
        ("mark", "* B. Salt"),
        ("mark", "B. salt diss"),
        ("begins", "B because it dissolves"),
        ("begins", "B - Salt"),
        ("begins", "B, Salt"),
        ("begins", "B Salt"),
        ("lone", "I would choose B."),
        ("lone", "It must be option B since it dissolves"),
        ("lone", "It dissolves.\nTherefore, B"),
    ],
)
def test_an_answer_in_each_style_is_read_by_its_rule(rule: str, text: str) -> None:
    found = extract(text, FOUR)
    assert (found.choice_index, found.rule) == (1, rule)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A patient with gout should drink water",
        "A Patient should drink",
        "The answer is a patient who drinks",
        "The answer is A patient",
        "The answer is Acute gout",
        "The answer is not A.",
        "The answer is unclear.",
        "(A) is wrong",
        "B is incorrect.",
        "Hepatitis B is likely",
        "Vitamin D.",
        "C reactive protein",
        "B-cells",
        "B cells",
        "symptom(s) of (n) kinds",
        "1. The first",
        "A B C D",
        "The salt is fine",
        "<think>The answer is B",
    ],
)
def test_what_names_no_option_is_no_answer(text: str) -> None:
    assert extract(text, FOUR).choice_index is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("json", '{"answer_choice": "A/B"}'),
        ("json", '{"answer_choice": "A"} {"answer_choice": "B"}'),
        ("json", '{"answer_choice": "E"}'),
        ("json", '{"answer_choice": ""}'),
        ("json", '{"answer_choice": "None of the above"} The answer is B.'),
        ("boxed", r"\boxed{E}, the answer is A"),
        ("answer_is", "The answer is B. No, the answer is C."),
        ("answer_is", "The answer is either A or B."),
        ("answer_is", "The answer is E."),
        ("answer_colon", "Answer: A, B"),
        ("line", "A\nB\nC\nD"),
        ("line", "E"),
        ("bold", "**A. Lime** or **B. Salt**"),
        ("brackets", "(A) or (B)"),
        ("mark", "A. Lime\nB. Salt\nC. Chalk\nD. Ash"),
        ("begins", "A and C are both right"),
        ("begins", "A or B"),
    ],
)
def test_a_contradiction_or_a_letter_outside_ends_the_search(rule: str, text: str) -> None:
    found = extract(text, FOUR)
    assert (found.choice_index, found.rule) == (None, rule)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that. (A) A doctor can.",
        "I cannot answer medical questions.",
        "As an AI, I have no opinion: B",
        "The response was filtered because of a content management policy. A",
    ],
)
def test_a_refusal_is_no_answer(text: str) -> None:
    assert extract(text, TEN) == extract(text, FOUR)
    assert (extract(text, TEN).choice_index, extract(text, TEN).rule) == (None, "refusal")


def test_an_answer_after_a_disclaimer_is_one() -> None:
    assert letter("I'm sorry to hear that. The answer is B.") == "B"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "A"),
        ("No, it does not.", "B"),
        ("maybe.", "C"),
        ("Answer: maybe", "C"),
        ("A. yes", "A"),
        ("The answer is no doubt hard", None),
        ("Yes and no", None),
        ("D", None),
    ],
)
def test_yes_no_and_maybe_are_answers_when_they_stand_alone(text: str, expected: str | None) -> None:
    assert letter(text, DECIDE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Vitamin D", "B"),
        ("It is Vitamin A", None),
        ("The answer is Vitamin D.", "B"),
        ("C. albicans", "C"),
        ("The answer is C. albicans.", "C"),
        ("B. Vitamin D", "B"),
        ("D. None", "D"),
    ],
)
def test_letters_inside_an_options_words_name_nothing(text: str, expected: str | None) -> None:
    assert letter(text, TERMS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I think it is (D)", "D"),
        ("I think so", None),
        ("I", "I"),
        ("I. word8", "I"),
        ("E. coli does it", None),
    ],
)
def test_the_pronoun_is_an_answer_only_where_it_can_not_be_one(text: str, expected: str | None) -> None:
    assert letter(text, TEN) == expected


def test_a_letter_wins_over_an_option_that_is_a_letter() -> None:
    assert letter("A", question("D", "C", "B", "A")) == "A"


def test_options_of_the_same_words_can_not_be_told_apart() -> None:
    assert letter("same", question("same", "same", "other")) is None
    assert letter("other", question("same", "same", "other")) == "C"


def test_an_option_that_speaks_of_others_is_itself() -> None:
    assert letter("A and B", question("Lime", "Salt", "A and B", "neither")) == "C"


@pytest.mark.parametrize("rotation", range(4))
def test_letters_are_places_and_words_are_not(rotation: int) -> None:
    shown = [FOUR.choices[(j + rotation) % 4] for j in range(4)]
    for place, words in enumerate(shown):
        stored = FOUR.choices.index(words)
        for text in (f"The answer is {LETTERS[place]}", f"{LETTERS[place]}. {words}", words):
            assert extract(text, FOUR, rotation=rotation).choice_index == stored


# Properties

FRAGMENTS = (
    *(
        "the answer is",
        "Answer:",
        '{"answer_choice": "',
        '"}',
        "\\boxed{",
        "}",
        "**",
        "(",
        ")",
        ".",
        "\n",
        "/",
    ),
    *(
        "A",
        "B",
        "C",
        "J",
        "Z",
        "b",
        "i",
        "I",
        "Salt",
        "yes",
        "word3",
        "not",
        "or",
        "<think>",
        "</think>",
        "：",
        "Ｂ",
    ),
)
texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), max_size=15).map(" ".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join),
)
questions = st.one_of(
    st.sampled_from((FOUR, TEN, DECIDE, TERMS)),
    st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=26).map(lambda c: question(*c)),
)


@settings(deadline=None)
@given(texts, questions, st.integers(0, 25))
def test_an_answer_is_always_an_option_or_none(text: str, asked: Question, rotation: int) -> None:
    found = extract(text, asked, rotation=rotation)
    assert found.choice_index is None or 0 <= found.choice_index < len(asked.choices)
    assert found.choice_index is None or found.rule is not None


@settings(deadline=None)
@given(texts, questions, st.text(" \n\t\r", max_size=4), st.text(" \n\t\r", max_size=4))
def test_blanks_around_a_text_say_nothing(text: str, asked: Question, before: str, after: str) -> None:
    assert extract(before + text + after, asked) == extract(text, asked)


@settings(deadline=None)
@given(st.text("0123456789 .,;:!?()[]{}*_`$\\\"'\n-–/=→жщ日本語«»%", max_size=60))
def test_a_text_without_letters_is_unparsed(text: str) -> None:
    assert extract(text, TEN).choice_index is None


@settings(deadline=None)
@given(texts, st.integers(0, 3))
def test_a_rotation_turns_letters_and_keeps_what_is_unparsed(text: str, rotation: int) -> None:
    # Options whose words no text holds: only letters can name them.
    asked = question("§§1", "§§2", "§§3", "§§4")
    plain, turned = extract(text, asked), extract(text, asked, rotation=rotation)
    assert plain.rule == turned.rule
    if plain.choice_index is None:
        assert turned.choice_index is None
    else:
        assert turned.choice_index == (plain.choice_index + rotation) % 4


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        "**",
        '{"answer": "',
        "(A",
        "A/",
        "\\boxed{",
        "answer is ",
        " A and",
        "# ",
        "\n (",
    ],
)
def test_long_texts_are_read_in_one_pass(piece: str) -> None:
    extract(piece * 20_000, FOUR)  # a pattern that backtracks would not come to an end


# Real outputs: what the reference project's own extraction made of them is stored beside them.


def silent(output: str) -> str:
    """Why the reference's extraction has no letter to stand on, in the output's own form."""
    value = re.findall(r'"answer_choice"\s*:\s*"([^"]*)"', output)
    if not value:
        return "notice"
    if re.fullmatch(r"[A-Z](/[A-Z])+", value[-1]):
        return "several letters"
    return "letter outside" if re.fullmatch(r"[A-Z]", value[-1]) else "words that are no option"


@pytest.fixture(scope="module")
def real(shared_data: Path) -> list[tuple[dict[str, str], Question]]:
    sets = json.loads((shared_data / "mirage/benchmark.json").read_text(encoding="utf-8"))
    lines = (shared_data / "mirage/gpt_outputs_sample.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for row in map(json.loads, lines):
        entry = sets[row["dataset"]][row["qid"]]
        found.append((row, question(*entry["options"].values())))
    return found


def test_real_outputs_are_read_as_the_reference_reads_them(
    real: list[tuple[dict[str, str], Question]],
) -> None:
    agree, differ = 0, Counter()
    for row, asked in real:
        if letter(row["output"], asked) == row["official_extracted"]:
            agree += 1
        else:
            # Every disagreement is an answer that the reference guesses and we leave unparsed.
            assert letter(row["output"], asked) is None
            differ[silent(row["output"]), row["official_extracted"]] += 1
    assert agree == 474
    assert differ == {
        ("words that are no option", "A"): 20,
        ("several letters", "A"): 3,  # the reference takes the first of "A/B"
        ("several letters", "C"): 1,
        ("letter outside", "A"): 1,
        ("notice", "A"): 1,
    }


def test_unparsed_real_outputs_are_right_only_by_the_references_luck(
    real: list[tuple[dict[str, str], Question]],
) -> None:
    ours = sum(letter(row["output"], asked) == row["gold"] for row, asked in real)
    theirs = sum(row["official_extracted"] == row["gold"] for row, _ in real)
    assert (ours, theirs) == (318, 327)


def test_a_real_content_filters_notice_is_unparsed(real: list[tuple[dict[str, str], Question]]) -> None:
    ((row, asked),) = [(row, asked) for row, asked in real if silent(row["output"]) == "notice"]
    assert row["official_extracted"] == "A"
    assert (extract(row["output"], asked).choice_index, extract(row["output"], asked).rule) == (
        None,
        "refusal",
    )
