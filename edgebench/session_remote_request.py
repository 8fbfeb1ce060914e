"""A request as JSON, for a worker on another computer, and back. What is the default is left out."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from edgebench.core.errors import UsageError
from edgebench.session_plan import Request


def request_as_json(request: Request) -> dict[str, Any]:
    """Field -> plain value, of every field that is not the default."""
    return {
        field.name: _plain(value)
        for field in fields(request)
        if (value := getattr(request, field.name)) != field.default
    }


def request_from_json(told: Mapping[str, Any]) -> Request:
    """The request that `request_as_json` wrote; UsageError when it is none of this version's."""
    hints = typing.get_type_hints(Request)
    if unknown := sorted(told.keys() - hints.keys()):
        raise UsageError(f"a request has no field {', '.join(unknown)}", "is it of another version?")
    try:
        return Request(**{name: _typed(hints[name], value) for name, value in told.items()})
    except (TypeError, ValueError) as error:
        raise UsageError(f"a request can't be read: {error}") from error


def needs_llama(request: Request) -> bool:
    """Whether llama-cpp-python is needed: to open a GGUF file, or to make levels of one."""
    gguf = any(model.endswith(".gguf") for model in request.models)
    return request.runner == "llama_cpp" or (request.runner is None and gguf) or bool(request.quants)


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type a field wants."""
    if isinstance(hint, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
        return None if value is None else _typed(choices[0], value)
    if typing.get_origin(hint) is tuple:
        return tuple(_typed(typing.get_args(hint)[0], item) for item in value)
    if isinstance(hint, type) and issubclass(hint, (Enum, Path)):
        return hint(value)
    return value
