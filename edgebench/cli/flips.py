"""How flips are shown: never without the noise floor, and "not separable" never without what it misses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgebench.cli.output import remark
from edgebench.core.units import ABSENT, significant

UNKNOWN_NOISE = "not measured"


def flips_dict(flips: Any) -> dict[str, Any] | None:
    """Answers of two runs against each other, as data."""
    if flips is None:
        return None
    return {
        "n": flips.n,
        "n_questions": flips.n_questions,
        "n_lost": flips.n_lost,
        "n_won": flips.n_won,
        "n_changed": flips.n_changed,
        "flip_share": flips.share,
        "test": flips.test,
        "p": flips.p,
        "p_mid": flips.p_mid,
        "difference": estimate_dict(flips.difference),
        "difference_bootstrap": estimate_dict(flips.bootstrap),
        "minimal_detectable_difference": flips.detectable,
    }


def noise_dict(noise: Any) -> dict[str, Any] | None:
    """A file against itself, as data."""
    names = ("n", "n_lost", "n_won", "n_changed")
    return noise and {**{name: getattr(noise, name) for name in names}, "flip_share": noise.share}


def estimate_dict(estimate: Any) -> dict[str, Any] | None:
    """A figure with its interval, as data."""
    return None if estimate is None else asdict(estimate)


def flip_rate(flips: Mapping[str, Any]) -> str:
    """`10/7 of 136 (12.5 %)`: lost, won; without a key, how many answers changed."""
    counted = flips["n_changed"] if flips["n_lost"] is None else f"{flips['n_lost']}/{flips['n_won']}"
    return f"{counted}\nof {flips['n']} ({100 * flips['flip_share']:.1f} %)"


def noise_told(noise: Mapping[str, Any] | None) -> str:
    """`3 of 136 (2.2 %)`."""
    if noise is None:
        return UNKNOWN_NOISE
    n = noise["n_changed"] if noise["n_lost"] is None else noise["n_lost"] + noise["n_won"]
    return f"{n} of {noise['n']} ({100 * noise['flip_share']:.1f} %)"


def verdict_told(verdict: str, flips: Mapping[str, Any] | None) -> str:
    """The verdict; a difference that was not found is shown with what would have been."""
    least = flips and flips["minimal_detectable_difference"]
    return f"{verdict}\n(finds ≥ {points(least)})" if verdict == "not separable" and least else verdict


def margin_told(non_inferior: bool | None, margin: float) -> str | None:
    """The verdict at a margin that was declared beforehand."""
    if non_inferior is None:
        return None
    within = f"worse by more than {points(margin)}"
    return f"not {within}" if non_inferior else f"may be {within}"


def p_told(p: float) -> str:
    """A p-value; the smallest ones as less than something."""
    return "< 0.0001" if p < 1e-4 else significant(p)


def points(share: float) -> str:
    """`1.0 points`: a share's difference, in hundredths."""
    return f"{100 * share:.1f} points"


def signed(estimate: Mapping[str, Any]) -> str:
    """`+0.030 [-0.010, +0.070]`."""
    low, high = estimate["ci_low"], estimate["ci_high"]
    bounds = ABSENT if low is None else f"[{low:+.3f}, {high:+.3f}]"
    return f"{estimate['value']:+.3f}\n{bounds}"


def explain(
    compared: Sequence[Mapping[str, Any] | None], verdicts: Sequence[str], family: str, *, noise_known: bool
) -> None:
    """What the columns mean, on stderr."""
    found = [flips for flips in compared if flips]
    graded = [flips for flips in found if flips["n_lost"] is not None]
    if any(flips["test"] == "mcnemar_exact" for flips in graded):
        remark(f"lost/won: right in the baseline, wrong here / the reverse; p: McNemar's exact test{family}")
    if any(flips["test"] != "mcnemar_exact" for flips in graded):
        remark(
            "lost/won: over all rotations, right in the baseline, wrong here / the reverse;"
            f" p and difference: clustered by question{family}"
        )
    if len(graded) < len(found):
        remark("no key: the suite's answers are not public here; answers that changed are counted, no more")
    if "not separable" in verdicts:
        remark(
            "(finds ≥ …): the least difference that so many answers show in 80 % of comparisons (alpha 0.05,"
            " uncorrected); not separable is not equal"
        )
    if found and noise_known:
        remark(
            "noise floor: flips of the file against itself when each question is scored alone; a difference"
            " has to exceed it, and the baseline's"
        )
    elif found:
        remark("noise floor: not measured; edgebench run --noise-floor asks each question once more, alone")
