"""A copy of a database that can be given away: no usernames, hostnames, serial numbers, addresses or paths.

Known tables and columns only go into the copy. Every text in it is searched, JSON inside it by its strings:
what looks like a path, an address or a `user@host` goes, names that stand in such places go everywhere, and
so does what stands under a telling key. Names of one's own can be added. What models wrote is not copied,
and of suites whose key is not public neither the key nor what follows from it.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.core.hashing import canonical_json, sha256_text
from edgebench.core.paths import atomic_path
from edgebench.results.export_runs import HAVE_OWN_KEY
from edgebench.results.import_read import parse_json
from edgebench.results.merge import merge
from edgebench.results.store import Store
from edgebench.results.summary import summarise

GONE = "(removed)"
HUNTED_KEY = re.compile(
    r"^(user|user_?name|login|host|host_?name|fqdn|nodename|serial\w*|\w*_serial|machine_id|boot_id|android_id"
    r"|imei|ssid)$",
    re.IGNORECASE,
)
"""Keys of JSON objects whose texts are names of people, machines and devices: they go everywhere."""
TELLING_KEY = re.compile(
    r"^(mac|mac_address|ip|ip_address|address|uuid|home|cwd|path|\w+_path|folder|directory|file|server|url|email)$",
    re.IGNORECASE,
)
"""Keys whose texts are personal whatever they look like, and are removed where they stand."""
COMMON = frozenset(
    (
        *(
            "root",
            "user",
            "users",
            "home",
            "data",
            "shell",
            "local",
            "localhost",
            "admin",
            "test",
            "edgebench",
        ),
        *(
            "android",
            "ubuntu",
            "debian",
            "public",
            "shared",
            "runner",
            "system",
            "default",
            "guest",
            "nobody",
        ),
        *("model", "models", "true", "false", "none", "null"),
    )
)
"""Names that are no person's and no machine's: they are not hunted down."""

_END = r"(?=$|[\s'\",;:)\]}>|])"
_SEGMENT = r"[^\s'\",;:()\[\]{}<>|/\\]+"
# Not a test at a depth (pp512@d4096), nor a suite's version (medqa@1, mmlu@lm-eval-1).
_HOST = r"(?!d\d+\b|lm-eval-)(?:[A-Za-z][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*|\d+\.\d+\.\d+\.\d+)"
_AT = re.compile(rf"([A-Za-z0-9._%+-]+)@({_HOST})")
_PLACES = (
    re.compile(r"(?:/home/|/Users/|/media/|/mnt/|[A-Za-z]:\\+Users\\+)([^\s'\",;:/\\]+)"),
    re.compile(r"\bssh:(?://)?(?:([\w.-]+)@)?([\w.-]+)"),
    re.compile(r"\badb:([\w.-]+)"),
    re.compile(r"\b[a-z][a-z0-9+.-]*://(?:([^\s/@:]+)(?::[^\s/@]*)?@)?([\w.-]+)"),
    _AT,
)
"""Where only names of people, machines and devices stand."""
_FILES = "gguf|onnx|safetensors|jsonl?|toml|csv|sqlite|db|bin|dat|imatrix|txt|html|md|log|py|so|yaml|yml"
_PATTERNS = (
    re.compile(r"'[^'\n]*[/\\][^'\n]*'"),  # a path with blanks, as a shell's words are quoted
    re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\",)\]}<>]+"),  # an address with all that follows it
    re.compile(r"\b(?:ssh|adb):[^\s'\",)\]}<>]+"),
    re.compile(rf"{_AT.pattern}(?::[^\s'\"]+)?"),  # also scp's user@host:path
    re.compile(r"(?:\\\\|\b[A-Za-z]:[\\/])[^\s'\",;)\]}<>|]+"),  # C:\… and \\server\…
    re.compile(rf"(?<![\w.)\]}}/<-])~?(?:/{_SEGMENT})+/?{_END}"),  # /home/… and ~/…
    re.compile(rf"(?<![\w./-])\.{{1,2}}(?:/{_SEGMENT})+"),  # ./… and ../…
    re.compile(rf"(?<![\w./-])(?:[\w.-]+/)+[\w.+-]+\.(?:{_FILES})\b"),  # work/model.gguf
    re.compile(r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b"),  # a MAC address
    re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.])"),  # IPv4
    re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){4,7}[0-9A-Fa-f]{0,4}(?![\w:])"),  # IPv6
    re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE),  # a UUID
)
_WHOLE_PATH = re.compile(r"(?:~|[A-Za-z]:)?[\\/]\S")
"""How a text begins that is a path as a whole, blanks and all."""
_TEXTS = {
    "model": ("source", "revision", "license", "family"),
    "artifact": ("tool", "tool_version", "manifest_json", "shape_json"),
    "device": ("name", "soc", "profile_json"),
    "environment": ("os", "kernel", "cpu", "governor", "facts_json"),
    "suite": ("license", "facts_json"),
    "run": (
        *("invalid_reason", "runner_version", "config_json", "engine_json", "command"),
        *("flags_json", "meters_json"),
    ),
    "trial": ("energy_source", "energy_reason", "flags_json"),
    "energy_window": ("source", "energy_reason", "energy_detail", "energy_model"),
    "prediction": ("basis",),
    "check_run": ("reason", "runner_version", "config_json"),
    "device_limit": ("facts_json",),
}
"""Table -> its columns of free text. Others hold hashes, closed sets of words, and names that are keys."""
_NAMES = {"model": ("id", "name"), "device": ("id",), "reading": ("channel",)}
_REFERENCES = {
    ("model", "id"): (("artifact", "model_id"),),
    ("device", "id"): (("run", "device_id"), ("device_limit", "device_id")),
}
"""Names that other rows point to."""


def anonymize(source: Path, out: Path, words: Sequence[str] = ()) -> int:
    """Write the copy; how many texts were changed. `words` go wherever they stand.

    Raises UsageError when `out` is there already, StoreError when the source is not a database of this
    schema. Nothing is left behind where it fails.
    """
    if out.exists():
        raise UsageError(f"{out} is there already", "name another file with --out")
    with atomic_path(out) as part:
        try:
            with Store.open(part) as store:
                merge(store, source)
                n = _scrub(store, words)
                _drop_private(store)
                store.vacuum()  # what was removed would still lie in free pages
        finally:
            for end in ("-wal", "-shm"):
                part.with_name(part.name + end).unlink(missing_ok=True)
    return n


def _drop_private(store: Store) -> None:
    """Remove what models wrote, keys that are not public, and the grades that follow from them."""
    grades = "correct = NULL, correct_norm = NULL, correct_bytes = NULL"
    with store.transaction() as connection:
        private = [row["id"] for row in connection.execute(HAVE_OWN_KEY)]
        connection.execute("UPDATE answer SET output_text = NULL WHERE output_text IS NOT NULL")
        for suite_id in private:
            connection.execute("UPDATE question SET answer_index = NULL WHERE suite_id = ?", (suite_id,))
            own = "run_id IN (SELECT id FROM run WHERE suite_id = ?)"
            connection.execute(f"UPDATE answer SET {grades} WHERE {own}", (suite_id,))  # noqa: S608
    for run in store.runs() if private else ():
        if run.suite_id in private:
            summarise(store, run.id)


def _scrub(store: Store, words: Sequence[str]) -> int:
    """Clean every free text; how many were changed."""
    found = {word for word in words if word.strip()}
    for table, columns in (*_TEXTS.items(), *_NAMES.items()):
        for column in columns:
            for row in _distinct(store, table, column):
                found |= _personal(row)
    clean = cleaner(found)
    n = 0
    with store.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        for table, columns in _TEXTS.items():
            for column in columns:
                for old in _distinct(store, table, column):
                    if (new := _clean_cell(old, column, clean)) != old:
                        sql = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"  # noqa: S608 - our names
                        n += connection.execute(sql, (new, old)).rowcount
        n += _rename(store, connection, clean)
        for row in connection.execute("SELECT id, profile_json FROM device").fetchall():
            digest = sha256_text(row["profile_json"])
            connection.execute("UPDATE device SET profile_sha256 = ? WHERE id = ?", (digest, row["id"]))
    return n


def _rename(store: Store, connection: sqlite3.Connection, clean: Callable[[str], str]) -> int:
    """Clean names that rows are known by, wherever they are referred to; how many cells were changed."""
    n = 0
    for table, columns in _NAMES.items():
        for column in columns:
            for old in _distinct(store, table, column):
                if (new := clean(old)) == old:
                    continue
                # Two that differed still do.
                named = new if column == "name" else f"{new}-{sha256_text(old)[:6]}"
                for target, its in ((table, column), *_REFERENCES.get((table, column), ())):
                    sql = f"UPDATE {target} SET {its} = ? WHERE {its} = ?"  # noqa: S608 - our names
                    n += connection.execute(sql, (named, old)).rowcount
    return n


def cleaner(words: set[str]) -> Callable[[str], str]:
    """A function that takes these words, and all that looks personal, out of a text."""
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    alone = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
    hunted = [re.compile(alone.format(re.escape(word)), re.IGNORECASE) for word in longest_first]

    def clean(text: str) -> str:
        for pattern in (*_PATTERNS, *hunted):
            text = pattern.sub(GONE, text)
        return text

    return clean


def _personal(cell: str) -> set[str]:
    """Names of people, machines and devices that stand where only such names stand."""
    found: set[str] = set()
    try:
        texts = list(_strings(_parsed(cell)))
    except RecursionError:
        texts = [(cell, None)]
    for text, key in texts:
        if key is not None and HUNTED_KEY.match(key):
            found.add(text)
        for pattern in _PLACES:
            for groups in pattern.finditer(text):
                found |= {name for name in groups.groups() if name}
    # A path is removed as a whole wherever it stands; single letters and common words would tear texts up.
    return {
        name
        for name in found
        if len(name) >= 3 and name.lower() not in COMMON and not re.search(r"[/\\\s]", name) and name != GONE
    }


def _clean_cell(cell: str, column: str, clean: Callable[[str], str]) -> str:
    value = _parsed(cell) if column.endswith("_json") else cell
    try:
        new = clean(value) if isinstance(value, str) else canonical_json(_cleaned(value, clean))
    except RecursionError:  # only a stranger nests so deeply
        new = clean(cell)
    return new.encode("utf-8", "replace").decode()


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return GONE if _WHOLE_PATH.match(value) else clean(value)
    if isinstance(value, list):
        return [_cleaned(one, clean) for one in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned_under(key, one, clean) for key, one in value.items()}
    return value


def _cleaned_under(key: str, value: Any, clean: Callable[[str], str]) -> Any:
    personal = TELLING_KEY.match(key) or HUNTED_KEY.match(key)
    return GONE if personal and isinstance(value, str) and value else _cleaned(value, clean)


def _strings(value: Any, key: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Every text of a value with the key it stands under; keys are texts, too."""
    if isinstance(value, str):
        yield value, key
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one, key)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield name, None
            yield from _strings(one, name)


def _parsed(cell: str) -> Any:
    """The value of a JSON text, or the text."""
    try:
        return parse_json(cell) if cell[:1] in ("{", "[") else cell
    except ValueError:
        return cell


def _distinct(store: Store, table: str, column: str) -> list[str]:
    sql = f"SELECT DISTINCT {column} AS cell FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608 - our names
    return [row["cell"] for row in store.rows(sql)]
