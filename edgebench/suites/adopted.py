"""Suites the user added: a folder each beside the user's configuration, definition and its own data in it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from edgebench.core.errors import SuiteError
from edgebench.core.paths import atomic_path, exclusive


def adopted_suites() -> dict[str, Path]:
    """Every added suite: name -> definition file."""
    return {path.parent.name: path for path in sorted(_folder().glob("*/suite.toml"))}


def adopt(name: str, definition: Path, data: Mapping[str, Path]) -> Path:
    """Copy a definition and the files beside it that it reads; a suite of that name is replaced.

    `data` is where each file lies that the definition names.
    """
    target = _folder() / name
    try:
        with exclusive(target, lambda _: None), atomic_path(target) as part:
            part.mkdir()
            for path, source in data.items():
                copy = part / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
            shutil.copyfile(definition, part / "suite.toml")
            if target.exists():
                shutil.rmtree(target)
    except OSError as error:
        raise SuiteError(f"{target} can't be written: {error.strerror}") from error
    return target / "suite.toml"


def _folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("edgebench")) / "suites"
