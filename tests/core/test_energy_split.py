"""Joules per prompt token, per output token and of idle time, told apart from whole windows."""

import numpy as np
import pytest
from scipy.stats import t as student

from edgebench.core.energy_split import EnergyWindow, split_prefill_decode
from edgebench.core.stats import Estimate

PROMPT_J, OUTPUT_J, IDLE_W = 0.02, 0.3, 4.0


def windows(
    n: int, rng: np.random.Generator, noise: float = 0.0, pause_s: float = 20.0, in_proportion: bool = True
) -> list[EnergyWindow]:
    """Requests of a device that reads 800 and writes 30 tokens a second, each with a pause of its own."""
    made = []
    for i in range(n):
        n_prompt, n_output = (1800, 32) if i % 2 else (64, 400)
        n_prompt, n_output = int(n_prompt * rng.uniform(0.5, 1)), int(n_output * rng.uniform(0.5, 1))
        duration_s = n_prompt / 800 + n_output / 30 + (i % 3) * pause_s
        energy_j = PROMPT_J * n_prompt + OUTPUT_J * n_output + IDLE_W * duration_s
        energy_j += (energy_j if in_proportion else 150.0) * noise * rng.normal()
        made.append(
            EnergyWindow(energy_j=energy_j, duration_s=duration_s, n_prompt=n_prompt, n_output=n_output)
        )
    return made


def parts(found: object) -> list[Estimate]:
    made = [getattr(found, name) for name in ("prompt_j_per_token", "output_j_per_token", "idle_w")]
    assert all(made)
    return made


def test_exact_windows_give_the_exact_parts() -> None:
    found = split_prefill_decode(windows(6, np.random.default_rng(1)))
    assert (found.reason, found.hint) == ("", "")
    assert [part.value for part in parts(found)] == pytest.approx([PROMPT_J, OUTPUT_J, IDLE_W])
    assert all(part.n == 6 for part in parts(found))


def test_intervals_are_those_of_least_squares() -> None:
    made = windows(12, np.random.default_rng(2), noise=0.05)
    design = np.array([(w.n_prompt, w.n_output, w.duration_s) for w in made], dtype=float)
    energy_j = np.array([w.energy_j for w in made])
    fitted, squares, *_ = np.linalg.lstsq(design, energy_j, rcond=None)
    errors = np.sqrt(squares[0] / 9 * np.diag(np.linalg.inv(design.T @ design)))
    halves = student.ppf(0.975, 9) * errors
    found = parts(split_prefill_decode(made))
    assert [part.ci_low for part in found] == pytest.approx((fitted - halves).tolist())
    assert [part.ci_high for part in found] == pytest.approx((fitted + halves).tolist())


def test_accuracy_of_the_meter_is_in_every_part() -> None:
    found = parts(split_prefill_decode(windows(9, np.random.default_rng(1)), accuracy=0.03))
    for part in found:
        assert part.ci_high == pytest.approx(part.value * (1 + 1.96 * 0.03 / 3**0.5), rel=1e-3)


@pytest.mark.parametrize(("in_proportion", "least", "most"), [(False, 0.93, 0.97), (True, 0.92, 0.99)])
def test_intervals_cover(in_proportion: bool, least: float, most: float) -> None:
    rng, truth = np.random.default_rng(5), (PROMPT_J, OUTPUT_J, IDLE_W)
    lows, highs = [], []
    for _ in range(1000):
        found = parts(split_prefill_decode(windows(9, rng, noise=0.03, in_proportion=in_proportion)))
        lows.append([part.ci_low for part in found])
        highs.append([part.ci_high for part in found])
    for share in ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean(axis=0):
        assert least <= share <= most


def test_a_part_below_zero_stands() -> None:
    made = [
        EnergyWindow(
            energy_j=-0.1 * w.n_prompt + w.n_output,
            duration_s=w.duration_s,
            n_prompt=w.n_prompt,
            n_output=w.n_output,
        )
        for w in windows(8, np.random.default_rng(3))
    ]
    assert parts(split_prefill_decode(made))[0].value == pytest.approx(-0.1)


def test_five_windows_are_too_few() -> None:
    found = split_prefill_decode(windows(5, np.random.default_rng(1)))
    assert "5 windows" in found.reason
    assert found.hint
    assert (found.prompt_j_per_token, found.output_j_per_token, found.idle_w) == (None, None, None)


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_without_pauses_time_follows_from_tokens(pause_s: float) -> None:
    found = split_prefill_decode(windows(12, np.random.default_rng(1), noise=0.02, pause_s=pause_s))
    assert "go together" in found.reason
    assert "pause" in found.hint
    assert found.idle_w is None


def test_windows_that_never_write_say_nothing_of_writing() -> None:
    made = [
        EnergyWindow(energy_j=5.0 * i, duration_s=i, n_prompt=10 * i * i, n_output=0) for i in range(1, 9)
    ]
    assert "go together" in split_prefill_decode(made).reason
