import pytest

from edgebench.core.errors import EdgebenchError, ModelError, UsageError, nearest

NAMES = ["q4_0", "q4_1", "q8_0", "f16"]


def test_error_carries_what_happened_and_what_to_do() -> None:
    error = ModelError("no model file at x.gguf", "pass its path")
    assert str(error) == error.message == "no model file at x.gguf"
    assert error.hint == "pass its path"
    assert EdgebenchError("alone").hint is None


def test_near_names_are_offered() -> None:
    error = nearest("q4_O", NAMES, kind="level")
    assert isinstance(error, UsageError)
    assert error.message == "unknown level 'q4_O'"
    assert error.hint is not None
    assert error.hint.startswith("did you mean q4_")


def test_all_names_are_told_when_none_is_near() -> None:
    assert nearest("zebra", NAMES, kind="level").hint == "known: f16, q4_0, q4_1, q8_0"


def test_every_error_can_be_caught_as_one() -> None:
    with pytest.raises(EdgebenchError):
        raise nearest("x", NAMES, kind="level")
