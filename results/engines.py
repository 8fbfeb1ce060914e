"""The same weights in several engines, against one of them: whether they compute the same, then their costs.

Weights are the same when it is the very same file, or when both files hold what one parent had
(`core.types.WHOLE_LEVELS`): an f32 GGUF, an fp32 ONNX folder and the checkpoint both were made from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgebench.core.errors import UsageError, nearest
from edgebench.core.stats import ratio_of
from edgebench.core.types import WHOLE_LEVELS
from edgebench.results.compare import Ratio, noise_floor, ratio_verdict, speed_ratios
from edgebench.results.flips import Flips, flips
from edgebench.results.levels import LevelRow, level_rows
from edgebench.results.parity import Gate, Parity, computes_in_f32, parity
from edgebench.results.performance_summary import WHOLE_RUN
from edgebench.results.store import Store

USUAL_BASES = ("torch", "llama_cpp")
"""Whom the others are held against: the reference where it is there."""
WITHHELD = "parity not shown"
"""Instead of a ratio's verdict: who computes something else is not faster."""
SHORTEST_ID = 6
"""Characters of a run's id that name it."""

_PARENTS = """
  SELECT id, model_id, quant, coalesce(parent_id, json_extract(manifest_json, '$.parent_sha256')) AS parent_id
  FROM artifact"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """An engine on one file, against the base."""

    row: LevelRow
    parity: Parity | None
    """None for the base itself."""
    flips: Flips | None
    """Against the base; None for the base itself and where accuracy is missing."""
    noise: Flips | None
    """Its own noise floor: the same file and engine, questions grouped and alone."""
    ratios: tuple[Ratio, ...]
    """Its costs over the base's: rates, latencies, peak memory, joules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTable:
    """Engines on the same weights."""

    base: EngineRow
    engines: tuple[EngineRow, ...]
    """The base first."""
    left_out: tuple[tuple[str, str], ...]
    """Engine with level, and why it is not compared with the base."""


def by_engine(
    store: Store,
    *,
    device: str | None = None,
    model: str | None = None,
    suite: str | None = None,
    scorer: str | None = None,
    permute: str | None = None,
    num_fewshot: int | None = None,
    base: str | None = None,
) -> EngineTable:
    """Every engine that ran the base's weights; `base` is an engine's name or begins the id of a run.

    Accuracy runs in f32 speak for an engine before newer ones in other settings. UsageError when no two
    engines ran the same weights, or the base is not known.
    """
    rows = level_rows(
        store,
        device=device,
        model=model,
        suite=suite,
        scorer=scorer,
        permute=permute,
        num_fewshot=num_fewshot,
        per_engine=True,
        prefer=computes_in_f32,
    )
    models = sorted({row.model for row in rows})
    if len(models) > 1:
        raise UsageError(f"{len(models)} models can't share a base: {', '.join(models)}", "name one: -m")
    weights = weights_of(store)
    chosen = _base(rows, weights, base)
    same = [row for row in rows if weights[row.artifact_id] == weights[chosen.artifact_id]]
    if len({row.engine for row in same}) < 2:
        whose = f"the weights of {title(chosen)}" if base else f"the same weights of {chosen.model}"
        raise UsageError(
            f"no two engines ran {whose}",
            "measure the same file, or the f32 GGUF, onnx-fp32 and genai-fp32 that edgebench quantize makes"
            " of one model: edgebench run -m FILE --runner NAME -fa off -ctk f32 -ctv f32",
        )
    against = EngineRow(row=chosen, parity=None, flips=None, noise=noise_floor(store, chosen), ratios=())
    others = tuple(compared(store, chosen, row) for row in same if row is not chosen)
    left_out = tuple((title(row), _why(row, chosen)) for row in rows if row not in same)
    return EngineTable(base=against, engines=(against, *others), left_out=left_out)


def title(row: LevelRow) -> str:
    """`onnx onnx-fp32`: an engine and what it ran."""
    return f"{row.engine} {row.label}"


def weights_of(store: Store) -> dict[str, tuple[str, str]]:
    """Artifact -> what its weights are: the file itself, or what a whole level was made from."""
    known = {row["id"]: row for row in store.rows(_PARENTS)}

    def origin(artifact_id: str, model: str) -> str:
        row, passed = known.get(artifact_id), {artifact_id}
        # Merged with an adapter, a model has another name, and weights of its own.
        while row and row["quant"] in WHOLE_LEVELS and row["model_id"] == model and row["parent_id"]:
            artifact_id = row["parent_id"]
            if artifact_id in passed:
                break
            passed.add(artifact_id)
            row = known.get(artifact_id)
        return artifact_id

    return {
        id_: ("origin", origin(id_, row["model_id"])) if row["quant"] in WHOLE_LEVELS else ("file", id_)
        for id_, row in known.items()
    }


def _base(rows: Sequence[LevelRow], weights: Mapping[str, tuple[str, str]], name: str | None) -> LevelRow:
    """The row that was named, else of a usual base; of several, the one with most engines beside it."""
    if not rows:
        raise UsageError("no complete runs", "edgebench run --runner NAME measures with an engine")

    def company(row: LevelRow) -> tuple[bool, int, int, bool]:
        engines = {other.engine for other in rows if weights[other.artifact_id] == weights[row.artifact_id]}
        rank = USUAL_BASES.index(row.engine) if row.engine in USUAL_BASES else len(USUAL_BASES)
        return len(engines) > 1, -rank, len(engines), row.accuracy is not None

    fitting = [row for row in rows if name is None or name == row.engine or _has_run(row, name)]
    if name is not None and not fitting:
        raise nearest(name, {row.engine for row in rows}, kind="engine in this database")
    return max(fitting, key=company)


def _has_run(row: LevelRow, name: str) -> bool:
    return len(name) >= SHORTEST_ID and any(run.id.startswith(name.upper()) for run in row.runs)


def _why(row: LevelRow, base: LevelRow) -> str:
    if row.quant in WHOLE_LEVELS and base.quant in WHOLE_LEVELS:
        return f"no common origin with {title(base)} is recorded: edgebench quantize records it"
    return f"other weights than {title(base)}: quantized levels are compared as the same file only"


def compared(store: Store, base: LevelRow, row: LevelRow) -> EngineRow:
    """A row against the base: answers first, and costs only behind them."""
    found = parity(store, base.accuracy, row.accuracy)
    changed = flips(store, base.accuracy, row.accuracy) if base.accuracy and row.accuracy else None
    ratios = _costs(base, row)
    if base.performance and row.performance:
        ratios = speed_ratios(store, base.performance, row.performance) + ratios
    if found.gate is not Gate.PASS:
        ratios = tuple(replace(ratio, verdict=WITHHELD) for ratio in ratios)
    return EngineRow(row=row, parity=found, flips=changed, noise=noise_floor(store, row), ratios=ratios)


def _costs(base: LevelRow, row: LevelRow) -> tuple[Ratio, ...]:
    """Peak memory, and joules where one meter, of one scope, gave both."""
    tests = {"peak_rss_bytes": WHOLE_RUN}
    if all(base.meter[key] == row.meter[key] for key in ("source", "scope")):
        tests |= {
            "energy_j_per_prompt_token": str(base.prefill_test),
            "energy_j_per_token": str(base.decode_test),
            "energy_j_per_request": str(base.chat_test),
            "energy_j_per_question": str(base.suite_id),
        }
    found = []
    for metric, test in tests.items():
        before, after = base.figures.get(metric), row.figures.get(metric)
        if before and after and (ratio := ratio_of(before, after)):
            verdict = ratio_verdict(metric, ratio)
            found.append(
                Ratio(test=test, metric=metric, base=before, new=after, ratio=ratio, verdict=verdict)
            )
    return tuple(found)
