"""What the order of the options does to each level: the table of runs that asked all rotations."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from edgebench.core.errors import UsageError
from edgebench.core.option_order import Pride, Turned, order_report
from edgebench.core.stats import Z95, Estimate
from edgebench.core.types import Permutation
from edgebench.results.answers import Answer, answers, by_question, is_permuted
from edgebench.results.levels import LevelRow, level_rows
from edgebench.results.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What only a key can tell."""

    accuracy: Estimate
    """Mean over all rotations, clustered by question."""
    circular: Estimate
    """CircularEval: right in every rotation."""
    circular_chance_acc: float
    """What guessing gets there."""
    gold_at: tuple[Estimate, ...]
    """Accuracy where the right option stood at place j."""
    rstd: Estimate
    """Standard deviation of these."""
    rstd_noise_share: float
    """The RStd that so many questions show by chance."""
    pride: Pride | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelOrder:
    """A level's answers to the same questions in every rotation of their options."""

    row: LevelRow
    n: int
    """Questions."""
    n_incomplete: int
    """Questions left out: an answer to some rotation is missing."""
    consistent: Estimate
    """The same option chosen in every rotation, right or wrong."""
    chosen_at: tuple[Estimate, ...]
    """Share of the answers that chose place j, of the questions that have it."""
    fair_at: tuple[float, ...]
    """That share, were all places liked alike."""
    graded: Graded | None
    """None without a key."""

    @property
    def leans_index(self) -> int | None:
        """The place that is chosen too often by the most, beyond chance; None where none is.

        Each lower limit is moved out so far that all of them together hold in 97.5 % of cases.
        """
        wider = NormalDist().inv_cdf(1 - 0.025 / len(self.chosen_at)) / Z95
        excess = {
            place: share.value - fair
            for place, (share, fair) in enumerate(zip(self.chosen_at, self.fair_at, strict=True))
            if share.ci_low is not None and share.value - wider * (share.value - share.ci_low) > fair
        }
        return max(excess, key=lambda place: excess[place], default=None)

    @property
    def lean_share(self) -> float | None:
        """By how much it is chosen too often."""
        place = self.leans_index
        return None if place is None else self.chosen_at[place].value - self.fair_at[place]


def place_name(place: int) -> str:
    """`A` for the first place."""
    return chr(ord("A") + place)


def order_rows(
    store: Store,
    *,
    device: str | None = None,
    model: str | None = None,
    suite: str | None = None,
    scorer: str | None = None,
    num_fewshot: int | None = None,
) -> list[LevelOrder]:
    """Levels with a complete permuted run, widest first; UsageError when there is none."""
    permuted = {run.id for run in store.runs() if is_permuted(run)}
    rows = level_rows(
        store,
        device=device,
        model=model,
        suite=suite,
        scorer=scorer,
        permute=Permutation.CYCLIC.value if permuted else None,
        num_fewshot=num_fewshot,
        only=permuted,
    )
    found = [level for row in rows if (level := _level(store, row))]
    if not found:
        raise UsageError(
            "no complete run asked its questions in every order",
            "edgebench run --mode accuracy --scorer letter --permute cyclic",
        )
    return found


def _level(store: Store, row: LevelRow) -> LevelOrder | None:
    if row.accuracy is None:
        return None
    questions = by_question(answers(store, row.accuracy))
    whole = [turned for turned in map(_turned, questions.values()) if turned]
    report = order_report(whole)
    if report is None:
        return None
    keyed = all(question[0].answer_index is not None for question in questions.values())
    return LevelOrder(
        row=row,
        n=report.n,
        n_incomplete=len(questions) - len(whole),
        consistent=report.consistent,
        chosen_at=report.chosen_at,
        fair_at=report.fair_at,
        graded=Graded(
            accuracy=report.accuracy,
            circular=report.circular,
            circular_chance_acc=report.circular_chance_acc,
            gold_at=report.gold_at,
            rstd=report.rstd,
            rstd_noise_share=report.rstd_noise_share,
            pride=report.pride,
        )
        if keyed
        else None,
    )


def _turned(question: Sequence[Answer]) -> Turned | None:
    """A question with an answer to each of its rotations."""
    n_choices, logprobs = question[0].n_choices, [answer.logprobs for answer in question]
    if not n_choices or [answer.repeat for answer in question] != list(range(n_choices)):
        return None
    whole = [row for row in logprobs if row is not None]
    return Turned(
        # Without a key any index will do: what it decides is not shown.
        answer_index=question[0].answer_index or 0,
        choices=[answer.choice_index for answer in question],
        logprobs=whole if len(whole) == n_choices else None,
    )
