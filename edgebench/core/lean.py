"""Packages without importing them whole: what is missing, and one module without the package's `__init__`.

A measuring process should hold the engine and nothing else: `import llama_cpp` alone brings a web
of helpers (22 MB and a quarter of a second) that the low-level bindings never use.
"""

import importlib
import importlib.util
import sys
from types import ModuleType


def not_installed(*names: str) -> str | None:
    """None, or which of these packages this environment lacks, in a line."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


def import_submodule(package: str, module: str) -> ModuleType:
    """`package.module`, with `package` itself left unexecuted unless it was imported before.

    Raises ModuleNotFoundError when the package is not installed.
    """
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        shell = ModuleType(package)
        shell.__path__ = list(spec.submodule_search_locations)
        shell.__spec__ = spec
        sys.modules[package] = shell
    return importlib.import_module(f"{package}.{module}")
