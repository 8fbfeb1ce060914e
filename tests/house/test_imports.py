"""The command line is light: nothing heavy is loaded before a verb needs it."""

import subprocess
import sys

import pytest

HEAVY = ("llama_cpp", "numpy", "matplotlib", "gguf", "psutil", "rich", "scipy", "torch")

IMPORT = "import edgebench.cli"
HELP = """
import contextlib, io, sys
from edgebench.cli import main
sys.argv = ["edgebench", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert "Usage" in out.getvalue()
"""


@pytest.mark.parametrize("code", [IMPORT, HELP], ids=["import", "help"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    told = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-P", "-c", told], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & set(HEAVY) == set()
    assert "edgebench" in done.stdout


def test_types_need_nothing_but_the_standard_library() -> None:
    modules = ("types", "errors", "hashing", "units", "registry", "lean", "paths")
    told = (
        f"import sys, importlib\nfor n in {modules}: importlib.import_module('edgebench.core.' + n)\n"
        "print(*{n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", told], capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if not name.startswith(("_", "edgebench"))}
    started = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; print(*{n.split('.')[0] for n in sys.modules})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert foreign - set(started.stdout.split()) == set()  # a .pth file of the environment may load some
