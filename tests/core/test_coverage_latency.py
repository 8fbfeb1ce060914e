"""Do 95 % intervals of latency and energy hold the truth 95 times in a hundred? Simulated.

3,000 runs each, of 2 processes x 5 repetitions (a plain run) and 6 x 5. Latencies are lognormal, or have
slow outliers on one side; energies have noise, a counter's steps and edges that are off by an update.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm

from edgebench.core.energy import MeterFacts, Method, Sample, Scope
from edgebench.core.integration import energy_between, repeated
from edgebench.core.stats import Estimate, median_of_groups, ratio_of_medians

Floats = npt.NDArray[np.float64]
Interval = Callable[[list[list[float]]], Estimate | None]

N_SIMULATIONS = 3000
DESIGNS = ((2, 5), (6, 5))
NOISE = 0.03
"""Standard deviation within a process, relative."""
each_design = pytest.mark.parametrize("design", DESIGNS)


def holds(found: Estimate | None, truth: float) -> bool:
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    return found.ci_low <= truth <= found.ci_high


def coverage(runs: Floats, truth: float, interval: Interval) -> float:
    """Share of the runs (simulation, process, repetition) whose interval holds the truth."""
    assert len(runs) >= N_SIMULATIONS
    return float(np.mean([holds(interval(run.tolist()), truth) for run in runs]))


def deviates(design: tuple[int, int], between: float, seed: int) -> Floats:
    """Standard normal values, and on top a deviate of each process, `between` times as large."""
    rng = np.random.default_rng(seed)
    of_process = between * rng.normal(size=(N_SIMULATIONS, design[0], 1))
    return of_process + rng.normal(size=(N_SIMULATIONS, *design))


# Latency


def lognormal(design: tuple[int, int], between: float = 0.0) -> tuple[Floats, float]:
    return 0.02 * np.exp(NOISE * deviates(design, between, 1)), 0.02


def with_slow_outliers(design: tuple[int, int], between: float = 0.0) -> tuple[Floats, float]:
    """A tenth takes longer, by 30 % on average: exponential. The truth is the median of the mixture."""
    runs, centre = lognormal(design, between)
    rng = np.random.default_rng(2)
    slow = rng.random(runs.shape) < 0.1
    runs = runs * np.where(slow, 1 + rng.exponential(0.3, runs.shape), 1)
    # Of all values' median, found once from 200,000 of them.
    spread = NOISE * np.hypot(1, between)
    many = np.exp(spread * norm.ppf((np.arange(200_000) + 0.5) / 200_000))
    many = many * np.where(rng.random(many.shape) < 0.1, 1 + rng.exponential(0.3, many.shape), 1)
    return runs, centre * float(np.median(many))


def skewed(design: tuple[int, int]) -> tuple[Floats, float]:
    """Nothing is faster than the hardware; what is slower is so exponentially."""
    rng = np.random.default_rng(3)
    runs = 1 + 0.1 * rng.exponential(1, (N_SIMULATIONS, *design))
    return runs, 1 + 0.1 * float(np.log(2))


@each_design
@pytest.mark.parametrize("latencies", [lognormal, with_slow_outliers, skewed])
def test_median_latency(
    design: tuple[int, int], latencies: Callable[[tuple[int, int]], tuple[Floats, float]]
) -> None:
    assert 0.93 <= coverage(*latencies(design), median_of_groups) <= 0.97


@pytest.mark.parametrize(("design", "least", "most"), [((2, 5), 0.82, 0.88), ((6, 5), 0.93, 0.97)])
@pytest.mark.parametrize("latencies", [lognormal, with_slow_outliers])
def test_median_latency_of_processes_that_differ(
    design: tuple[int, int],
    least: float,
    most: float,
    latencies: Callable[[tuple[int, int], float], tuple[Floats, float]],
) -> None:
    """As much as repetitions do. Two processes can't tell how much: their interval is too short."""
    assert least <= coverage(*latencies(design, 1.0), median_of_groups) <= most


def test_processes_that_differ_would_be_missed_by_counting_values_as_independent() -> None:
    runs, truth = lognormal((6, 5), 1.0)
    assert coverage(runs.reshape(N_SIMULATIONS, 1, -1), truth, median_of_groups) < 0.85


@each_design
def test_median_latency_of_one_process(design: tuple[int, int]) -> None:
    """All repetitions in one process: nothing is widened, and the interval is exact."""
    runs, truth = lognormal(design)
    assert 0.935 <= coverage(runs.reshape(N_SIMULATIONS, 1, -1), truth, median_of_groups) <= 0.965


@each_design
def test_ratio_of_median_latencies(design: tuple[int, int]) -> None:
    """Put together from two intervals it is cautious, most so with few values."""
    (base, base_median), (new, new_median) = with_slow_outliers(design), lognormal(design)
    held = [
        holds(ratio_of_medians(one.tolist(), other.tolist()), new_median / base_median)
        for one, other in zip(base, new[::-1], strict=True)  # turned: not the same noise
    ]
    assert 0.94 <= np.mean(held) <= 0.985


# Energy

J_PER_TOKEN, STEP_J, WINDOW_S, UPDATE_S = 0.3, 1.2, 10.0, 0.1
"""400 tokens in 10 s take 120 J: a hundred steps and a hundred updates, the least that counts."""


def windows(
    design: tuple[int, int], noise: float, between: float = 0.0, seed: int = 4
) -> tuple[Floats, float]:
    """J per token as a counter shows them: noise, steps from a phase by chance, edges off by updates."""
    rng = np.random.default_rng(seed)
    true_j_per_token = J_PER_TOKEN * (1 + noise * deviates(design, between, seed + 1))
    n_tokens = rng.integers(380, 421, true_j_per_token.shape)
    energy_j = true_j_per_token * n_tokens
    late_s = UPDATE_S * (rng.random(energy_j.shape) - rng.random(energy_j.shape))
    start_j = rng.uniform(0, STEP_J, energy_j.shape)
    counted_j = np.floor((start_j + energy_j * (1 + late_s / WINDOW_S)) / STEP_J) * STEP_J
    return counted_j / n_tokens, J_PER_TOKEN


@each_design
@pytest.mark.parametrize("noise", [0.0, 0.002, 0.03])
def test_energy_per_token(design: tuple[int, int], noise: float) -> None:
    """From steps and edges alone to noise that hides them."""
    assert 0.93 <= coverage(*windows(design, noise), repeated) <= 0.97


@pytest.mark.parametrize(("design", "least", "most"), [((2, 5), 0.83, 0.89), ((6, 5), 0.90, 0.95)])
def test_energy_of_processes_that_differ(design: tuple[int, int], least: float, most: float) -> None:
    assert least <= coverage(*windows(design, NOISE, between=1.0), repeated) <= most


@each_design
def test_accuracy_of_the_meter_is_covered(design: tuple[int, int]) -> None:
    """A meter that is off by up to 3 %, all its life: another meter in each simulation."""
    runs, truth = windows(design, NOISE)
    scale = np.random.default_rng(9).uniform(0.97, 1.03, (N_SIMULATIONS, 1, 1))
    assert coverage(runs * scale, truth, repeated) < 0.9
    # 1.96 a / sqrt(3) is more than the limit a itself: cautious, where accuracy is most of it.
    assert 0.95 <= coverage(runs * scale, truth, lambda run: repeated(run, accuracy=0.03)) <= 0.995


def test_the_simulated_windows_err_as_windows_of_a_counter_do() -> None:
    """The same steps and updates, through `energy_between`: the errors have the same spread."""
    facts = MeterFacts(
        source="nvml:0",
        scope=Scope.GPU_BOARD,
        method=Method.COUNTER,
        step=STEP_J,
        update_s=UPDATE_S,
        minimum_s=5.0,
    )
    rng, errors, within = np.random.default_rng(7), [], []
    power_w, times_s = 12.0, np.arange(0, 13, UPDATE_S)
    for _ in range(400):
        phase_s, start_j, start_s = rng.uniform(0, UPDATE_S), rng.uniform(0, STEP_J), rng.uniform(1, 2)
        updated_s = np.floor((times_s - phase_s) / UPDATE_S) * UPDATE_S + phase_s
        shown_j = np.floor((start_j + power_w * updated_s) / STEP_J) * STEP_J
        samples = [Sample(t, value) for t, value in zip(times_s.tolist(), shown_j.tolist(), strict=True)]
        found = energy_between(samples, facts, start_s, start_s + 10.2)
        assert found.value_j is not None
        assert found.u95_j is not None
        errors.append(found.value_j - power_w * 10.2)
        within.append(abs(errors[-1]) <= found.u95_j)
    simulated = windows((2, 5), 0.0)[0] * 400 - 120
    assert np.std(errors) <= 1.1 * np.std(simulated)
    assert abs(np.mean(errors)) < 0.1
    assert np.mean(within) >= 0.95
