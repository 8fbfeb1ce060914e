"""Models made elsewhere that the user gave a name: where they lie, and the bytes they had then."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from edgebench.core.errors import ModelError
from edgebench.core.paths import atomic_path, cache_part, exclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A file or folder that stays where it is; its manifest is in the cache."""

    name: str
    path: str
    sha256: str
    size_bytes: int
    license: str | None


def adopted_models() -> dict[str, Adopted]:
    """Every adopted model, by name."""
    file = _file()
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {entry["name"]: Adopted(**entry) for entry in entries}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is damaged: {error}", "delete it, and add your models again") from error


def adopt(model: Adopted) -> None:
    """Give a model a name; one of that name is replaced."""
    file = _file()
    with exclusive(file, lambda _: None):
        known = {**adopted_models(), model.name: model}
        with atomic_path(file) as partial:
            entries = [asdict(entry) for entry in known.values()]
            partial.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _file() -> Path:
    return cache_part("models") / "adopted.json"
