r"""A suite is a small TOML file: where the questions are, which field is what, how they are asked.

name = "my-suite"            version = "1"        title = "…"      license = "…"
default_scorer = "letter"    # or "cloze"

[data]
format = "csv"               # csv | jsonl
root = "data"                # "data": under --data;  "beside": next to this file
header = false               # csv: the first row names the columns
answer = "letter"            # letter (A…) | index (0…) | number (1…)
[data.fields]                # column number (headerless csv) or name
question = 0
choices = [1, 2, 3, 4]       # or one name of a list
answer = 5
[[data.files]]
path = "mmlu/test/anatomy_test.csv"
subject = "anatomy"          # optional, else [data.fields] subject
sha256 = "…"                 # optional: pins the content
n_questions = 135            # optional, for `suites list` without the data
[[data.dev]]                 # optional: questions that are never scored, to calibrate with
path = "mmlu/dev/anatomy_dev.csv"

[prompt.letter]
context = "{question}\n{options}\nAnswer:"      # {subject} {question} {options}
[prompt.cloze]
context = "Question: {question}\nAnswer:"
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.core.errors import SuiteError, nearest
from edgebench.core.types import PromptTemplate, Scorer

BUILT_IN = Path(__file__).parent / "data"
_FIELD = re.compile(r"\{(\w+)\}")
_KNOWN_FIELDS = {"subject", "question", "options", "passage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of questions; `sha256` pins it when the definition knows its content."""

    path: str
    subject: str | None = None
    sha256: str | None = None
    n_questions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A parsed suite file, checked; nothing of the data is read yet."""

    name: str
    version: str
    title: str
    license: str
    citation: str
    source: str
    medical: bool
    seed: int
    default_scorer: Scorer
    prompts: Mapping[Scorer, PromptTemplate]
    file: Path
    format: str
    beside: bool
    header: bool
    answer: str
    fields: Mapping[str, Any]
    files: tuple[DataFile, ...]
    dev_files: tuple[DataFile, ...] = ()
    """Questions that are never scored: text to calibrate with."""

    @property
    def n_questions(self) -> int | None:
        """What the definition promises; None when a file does not say."""
        counts = [f.n_questions for f in self.files]
        return None if None in counts else sum(c for c in counts if c is not None)


def known_suites() -> dict[str, Path]:
    """Built-in suites: name -> definition file."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def find_definition(name: str) -> Definition:
    """A built-in suite by name, or a definition file by path (anything that ends in .toml)."""
    if name.endswith(".toml"):
        return read_definition(Path(name))
    known = known_suites()
    if name not in known:
        raise nearest(name, known, kind="suite")
    return read_definition(known[name])


def read_definition(path: Path) -> Definition:
    """Parse and check a definition file; SuiteError names the file and the key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"no suite file at {path}") from None
    except OSError as error:
        raise SuiteError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: not valid TOML: {error}") from error
    try:
        return _checked(raw, path)
    except KeyError as error:
        raise SuiteError(f"{path}: missing key {error}", "see docs/suites.md for the format") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SuiteError(f"{path}: {error}", "see docs/suites.md for the format") from error


def _checked(raw: Mapping[str, Any], path: Path) -> Definition:
    data = raw["data"]
    fields = dict(data["fields"])
    for key in ("question", "choices", "answer"):
        fields[key]  # a KeyError names what is missing
    prompts = {Scorer(name): PromptTemplate(**prompt) for name, prompt in raw["prompt"].items()}
    for scorer, prompt in prompts.items():
        unknown = set(_FIELD.findall(prompt.description + prompt.context)) - _KNOWN_FIELDS
        if unknown:
            raise ValueError(f"prompt.{scorer} uses unknown field(s) {', '.join(sorted(unknown))}")
    if not prompts:
        raise ValueError("no [prompt.letter] and no [prompt.cloze]")
    default = Scorer(raw.get("default_scorer", next(iter(prompts))))
    if default not in prompts:
        raise ValueError(f"default_scorer {default} has no [prompt.{default}]")
    if data["format"] not in ("csv", "jsonl"):
        raise ValueError(f"data.format {data['format']!r} is not csv or jsonl")
    if data.get("answer", "index") not in ("letter", "index", "number"):
        raise ValueError(f"data.answer {data['answer']!r} is not letter, index or number")
    if data.get("root", "beside") not in ("beside", "data"):
        raise ValueError(f"data.root {data['root']!r} is not beside or data")
    files = tuple(DataFile(**file) for file in data["files"])
    dev_files = tuple(DataFile(**file) for file in data.get("dev", ()))
    if both := {file.path for file in files} & {file.path for file in dev_files}:
        raise ValueError(f"data file {both.pop()!r} is scored, so it can't be in [[data.dev]]")
    for file in (*files, *dev_files):
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise ValueError(f"data file {file.path!r} must lie inside its root")
    return Definition(
        name=raw["name"],
        version=str(raw["version"]),
        title=raw.get("title", raw["name"]),
        license=raw.get("license", "unknown"),
        citation=raw.get("citation", ""),
        source=raw.get("source", ""),
        medical=bool(raw.get("medical", False)),
        seed=int(raw.get("seed", 0)),
        default_scorer=default,
        prompts=prompts,
        file=path,
        format=data["format"],
        beside=data.get("root", "beside") == "beside",
        header=bool(data.get("header", True)),
        answer=data.get("answer", "index"),
        fields=fields,
        files=files,
        dev_files=dev_files,
    )
