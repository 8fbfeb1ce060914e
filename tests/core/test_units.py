import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.units import ABSENT, data_size, duration, interval, share, significant


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0712, "0.0712"),
        (7.12, "7.12"),
        (712.4, "712"),
        (7124, "7120"),
        (999.9, "1000"),
        (0, "0"),
        (-3.14159, "-3.14"),
        (1.5e6, "1500000"),
        (None, ABSENT),
    ],
)
def test_significant_digits_without_exponent(value: float | None, text: str) -> None:
    assert significant(value) == text


@given(st.floats(min_value=1e-4, max_value=1e9))
def test_significant_digits_keep_the_value(value: float) -> None:
    assert math.isclose(float(significant(value)), value, rel_tol=0.0051)
    assert "e" not in significant(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (98_362_432, "93.8 MiB"),
        (2**30, "1 GiB"),
        (1536, "1.5 KiB"),
        (12, "12 B"),
        (0, "0 B"),
        (None, ABSENT),
    ],
)
def test_bytes_in_the_largest_unit_they_reach(value: float | None, text: str) -> None:
    assert data_size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34, "12.3 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.2 µs"), (1, "1 s"), (None, ABSENT)],
)
def test_seconds_in_the_largest_unit_they_reach(value: float | None, text: str) -> None:
    assert duration(value) == text


def test_share_has_three_decimals() -> None:
    assert share(0.41176) == "0.412"
    assert share(1.0) == "1.000"
    assert share(None) == ABSENT


def test_interval_needs_both_ends() -> None:
    assert interval(1.234, 2.345) == "[1.23, 2.35]"
    assert interval(None, 2.0) == interval(1.0, None) == ABSENT
