from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
FOLDERS = ("edgebench", "quantize", "runners", "devices", "results", "benchmarks")


def test_no_module_is_too_long_to_read() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    n_lines = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in paths}
    assert {name: n for name, n in n_lines.items() if n > MOST_LINES} == {}
