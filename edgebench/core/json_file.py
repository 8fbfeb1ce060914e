"""JSON objects out of model folders: untrusted, so whatever is wrong with one is said in a line."""

import json
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError


def read_object(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """A file's JSON object; empty where there is no file and that is allowed. ModelError else."""
    if missing_ok and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: it is not JSON", "fetch it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is damaged: it is not a JSON object", "fetch it again")
    return value
