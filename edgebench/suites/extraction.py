r"""Which option a written answer names: a ladder of rules, strictest first.

The first rule that finds a claim decides. Claims that contradict each other, or name something that is no
option, leave the answer unparsed: it is counted, it is wrong, and it is never read as "A". In order:

json         the value of "answer_choice", "answer", … in a JSON object: a letter, `B) …`, an option's words
boxed        what stands in \boxed{…}
answer_is    "the answer is (B)", "the correct option is B": a letter or an option's words
answer_colon "Answer: B"
is_correct   "B is correct", "option B is the right answer"
refusal      "I can't answer", a content filter's notice: claims nothing
words        the text, a line of it or its first clause is an option's own words: "yes", "No, …"
line         a line that is nothing but a letter: "B", "(B)."
bold         **B**, **B. …**
brackets     (B), [B]
mark         a line that begins with "B." or "B)"
begins       the text begins with a lone letter: "B because …", "B - …", or a letter and its option's words
lone         a lone letter that ends a clause: "I would choose B."

A lone letter is no part of a word or a term ("B-cell", "C reactive protein"), and neither the article
("A patient …") nor the pronoun ("I think …"). Letters joined ("A/B", "A and C") contradict each other. What
a model thinks between <think> and </think> is not its answer.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from edgebench.core.types import Question
from edgebench.suites.prompts import LETTERS

# Words that can follow a letter meant as an answer; an article or the first half of a term is never
# followed by one of them.
_AFTER = (
    "and|as|because|but|due|for|given|if|in|is|are|it|on|or|since|so|that|the|this|to|when|which|while|with"
)
_LETTER = (
    r"(?<![\w'’\-])[A-Z](?![\w'’+]|-\w)"
    rf"(?! (?!(?:{_AFTER})\b)[a-z])"
    r"(?!\)?\.? (?:is|are|was) (?:not|wrong|incorrect|false)\b)"
)
_LIST = rf"{_LETTER}(?:\)?\s*(?:[/,&]|and\b|or\b)\s*\(?{_LETTER})*"
# A small letter is one only where a form marks it: "(b)", "answer: b".
_SAID = rf"(?P<said>{_LIST}|\b[a-z](?=\s*(?:[.,;:)\]}}\"'\n]|$)))"
_OPENERS = r"(?i:(?:the|either|both|option|choice|letter)\b\s*)*[(\[{\"']*"
_NOT_DENIED = r"(?<!\bnot )"

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_TURN = re.compile(r"</?s>|<\|[^|<>\n]{1,40}\|>|</?(?:start_of_turn|end_of_turn|eos|bos|pad)>")
_EMPHASIS = re.compile(r"\*+|(?<!\w)_+|_+(?!\w)|[`$]|\\(?:text|textbf|mathbf|mathrm)(?=\{)")
_BLANKS = re.compile(r"[^\S\n]+")
_JSON_ANSWER = re.compile(
    r"[\"'](?:(?:final|correct)_)?(?:answer|choice|option)(?:_(?:choice|letter|option))?[\"']\s*:\s*"
    r"(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|'(?P<single>[^'\n]*)'|(?P<bare>[^,}\n]*))",
    re.IGNORECASE | re.DOTALL,
)
_BOXED = re.compile(r"\\boxed\s*\{(?P<value>[^{}\n]*(?:\{[^{}\n]*\}[^{}\n]*)?)\}?")
_HEAD_IS = re.compile(
    r"\b(?:answer(?: (?:choice|option|letter))?"
    r"|(?:correct|right|best|final|appropriate|likely) (?:option|choice))"
    r"(?: here| to (?:the|this) question)? (?:is|are|(?:would|must|should|will|has to) be)\b\s*:?\s*",
    re.IGNORECASE,
)
_HEAD_COLON = re.compile(r"\banswer(?:[_ ](?:choice|option|letter))?\s*(?:[:=]|->|→)\s*", re.IGNORECASE)
_AFTER_HEAD = re.compile(rf"{_OPENERS}{_SAID}")
_IS_CORRECT = re.compile(
    rf"(?:^|[.,;!?(] ?|\b(?i:option|choice|answer|so|therefore|thus|hence),? \(?)(?P<said>{_LIST})\)?"
    r" (?:is|are) (?:the )?(?:most )?(?:correct|right|best)(?= (?:answer|option|choice)|\s*(?:[.,;:!\n]|$))",
    re.MULTILINE,
)
_REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:sorry|unable|not able)\b|\b(?:response|prompt|content) was filtered\b|\bAs an AI\b"
    r"|\bI (?:can't|cannot|can not|won't) (?:answer|assist|help|provide|give|determine|comply)\b"
    r"|\bcontent (?:management policy|policy|filter)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(?:\*\*|__)(?P<value>[^*_\n]+)(?:\*\*|__)")
_BRACKETS = re.compile(
    rf"(?<!\w){_NOT_DENIED}[(\[](?P<said>[A-Za-z])[)\]](?! (?:is|are|was) (?:not|wrong|incorrect|false)\b)"
)
_LINE = re.compile(r"^[(\[]?(?P<said>[A-Za-z])[)\]]?[.,:;]?$", re.MULTILINE)
_MARK = re.compile(r"^[ •>#-]*(?:(?i:option|choice) )?(?P<said>[A-Za-z])[.):](?=\s|$)", re.MULTILINE)
_BEGINS = re.compile(rf"(?P<said>{_LIST})(?=(?P<ends>\s*(?:[.,;:!)\n–—-]|$)| (?i:{_AFTER})\b)?)")
_LONE = re.compile(
    r"(?:^|[!?:;=→] ?|\b(?i:is|be|choose|chose|choosing|pick|picked|select|selected|with|option|choice"
    r"|letter|say|guess|answer|therefore|thus|hence|so|prefer|for|either|both),? )"
    rf"{_NOT_DENIED}\(?(?P<said>{_LIST})"
    rf"(?=\)?(?:\s*(?:[.,;:!?)\n]|$)| (?:because|since|as)\b))",
    re.MULTILINE,
)
_VALUE = re.compile(rf"{_OPENERS}(?P<said>{_LIST}|[a-z](?=\W*$))(?=\s*(?:[.,;:)\]}}\"'\n–—-]|$))")
_CLAUSE = re.compile(r"[,.;:!?\n]")
_CLAUSE_END = re.compile(r"\s*(?:[^\w\s]|$)|\n")
_ABBREVIATED = re.compile(r"\b(?P<letter>[A-Z])\. (?P<word>[a-z]\w*)")
_EDGES = " \t\n.,;:!?\"'“”‘’*_`()[]{}"

Claims = set[int | None]
"""Stored indices of options; None: something was claimed that is no option, or more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """The option a text names, in the order the suite stores them, and the rule that decided.

    Without `choice_index` the answer is unparsed: `rule` then says which one saw a contradiction, a letter
    outside the options or a refusal; None when no rule found anything.
    """

    choice_index: int | None
    rule: str | None


def extract(text: str, question: Question, *, rotation: int = 0) -> Extracted:
    """Read an answer off a model's text; `rotation` is the order the options were shown in."""
    said = _Said(text, question.choices, rotation)
    for name, rung in _LADDER.items():
        claims = set(rung(said))
        if claims:
            only = next(iter(claims)) if len(claims) == 1 else None
            return Extracted(choice_index=only, rule=name)
    return Extracted(choice_index=None, rule=None)


class _Said:
    """A model's text in the forms the rules read, and the options they may name."""

    def __init__(self, text: str, choices: tuple[str, ...], rotation: int) -> None:
        # Full-width letters and colons become plain ones; a character grows at most 18-fold.
        text = unicodedata.normalize("NFKC", _TURN.sub("\n", _THOUGHT.sub("", _THINKING.sub("", text))))
        self.raw = _BLANKS.sub(" ", text.replace("\r\n", "\n").replace("’", "'")).strip()
        self.plain = _EMPHASIS.sub("", self.raw).strip()
        self._n, self._rotation = len(choices), rotation
        self._words = [_worded(choice) for choice in choices]
        self._longest = max(map(len, self._words))
        self.masked = self._masked([_spelled(choice) for choice in choices])

    def _masked(self, choices: list[str]) -> str:
        """The text, as long as before, without letters that are part of words: "Vitamin A", "E. coli"."""

        def unless_answer(found: re.Match[str]) -> str:
            own = re.fullmatch(_AFTER, found["word"]) or self._has_word(found["letter"], found["word"])
            return found[0] if own else "·" * len(found[0])

        text = self.plain
        for choice in sorted(choices, key=len, reverse=True):
            if len(choice) > 1 and re.search(r"\b[A-Z]\b", choice):
                text = text.replace(choice, "·" * len(choice))
        return _ABBREVIATED.sub(unless_answer, text)

    def places(self, letters: str) -> Claims:
        """What letters name: a letter is a place, and place j showed option (j + rotation) mod k."""
        found: Claims = set()
        for letter in re.findall(r"\b[A-Za-z]\b", letters):
            place = LETTERS.index(letter.upper())
            found.add((place + self._rotation) % self._n if place < self._n else None)
        return found

    def inside(self, letters: str) -> Claims:
        """The same for a form too weak to claim a letter that is no option."""
        return self.places(letters) - {None}

    def worded(self, text: str) -> Claims:
        """The option whose own words these are; None where several options share them."""
        words = _worded(text)
        same = [i for i, known in enumerate(self._words) if known == words and not _is_letter(words)]
        return {same[0] if len(same) == 1 else None} if same else set()

    def words_at(self, start: int) -> Claims:
        """The option whose words stand there, if the clause ends with them."""
        # No more than could matter: a long text can hold many answers.
        text = self.plain[start : start + self._longest + 100].lstrip(_EDGES).casefold()
        hits = {
            words
            for words in self._words
            if text.startswith(words) and not _is_letter(words) and _CLAUSE_END.match(text, len(words))
        }
        return self.worded(max(hits, key=len)) if hits else set()

    def is_followed_by_words(self, letter: str, end: int) -> bool:
        """Whether the option a letter names holds the word that stands there."""
        word = re.match(r" (\w+)", self.plain[end : end + 40])
        return word is not None and self._has_word(letter, word[1])

    def _has_word(self, letter: str, word: str) -> bool:
        # The beginning of a word will do: a text can end anywhere.
        pattern = rf"\b{re.escape(word.casefold())}"
        return any(i is not None and re.search(pattern, self._words[i]) for i in self.places(letter))

    def value(self, text: str) -> Claims:
        """What a short text set apart for the answer names: an option's words, or a letter before them."""
        if words := self.worded(text):
            return words
        letter = _VALUE.match(text.strip())
        return self.places(letter["said"]) if letter else set()


def _spelled(text: str) -> str:
    return _BLANKS.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'").strip()


def _worded(text: str) -> str:
    """Words to compare by: no case, no punctuation around them; of nothing else, the text itself."""
    spelled = " ".join(_spelled(text).casefold().split())
    return spelled.strip(_EDGES) or spelled


def _is_letter(words: str) -> bool:
    return not words or re.fullmatch("[a-z]", words) is not None


def _json(said: _Said) -> Iterator[int | None]:
    for found in _JSON_ANSWER.finditer(said.raw):
        value = found["quoted"]
        if value is not None:
            with suppress(ValueError):  # a stray escape: the value as it stands
                value = str(json.loads(f'"{value}"', strict=False))
        else:
            value = found["single"] if found["single"] is not None else found["bare"]
        yield from said.value(value) or {None}


def _boxed(said: _Said) -> Iterator[int | None]:
    for found in _BOXED.finditer(said.plain):
        yield from said.value(found["value"].replace("{", " ").replace("}", " ")) or {None}


def _after(head: re.Pattern[str]) -> Callable[[_Said], Iterator[int | None]]:
    def rung(said: _Said) -> Iterator[int | None]:
        for found in head.finditer(said.plain):
            if words := said.words_at(found.end()):
                yield from words
            elif letter := _AFTER_HEAD.match(said.masked, found.end()):
                yield from said.places(letter["said"])

    return rung


def _is_correct(said: _Said) -> Iterator[int | None]:
    for found in _IS_CORRECT.finditer(said.masked):
        yield from said.places(found["said"])


def _refusal(said: _Said) -> Iterator[int | None]:
    if _REFUSAL.search(said.plain):
        yield None


def _words(said: _Said) -> Iterator[int | None]:
    for part in (said.plain, *said.plain.split("\n"), _CLAUSE.split(said.plain, maxsplit=1)[0]):
        yield from said.worded(part)


def _line(said: _Said) -> Iterator[int | None]:
    for found in _LINE.finditer(said.masked):
        yield from said.places(found["said"])


def _bold(said: _Said) -> Iterator[int | None]:
    for found in _BOLD.finditer(said.raw):
        yield from said.value(found["value"]) - {None}


def _brackets(said: _Said) -> Iterator[int | None]:
    for found in _BRACKETS.finditer(said.masked):
        yield from said.inside(found["said"])


def _mark(said: _Said) -> Iterator[int | None]:
    for found in _MARK.finditer(said.masked):
        yield from said.places(found["said"]) if found["said"].isupper() else said.inside(found["said"])


def _begins(said: _Said) -> Iterator[int | None]:
    found = _BEGINS.match(said.masked)
    if found and (found["ends"] is not None or said.is_followed_by_words(found["said"], found.end())):
        yield from said.places(found["said"])


def _lone(said: _Said) -> Iterator[int | None]:
    for found in _LONE.finditer(said.masked):
        yield from said.inside(found["said"])


_LADDER: dict[str, Callable[[_Said], Iterator[int | None]]] = {
    "json": _json,
    "boxed": _boxed,
    "answer_is": _after(_HEAD_IS),
    "answer_colon": _after(_HEAD_COLON),
    "is_correct": _is_correct,
    "refusal": _refusal,
    "words": _words,
    "line": _line,
    "bold": _bold,
    "brackets": _brackets,
    "mark": _mark,
    "begins": _begins,
    "lone": _lone,
}
