"""SI values to the strings a person reads. The only place where numbers are scaled."""

from collections.abc import Sequence

ABSENT = "–"


def quantity(value: float | None, steps: Sequence[tuple[float, str]], digits: int = 3) -> str:
    """`value` in the largest unit of `steps` (factor, symbol; largest first) that it reaches."""
    if value is None:
        return ABSENT
    factor, symbol = next((s for s in steps if abs(value) >= s[0]), steps[-1])
    return f"{significant(value / factor, digits)} {symbol}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent: 0.0712, 7.12, 712, 7120."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{float(text):.0f}" if abs(value) >= 1 else f"{value:.{digits + 3}f}"
    return text


def data_size(value_bytes: float | None) -> str:
    """Bytes as MiB or GiB."""
    return quantity(value_bytes, [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")])


def duration(value_s: float | None) -> str:
    """Seconds as s, ms or µs."""
    return quantity(value_s, [(1, "s"), (1e-3, "ms"), (1e-6, "µs")])


def share(value: float | None) -> str:
    """A 0-1 share with three decimals, lm-eval's way: 0.412."""
    return ABSENT if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """`[low, high]`, or a dash when the sample can't carry one."""
    if low is None or high is None:
        return ABSENT
    return f"[{significant(low, digits)}, {significant(high, digits)}]"
