r"""A suite is a small TOML file: where the questions are, which field is what, how they are asked.

name = "my-suite"            version = "1"        title = "…"      license = "…"      citation = "…"
default_scorer = "letter"    # or "cloze", "generate"
headline = "acc"             # or "mean_of_subjects", "macro_f1"
medical = false              label = ""           seed = 0         first_shots = true

[[data]]                     # a form the questions come in; further ones are tried when it is not there
format = "csv"               # csv | jsonl | json | parquet
root = "data"                # "data": under --data, or fetched;  "beside": next to this file
folder = "mmlu"              # how the source's own folder is called under --data
header = false               # csv: the first row names the columns
answer = "letter"            # letter (A…) | index (0…) | number (1…) | text (an option's own) | none
hub = "org/name"             # or url = "https://…/": where `suites fetch` gets it
revision = "…"               # the commit
options = ["yes", "no"]      # where every question has the same
drop_options = ["N/A"]       # what stands for an option that is none
keep_blanks = false          # of questions at their ends: lm-eval keeps them in some suites
worked_prefix = "A: "        # what `worked` begins with beyond the prompt's own words
where = { category = "health" }                 # rows to keep
ids = { path = "test_ids.json" }                # only these are scored; the others are left to `dev`
fields = { question = 0, choices = [1, 2, 3, 4], answer = 5 }   # also id, subject, passage, worked
files = [{ path = "test/anatomy_test.csv", subject = "anatomy", sha256 = "…", n_questions = 135 }]
dev = [{ path = "dev/anatomy_dev.csv", subject = "anatomy" }]   # never scored

[prompt.letter]              # {subject} {question} {options} {passage}
context = "{question}\n{options}\nAnswer:"

[categories]                 # name = [subjects]; and [slices] alike
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from edgebench.core.errors import SuiteError, nearest
from edgebench.core.types import PromptTemplate, Scorer
from edgebench.suites.adopted import adopted_suites

BUILT_IN = Path(__file__).parent / "data"
FORMATS = ("csv", "jsonl", "json", "parquet")
ANSWERS = ("letter", "index", "number", "text", "none")
HEADLINES = ("acc", "mean_of_subjects", "macro_f1")
FIELDS = ("question", "choices", "answer", "id", "subject", "passage", "worked")
SEE = "see docs/suites.md for the format"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELD = re.compile(r"\{(\w+)\}")
_PROMPT_FIELDS = {"subject", "question", "options", "passage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of questions; `sha256` pins it when the definition knows its content."""

    path: str
    subject: str | None = None
    sha256: str | None = None
    n_questions: int | None = None
    member: str | None = None
    """Of a JSON file: under which key its questions stand."""

    def __post_init__(self) -> None:
        kinds = {"n_questions": int}
        for key in fields(self):
            value = getattr(self, key.name)
            if value is not None and not isinstance(value, kinds.get(key.name, str)):
                raise ValueError(f"{key.name} of data file {self.path!r} is a {type(value).__name__}")
        parts = PurePosixPath(self.path).parts
        if not parts or parts[0] == "/" or ".." in parts or not self.path.isprintable():
            raise ValueError(f"data file {self.path!r} must lie inside its root")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of data file {self.path!r} is not 64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One of the forms in which a suite's questions are handed round."""

    format: str
    fields: Mapping[str, Any]
    files: tuple[DataFile, ...]
    root: str = "beside"
    folder: str = ""
    header: bool = True
    answer: str = "index"
    options: tuple[str, ...] = ()
    drop_options: tuple[str, ...] = ()
    worked_prefix: str = ""
    keep_blanks: bool = False
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hub: str = ""
    url: str = ""
    revision: str = ""
    ids: DataFile | None = None
    dev: tuple[DataFile, ...] = ()
    """Questions that are never scored: worked examples, text to calibrate with."""

    def __post_init__(self) -> None:
        for key, known in (("format", FORMATS), ("answer", ANSWERS), ("root", ("beside", "data"))):
            if getattr(self, key) not in known:
                raise ValueError(
                    f"data.{key} {getattr(self, key)!r} is not {', '.join(known[:-1])} or {known[-1]}"
                )
        for key in FIELDS[:3]:
            absent = (key == "choices" and self.options) or (key == "answer" and self.answer == "none")
            if not absent and key not in self.fields:
                raise KeyError(key)
        if unknown := set(self.fields) - set(FIELDS):
            raise ValueError(f"unknown field(s) {', '.join(sorted(unknown))}; known: {', '.join(FIELDS)}")
        if not self.ids and (both := {f.path for f in self.files} & {f.path for f in self.dev}):
            raise ValueError(f"data file {both.pop()!r} is scored, so it can't be in `dev`")
        if self.folder and not _NAME.fullmatch(self.folder):
            raise ValueError(f"data.folder {self.folder!r} is not a folder's name")
        self._check_origin()

    def _check_origin(self) -> None:
        if self.hub and (not _HUB.fullmatch(self.hub) or ".." in self.hub):
            raise ValueError(f"data.hub {self.hub!r} is not org/name")
        if self.hub and not _COMMIT.fullmatch(self.revision):
            raise ValueError("data.revision must be a commit, 40 hexadecimal digits")
        address = urlsplit(self.url)
        loopback = address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost")
        if self.url and not (self.url.endswith("/") and (address.scheme == "https" or loopback)):
            raise ValueError(f"data.url {self.url!r} is not https://…/")
        if self.root == "beside" and (self.hub or self.url):
            raise ValueError('data with a hub or a url needs root = "data"')

    @property
    def needed(self) -> tuple[DataFile, ...]:
        """The files that scoring needs."""
        return (*self.files, *((self.ids,) if self.ids else ()))


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
    headline: str
    label: str
    first_shots: bool
    submission: bool
    sha256: str
    """Of the questions, in whatever form they came; empty when the definition does not know."""
    default_scorer: Scorer
    prompts: Mapping[Scorer, PromptTemplate]
    categories: Mapping[str, tuple[str, ...]]
    slices: Mapping[str, tuple[str, ...]]
    forms: tuple[Form, ...]
    file: Path

    @property
    def n_questions(self) -> int | None:
        """What the definition promises; None when a file does not say."""
        form = self.forms[0]
        counts = [f.n_questions for f in ((form.ids,) if form.ids else form.files)]
        return None if None in counts else sum(c for c in counts if c is not None)

    @property
    def has_key(self) -> bool:
        """Whether its answers are public."""
        return self.forms[0].answer != "none"


def built_in_suites() -> dict[str, Path]:
    """The suites that come with edgebench: name -> definition file."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def known_suites() -> dict[str, Path]:
    """Every suite known by name; an added one never hides one that comes with edgebench."""
    return {**adopted_suites(), **built_in_suites()}


def find_definition(name: str) -> Definition:
    """A known suite by name, or a definition file by path (anything that ends in .toml)."""
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SuiteError(f"{path}: not valid TOML: {error}") from error
    try:
        return _checked(raw, path)
    except KeyError as error:
        raise SuiteError(f"{path}: missing key {error}", SEE) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SuiteError(f"{path}: {error}", SEE) from error


_DEFAULTS: Mapping[str, Any] = {
    "title": "",
    "license": "unknown",
    "citation": "",
    "source": "",
    "medical": False,
    "seed": 0,
    "headline": "acc",
    "label": "",
    "first_shots": True,
    "submission": False,
    "sha256": "",
}


def _checked(raw: Mapping[str, Any], path: Path) -> Definition:
    tables = {"data", "prompt", "categories", "slices"}
    _refuse_unknown(raw, {*_DEFAULTS, *tables, "name", "version", "default_scorer"}, "")
    told = {key: raw.get(key, default) for key, default in _DEFAULTS.items()}
    for key, default in _DEFAULTS.items():
        if type(told[key]) is not type(default):
            raise ValueError(f"{key} is a {type(told[key]).__name__}, not a {type(default).__name__}")
    name = raw["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not letters, digits, dots, dashes and underscores")
    if told["headline"] not in HEADLINES:
        raise ValueError(f"headline {told['headline']!r} is not {', '.join(HEADLINES)}")
    if told["sha256"] and not _SHA256.fullmatch(told["sha256"]):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    prompts = {Scorer(scorer): _prompt(scorer, prompt) for scorer, prompt in raw["prompt"].items()}
    if not prompts:
        raise ValueError("no [prompt.letter], no [prompt.cloze] and no [prompt.generate]")
    default = Scorer(raw.get("default_scorer", next(iter(prompts))))
    if default not in prompts:
        raise ValueError(f"default_scorer {default} has no [prompt.{default}]")
    data = raw["data"]
    forms: list[Form] = []
    for form in data if isinstance(data, list) else [data]:
        forms.append(_form(form, forms[0] if forms else None))
    if not forms:
        raise KeyError("data")
    return Definition(
        **{**told, "title": told["title"] or name},
        name=name,
        version=str(raw["version"]),
        default_scorer=default,
        prompts=prompts,
        categories=_groups(raw, "categories"),
        slices=_groups(raw, "slices"),
        forms=tuple(forms),
        file=path,
    )


def _form(raw: Mapping[str, Any], first: Form | None) -> Form:
    """A form; one that names no files has the first one's, which its pins don't fit."""
    known = {key.name: key.type for key in fields(Form)}
    _refuse_unknown(raw, set(known), "data.")
    if first is not None and "files" not in raw:
        unpinned = {
            key: [replace(file, sha256=None) for file in getattr(first, key)] for key in ("files", "dev")
        }
        raw = {"folder": first.folder, "root": first.root, **unpinned, **raw}
    kinds = {"fields": dict, "where": dict, "header": bool, "keep_blanks": bool, "worked_prefix": str}
    for key, kind in kinds.items():
        if key in raw and not isinstance(raw[key], kind):
            raise ValueError(f"data.{key} is a {type(raw[key]).__name__}")
    texts = {key: _texts(raw[key], f"data.{key}") for key in ("options", "drop_options") if key in raw}
    where = {key: _texts(value, f"data.where.{key}") for key, value in raw.get("where", {}).items()}
    files = {key: tuple(map(_file, raw[key])) for key in ("files", "dev") if key in raw}
    ids = {"ids": _file(raw["ids"])} if "ids" in raw else {}
    format_, named, listed = raw["format"], raw["fields"], files.pop("files", None)
    if not listed:
        raise KeyError("files")
    rest = {key: raw[key] for key in raw if key not in ("format", "fields", "files", "where")}
    return Form(**{**rest, **texts, **files, **ids}, format=format_, fields=named, files=listed, where=where)


def _file(raw: Any) -> DataFile:
    return raw if isinstance(raw, DataFile) else DataFile(**raw)


def _prompt(scorer: str, raw: Mapping[str, Any]) -> PromptTemplate:
    raw["context"]  # a KeyError names what is missing
    template = PromptTemplate(**{**raw, "stop": _texts(raw.get("stop", ()), f"prompt.{scorer}.stop")})
    for key in ("context", "description", "delimiter", "shot_delimiter"):
        if not isinstance(getattr(template, key), str):
            raise ValueError(f"prompt.{scorer}.{key} is not text")
    if type(template.n_gen) is not int or (template.n_gen > 0) != (scorer == Scorer.GENERATE):
        raise ValueError(f"prompt.{scorer}: n_gen is the number of tokens to write, of `generate` only")
    if unknown := set(_FIELD.findall(template.description + template.context)) - _PROMPT_FIELDS:
        raise ValueError(f"prompt.{scorer} uses unknown field(s) {', '.join(sorted(unknown))}")
    return template


def _groups(raw: Mapping[str, Any], key: str) -> dict[str, tuple[str, ...]]:
    table = raw.get(key, {})
    if not isinstance(table, dict):
        raise ValueError(f"{key} is a {type(table).__name__}, not a table")
    return {name: _texts(subjects, f"{key}.{name}") for name, subjects in table.items()}


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where} is not a list of texts")
    return tuple(texts)


def _refuse_unknown(raw: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := set(raw) - known:
        told = ", ".join(f"{where}{key}" for key in sorted(unknown))
        raise ValueError(f"unknown key(s) {told}; known: {', '.join(sorted(known))}")
