"""The map of errors in the docstring is the truth."""

import re

import pytest

from edgebench.core import errors
from edgebench.core.errors import EdgebenchError


def subclasses(base: type[EdgebenchError]) -> set[type[EdgebenchError]]:
    return {base}.union(*(subclasses(child) for child in base.__subclasses__()))


@pytest.mark.usefixtures("modules")  # an error may be defined anywhere
def test_map_names_every_error_with_its_exit_code() -> None:
    drawn = dict(re.findall(r"(\w+) +exit (\d)", errors.__doc__ or ""))
    raised = {
        e.__name__: str(e.exit_code) for e in subclasses(EdgebenchError) if "edgebench." in e.__module__
    }
    assert drawn == raised


def test_exit_codes_are_the_designs() -> None:
    assert {error.exit_code for error in subclasses(EdgebenchError)} == {1, 2, 4}


def test_every_error_tells_what_it_is_for() -> None:
    assert all(error.__doc__ for error in subclasses(EdgebenchError))
