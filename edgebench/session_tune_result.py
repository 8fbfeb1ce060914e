"""What `tune` found: the two settings that were held together, the ranking, and what it took."""

from dataclasses import dataclass
from typing import Any

from edgebench.core.stats import Estimate
from edgebench.core.types import Artifact
from edgebench.session_tune_answers import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A setting and what it costs: medians over the visits it was compared in."""

    settings: dict[str, Any]
    flags: str
    """Of the settings that were tried: `-t 2 -ub 256`."""
    run_id: str
    request_s: Estimate | None
    energy_j_per_request: Estimate | None
    peak_bytes: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A setting as the search left it."""

    flags: str
    run_id: str | None
    value: float | None
    """Its figure over the default's, median; None where it could not be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What `tune` found."""

    artifact: Artifact
    default: Side
    candidate: Side | None
    """The setting that was held against the default; None where none was better and allowed."""
    ratio: Estimate | None
    """The candidate's figure over the default's, from that comparison alone."""
    separable: bool
    """Whether the candidate is surely better; else the default is as good."""
    kept: Kept | None
    """What the candidate did to the answers, where they were watched."""
    dropped: tuple[tuple[str, str], ...]
    """Settings that may not be taken or could not be measured, and why."""
    ranking: tuple[Ranked, ...]
    """All settings but the default, the best first."""
    n_repetitions: int
    """Repetitions that were asked for and made, those stored before among them."""
    n_passes: int
    """The same with warm-ups."""
    n_measured: int
    """Repetitions in all: a slow meter's windows take more than were asked for."""
    n_flagged: int
    """Of these, how many something disturbed."""
    run_ids: tuple[str, ...]
    invalid: tuple[str, ...]
    """Runs of the two sides whose figures can't be trusted."""

    @property
    def best(self) -> Side:
        """What to use."""
        return self.candidate if self.candidate and self.separable else self.default
