"""Which levels are not beaten on two figures at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgebench.core.errors import UsageError, nearest
from edgebench.core.stats import Estimate
from edgebench.core.types import Evidence
from edgebench.results.answers import HEADLINE_TITLES
from edgebench.results.levels import LevelRow, refuse_mixed_schemes, refuse_mixed_scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a level, as an axis."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    unit: str = ""
    """What the axis counts in; empty for shares."""
    scale: float = 1.0
    """SI units in one axis unit: 2**20 for MiB."""
    aliases: tuple[str, ...] = ()
    made_by: str = "edgebench run --mode performance"
    """The command whose runs have this figure."""

    @property
    def axis_title(self) -> str:
        """`Decode (tokens/s)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def axis_title_of(self, row: LevelRow) -> str:
        """`Decode tg128 (tokens/s)`: with the test that was taken for the rows of this table."""
        test = {
            "prefill_tokens_per_s": row.prefill_test,
            "decode_tokens_per_s": row.decode_test,
            "ttft_s": row.chat_test,
            "tpot_s": row.chat_test,
        }.get(self.name)
        return self.axis_title.replace(self.title, f"{self.title} {test}") if test else self.axis_title

    def read(self, row: LevelRow) -> Estimate | None:
        """The figure of a level, in SI units."""
        return row.figures.get(self.name)

    def loss(self, value: float) -> float:
        """The value with the sign that makes less better."""
        return value if self.better == "lower" else -value


METER_NEEDED = "edgebench devices probe tells what this computer can measure energy with"

_ALL = (
    Metric(name="size_bytes", title="File size", better="lower", unit="MiB", scale=2**20, aliases=("size",)),
    Metric(name="bits_per_weight", title="Bits per weight", better="lower", aliases=("bpw",)),
    Metric(
        name="prefill_tokens_per_s",
        title="Prefill",
        better="higher",
        unit="tokens/s",
        aliases=("pp", "pp512", "prefill"),
    ),
    Metric(
        name="decode_tokens_per_s",
        title="Decode",
        better="higher",
        unit="tokens/s",
        aliases=("tg", "tg128", "decode"),
    ),
    Metric(
        name="ttft_s", title="Time to first token", better="lower", unit="ms", scale=1e-3, aliases=("ttft",)
    ),
    Metric(
        name="tpot_s", title="Time per output token", better="lower", unit="ms", scale=1e-3, aliases=("tpot",)
    ),
    Metric(
        name="peak_rss_bytes", title="Peak memory", better="lower", unit="MiB", scale=2**20, aliases=("rss",)
    ),
    Metric(name="load_s", title="Load", better="lower", unit="ms", scale=1e-3, aliases=("load",)),
    *(
        Metric(name=name, title=title, better="higher", made_by="edgebench run --mode accuracy")
        for name, title in HEADLINE_TITLES.items()
    ),
    *(
        Metric(name=name, title=title, better="lower", unit=unit, aliases=aliases, made_by=METER_NEEDED)
        for name, title, unit, aliases in (
            ("energy_j_per_token", "Energy", "J/token", ("energy",)),
            ("energy_j_per_prompt_token", "Prefill energy", "J/token", ()),
            ("energy_j_per_request", "Energy of a request", "J", ()),
            ("energy_j_per_question", "Energy of a question", "J", ()),
            ("energy_j_per_correct", "Energy of a right answer", "J", ()),
        )
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
_BY_ANY_NAME = METRICS | {alias: metric for metric in _ALL for alias in metric.aliases}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A level in the plane of two figures."""

    row: LevelRow
    x: Estimate
    y: Estimate
    ranked: bool
    """False for figures that were not measured: shown, but they neither win nor beat anyone."""
    on_front: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Points, and the levels that could not be placed."""

    points: tuple[Point, ...]
    left_out: tuple[tuple[str, str], ...]
    """(level, why)."""


def metric(name: str) -> Metric:
    """The metric of a name or alias; UsageError with the nearest names when unknown."""
    if name not in _BY_ANY_NAME:
        raise nearest(name, METRICS, kind="metric")
    return _BY_ANY_NAME[name]


def accuracy_axis(*axes: Metric) -> Metric | None:
    """The axis that shows answers to questions: with it goes what a suite has to say."""
    return next((axis for axis in axes if axis.name in HEADLINE_TITLES), None)


def front(rows: Iterable[LevelRow], x: Metric, y: Metric, *, allow_synthetic: bool = False) -> Front:
    """Place levels by two figures; on the front is whoever nobody equals on one and beats on the other."""
    placed: list[tuple[LevelRow, Estimate, Estimate, bool]] = []
    left_out = []
    rows = list(rows)
    if accuracy_axis(x, y):
        refuse_mixed_schemes(rows)
    if any(axis.name.startswith("energy_") for axis in (x, y)):
        refuse_mixed_scopes(rows)
    for axis in (x, y):
        if not any(axis.read(row) for row in rows):
            raise UsageError(f"no run in this database has {axis.title.lower()}", axis.made_by)
    for row in rows:
        at_x, at_y = x.read(row), y.read(row)
        if at_x is None or at_y is None:
            missing = [axis.title.lower() for axis in (x, y) if axis.read(row) is None]
            left_out.append((row.label, f"no {' and no '.join(missing)}"))
        else:
            placed.append((row, at_x, at_y, allow_synthetic or _is_measured(row, x, y)))
    losses = [(x.loss(at_x.value), y.loss(at_y.value)) for _, at_x, at_y, ranked in placed if ranked]
    points = tuple(
        Point(
            row=row,
            x=at_x,
            y=at_y,
            ranked=ranked,
            on_front=ranked and not _beaten((x.loss(at_x.value), y.loss(at_y.value)), losses),
        )
        for row, at_x, at_y, ranked in placed
    )
    return Front(points=points, left_out=tuple(left_out))


def _is_measured(row: LevelRow, *axes: Metric) -> bool:
    """Whether both figures are: a recorded meter's joules are not, also of a run that is."""
    replayed = row.meter["evidence"] not in (None, Evidence.MEASURED)
    uses_energy = any(axis.name.startswith("energy_") for axis in axes)
    return row.evidence is Evidence.MEASURED and not (uses_energy and replayed)


def _beaten(loss: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether another is at least as good on both, and better on one: ties beat nobody."""
    return any(other != loss and other[0] <= loss[0] and other[1] <= loss[1] for other in others)
