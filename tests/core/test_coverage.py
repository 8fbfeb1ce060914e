"""Do 95 % intervals hold the truth 95 times in a hundred? Simulated, at the sizes that suites have.

2,000 suites each, whose true share is drawn anew for each. Clusters are beta-binomial: a cluster's
answers share its own probability, with an intra-cluster correlation from none to strong.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from edgebench.core import resampling
from edgebench.core.calibration import calibration
from edgebench.core.option_order import Turned, order_report
from edgebench.core.paired import bootstrap_difference, clustered_difference, clustered_p
from edgebench.core.shares import clustered_share, macro_f1_estimate, mean_of_parts
from edgebench.core.stats import Estimate, paired_difference, wilson

N_SIMULATIONS = 2000
SIZES = (100, 500, 1089)
DISCORDANCES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5)
CORRELATIONS = (0.0, 0.1, 0.3)

Clusters = list[list[int]]
Interval = Callable[[Clusters], Estimate | None]
MIN_DISCORDANT = 4
"""Expected in a suite. With fewer, any honest interval covers nearly always: that is tested apart."""
each_size = pytest.mark.parametrize("n", SIZES)


def holds(found: Estimate | None, truth: float) -> bool:
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    return found.ci_low <= truth <= found.ci_high


def assert_nominal(held: list[bool]) -> None:
    assert len(held) >= N_SIMULATIONS
    assert 0.93 <= np.mean(held) <= 0.97


def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval of 400 draws is that of 10,000 with more noise, and quicker by as much."""
    monkeypatch.setattr(resampling, "N_BOOTSTRAP", 400)
    monkeypatch.setattr("edgebench.core.calibration.N_BOOTSTRAP", 400)


def discordances(n: int) -> list[float]:
    return [share for share in DISCORDANCES if share * n >= MIN_DISCORDANT]


class Suites:
    """Answers in clusters of one to several, fifty clusters at least."""

    def __init__(self, n: int) -> None:
        self.n, self.rng = n, np.random.default_rng(n)
        self.n_clusters = max(50, n // 18)
        weights = self.rng.dirichlet(np.full(self.n_clusters, 3.0))
        self.sizes = 1 + self.rng.multinomial(n - self.n_clusters, weights)
        self.ends = self.sizes.cumsum()[:-1]

    def probabilities(self, p: float, rho: float) -> npt.NDArray[np.float64]:
        """Of each answer, the same within a cluster."""
        if rho == 0:
            return np.full(self.n, p)
        of_cluster = self.rng.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1), self.n_clusters)
        return np.repeat(of_cluster, self.sizes)

    def clusters(self, answers: npt.NDArray[np.int_]) -> Clusters:
        return [part.tolist() for part in np.split(answers, self.ends)]

    def shares(self, interval: Interval) -> list[bool]:
        """Whether the interval held the true share, in each simulation."""
        held = []
        for _ in range(N_SIMULATIONS):
            p, rho = self.rng.uniform(0.05, 0.95), self.rng.choice(CORRELATIONS)
            answers = (self.rng.random(self.n) < self.probabilities(p, rho)).astype(int)
            held.append(holds(interval(self.clusters(answers)), p))
        return held

    def pairs(self, n_lost_share: float) -> tuple[Clusters, float]:
        """Differences and their true mean: pairs are discordant, and lean to a side, cluster by cluster."""
        discordance, rho = self.rng.choice(discordances(self.n)), self.rng.choice(CORRELATIONS)
        is_discordant = self.rng.random(self.n) < self.probabilities(discordance, rho)
        is_lost = self.rng.random(self.n) < self.probabilities(n_lost_share, rho)
        differences = np.where(is_discordant, np.where(is_lost, -1, 1), 0)
        return self.clusters(differences), discordance * (1 - 2 * n_lost_share)

    def differences(self, interval: Interval) -> list[bool]:
        pairs = (self.pairs(self.rng.uniform(0.3, 0.7)) for _ in range(N_SIMULATIONS))
        return [holds(interval(clusters), truth) for clusters, truth in pairs]


@each_size
def test_wilson(n: int) -> None:
    rng = np.random.default_rng(n)
    shares = rng.uniform(0.02, 0.98, N_SIMULATIONS)
    assert_nominal([holds(wilson(int(rng.binomial(n, p)), n), p) for p in shares])


@each_size
def test_clustered_share(n: int) -> None:
    assert_nominal(Suites(n).shares(clustered_share))


@each_size
def test_independence_would_be_claimed_wrongly(n: int) -> None:
    """The clusters are real: Wilson's interval of the same answers is too narrow."""
    held = Suites(n).shares(lambda clusters: wilson(sum(map(sum, clusters)), n))
    assert np.mean(held) < 0.93


def pairs_held(n: int, discordances: list[float]) -> list[bool]:
    rng, held = np.random.default_rng(n), []
    for discordance in np.resize(discordances, N_SIMULATIONS):
        lost = discordance * rng.uniform(0.3, 0.7)
        n_lost, n_won, _ = rng.multinomial(n, (lost, discordance - lost, 1 - discordance))
        held.append(holds(paired_difference(int(n_lost), int(n_won), n), discordance - 2 * lost))
    return held


@each_size
def test_paired_difference(n: int) -> None:
    assert_nominal(pairs_held(n, discordances(n)))


def test_paired_difference_with_hardly_a_discordant_pair() -> None:
    assert np.mean(pairs_held(100, [0.005, 0.01, 0.02, 0.03])) >= 0.97


@each_size
def test_clustered_difference(n: int) -> None:
    assert_nominal(Suites(n).differences(clustered_difference))


@pytest.mark.slow
@each_size
def test_bootstrap_difference(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer_draws(monkeypatch)
    assert_nominal(Suites(n).differences(bootstrap_difference))


@each_size
def test_the_clustered_test_holds_its_level(n: int) -> None:
    suites = Suites(n)
    p_values = [clustered_p(suites.pairs(0.5)[0]) for _ in range(N_SIMULATIONS)]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.065


@each_size
def test_mean_of_parts(n: int) -> None:
    """Five parts of different sizes, as MIRAGE's, but none below 20 answers."""
    rng, held = np.random.default_rng(n), []
    sizes = [max(20, n * share // 100) for share in (14, 17, 54, 7, 8)]
    for _ in range(N_SIMULATIONS):
        shares = np.clip(rng.uniform(0.1, 0.9) + rng.normal(0, 0.1, 5), 0.02, 0.98)
        parts = [wilson(int(rng.binomial(size, p)), size) for size, p in zip(sizes, shares, strict=True)]
        held.append(holds(mean_of_parts([part for part in parts if part]), shares.mean()))
    assert_nominal(held)


@pytest.mark.parametrize("n", SIZES[:2])
def test_macro_f1(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes, the third rare, as PubMedQA's; some answers are guessed."""
    fewer_draws(monkeypatch)
    rng, held = np.random.default_rng(n), []
    classes = np.array([0.55, 0.34, 0.11])
    for _ in range(N_SIMULATIONS):
        known = rng.uniform(0.3, 0.9)
        gold = rng.choice(3, size=n, p=classes)
        chosen = np.where(rng.random(n) < known, gold, rng.integers(3, size=n))
        joint = np.diag(classes * known) + np.outer(classes, np.full(3, (1 - known) / 3))
        truth = (2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))).mean()
        held.append(holds(macro_f1_estimate(gold.tolist(), chosen.tolist()), truth))
    assert_nominal(held)


@pytest.mark.parametrize("n", SIZES[1:])
def test_calibration(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model too sure of itself, from hardly to very."""
    fewer_draws(monkeypatch)
    rng, errors, brier, nll = np.random.default_rng(n), [], [], []
    for shift in np.resize((0.02, 0.05, 0.1, 0.2), 240):
        sure = rng.uniform(0.55, 0.95, n)
        right = sure - shift
        found = calibration(
            np.log([sure, 1 - sure]).T.tolist(), (rng.random(n) > right).astype(int).tolist(), coverage=0.8
        )
        assert found is not None
        s = np.linspace(0.55, 0.95, 2001)
        errors.append(holds(found.ece, shift))
        brier.append(holds(found.brier, (2 * (s**2 - 2 * s * (s - shift) + s - shift)).mean()))
        nll.append(holds(found.nll, -((s - shift) * np.log(s) + (1 - s + shift) * np.log(1 - s)).mean()))
    assert 0.92 <= np.mean(errors) <= 0.99
    assert 0.92 <= np.mean(brier) <= 0.98
    assert 0.92 <= np.mean(nll) <= 0.98


@pytest.mark.parametrize("n", SIZES[:2])
def test_rstd(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer_draws(monkeypatch)
    rng, held = np.random.default_rng(n), []
    for lean in np.resize((0.1, 0.2, 0.3), 200):
        recalls = np.clip(0.45 + lean * np.array([1.0, 0.2, -0.4, -0.8]), 0, 1)
        hits = rng.random((n, 4)) < recalls
        questions = [Turned(answer_index=0, choices=[int(not hit) for hit in q[[0, 3, 2, 1]]]) for q in hits]
        found = order_report(questions)
        held.append(holds(found.rstd if found else None, recalls.std()))
    assert 0.91 <= np.mean(held) <= 0.99
