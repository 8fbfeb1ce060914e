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


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_names_nothing_outside(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [host for host in HOSTS if host in text] == []
    assert ISSUE.findall(text) == []
    assert MACHINE_PATH.findall(text) == []


@pytest.mark.parametrize("text", ["see #12", "(#7)", "fixes #1234."])
def test_the_guard_sees_an_issue_number(text: str) -> None:
    assert ISSUE.search(text)


@pytest.mark.parametrize("folder", ["work", "root", "home/" + "me"])
def test_the_guard_sees_a_path_of_one_machine(folder: str) -> None:
    assert MACHINE_PATH.search(f'open("/{folder}/data")')
    assert not MACHINE_PATH.search(f"pages/{folder}/data")
