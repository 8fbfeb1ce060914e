from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
FOLDERS = ("edgebench", "quantize", "runners", "devices", "results", "benchmarks")


@pytest.mark.parametrize(
    "path",
    [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MOST_LINES, f"{path.name} has {n_lines} lines: split it by what it does"
