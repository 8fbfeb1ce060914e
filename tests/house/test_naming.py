"""Nothing of the tree leads out of it: no index hosts, no issue numbers, no paths of one machine."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("edgebench", "quantize", "runners", "devices", "results", "tests", "benchmarks", "docs", ".ci")
TEXT = {".py", ".toml", ".md", ".txt", ".jsonl", ".json", ".cfg", ".yml", ".yaml", ".sh", ".typed", ""}
SKIPPED = {"__pycache__"}

# Put together from pieces, so that this file passes its own test.
HOSTS = ("pypi" + ".org", "python" + "hosted", "dev" + "pi", "arti" + "factory", "/simple" + "/")
ISSUE = re.compile(r"(?<![\w&\"'#/])#\d{1,5}\b(?!\w)")
MACHINE_PATH = re.compile(r"(?<![\w.…~}])/(?:work|root|home/\w+)(?:/|\b)")


def files() -> list[Path]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(
        path
        for path in (*inside, *ROOT.glob("*"))
        if path.is_file() and path.suffix in TEXT and not SKIPPED & set(path.parts)
    )


def offences(text: str) -> list[str]:
    hosts = [host for host in HOSTS if host in text]
    return hosts + ISSUE.findall(text) + MACHINE_PATH.findall(text)


def test_no_file_names_anything_outside() -> None:
    found = {str(p.relative_to(ROOT)): offences(p.read_text(encoding="utf-8")) for p in files()}
    assert len(found) > 80
    assert {name: told for name, told in found.items() if told} == {}


@pytest.mark.parametrize("before", ["see ", "(", "fixes "])
def test_the_guard_sees_an_issue_number(before: str) -> None:
    assert ISSUE.search(f"{before}#{12}.")


@pytest.mark.parametrize("folder", ["work", "root", "home/me"])
def test_the_guard_sees_a_path_of_one_machine(folder: str) -> None:
    assert MACHINE_PATH.search(f'open("/{folder}/data")')
    assert not MACHINE_PATH.search(f"pages/{folder}/data")
