"""Reading files of other programs: hostile until every value has passed, and then plain finite data."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgebench.core.errors import UsageError

MAX_BYTES = 16 * 2**20
"""No result file of the known programs comes near."""
MAX_TEXT = 200
MAX_COUNT = 2**53
"""Larger whole numbers are not told apart by every program that reads JSON."""
MAX_NUMBER = 1e18
"""No figure in any unit that these programs use is larger."""


def read_bytes(path: Path) -> bytes:
    """A file's bytes; UsageError when it can't be read, is empty, or is too large to be results."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES // 2**20} MiB: no file of results is")
    if not data.strip():
        raise UsageError(f"{path} is empty")
    return data


def parse_json(text: str) -> Any:
    """A JSON value without NaN or infinity; ValueError says what is wrong, also with one too deep."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class Fields:
    """The fields of an object, each read as what it must be. ValueError names the one that is not."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is not an object")
        self._value, self.where = value, where

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def names(self) -> list[str]:
        """The names of all fields, as texts that can be shown."""
        return [name for name in self._value if isinstance(name, str)]

    def raw(self, name: str) -> object:
        """The value as it is, whatever it is."""
        return self._value.get(name)

    def part(self, name: str) -> "Fields":
        """An object inside; one without fields where there is none."""
        value = self._value.get(name)
        return Fields({} if value is None else value, f"{self.where}.{shown(name)}")

    def text(self, name: str) -> str | None:
        """A text on one line, without what can't be printed, cut where it is long; None where absent."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return shown(value) or None

    def any_text(self, name: str) -> str | None:
        """A text, or a plain value as one; None where it is absent or neither."""
        value = self._value.get(name)
        return shown(str(value)) if isinstance(value, str | int | float) and value != "" else None

    def count(self, name: str) -> int | None:
        """A whole number from 0; None where absent."""
        value = self.whole(name)
        if value is not None and value < 0:
            raise self._wrong(name, "a count")
        return value

    def whole(self, name: str) -> int | None:
        """A whole number; None where absent. true and false are 1 and 0, as SQL has them."""
        value = self.number(name)
        if value is not None and (value != int(value) or abs(value) > MAX_COUNT):
            raise self._wrong(name, "a whole number")
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        """A finite number; None where absent."""
        value = self._value.get(name)
        return None if value is None else self._number(name, value)

    def numbers(self, name: str) -> list[float]:
        """A list of finite numbers; empty where absent."""
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list of numbers")
        return [self._number(name, one) for one in value]

    def durations(self, name: str, unit_s: float = 1.0) -> list[float]:
        """A list of times, each above 0, in seconds."""
        values = [value * unit_s for value in self.numbers(name)]
        if any(value <= 0 for value in values):
            raise self._wrong(name, "a list of times above 0")
        return values

    def _number(self, name: str, value: object) -> float:
        if not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        # A whole number may be too large for a float: it is compared before it becomes one.
        if (isinstance(value, float) and not math.isfinite(value)) or abs(value) > MAX_NUMBER:
            raise self._wrong(name, "a finite number of a sane size")
        return float(value) if isinstance(value, float) else int(value)

    def _wrong(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"{self.where}.{shown(name)} is not {wanted}")


def shown(text: str) -> str:
    """A stranger's text, fit to be stored and shown: one line, printable, of a sane length."""
    clean = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_TEXT])
    return " ".join(clean.split())[:MAX_TEXT]


def last_part(path: str) -> str:
    """A path's last part, whichever way its slashes lean: where a stranger keeps files is his business."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
