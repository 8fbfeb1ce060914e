"""Do two engines give the same answers? Run against run: a gate that stands before any claim of speed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from edgebench.core.stats import Estimate, wilson
from edgebench.core.types import Format
from edgebench.results.answers import Answer, answers
from edgebench.results.records import RunRow
from edgebench.results.store import Store

LEAST_AGREE_SHARE = 0.99
"""Of the shared answers, those that must be the same choice."""
F32_LIMIT_NATS = 0.01
"""In f32, where engines differ by the order of their sums (0.0003 was seen): how far a log-probability may be
off, and how close the two best choices must be where engines prefer different ones."""
ROUNDED_GAP_LIMIT_NATS = 0.5
"""That gap elsewhere: another batch shape alone moves a quantized file's log-probabilities by up to 0.4."""

_F32_LEVELS = frozenset({"f32", "onnx-fp32", "genai-fp32"})


class Gate(StrEnum):
    """Whether an engine computes what the base computes."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A question that two engines answered differently."""

    question_id: str
    rotation: int
    gap_nats: float | None
    """Between the two best choices, the larger of both engines'; None where log-probabilities are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """An accuracy run against the base's."""

    gate: Gate
    reasons: tuple[str, ...] = ()
    """What failed, or why nothing can be said; empty where the gate passed."""
    in_f32: bool = False
    """Both computed in f32 throughout: the limit of log-probabilities holds."""
    gap_limit_nats: float | None = None
    logprob_limit_nats: float | None = None
    """None where differences are printed only."""
    agree: Estimate | None = None
    """Share of the shared answers that are the same choice; `n` is their number."""
    largest_nats: float | None = None
    """Of the absolute differences of the choices' log-probabilities."""
    median_nats: float | None = None
    n_other_prompts: int = 0
    """Shared questions whose prompts have another number of tokens."""
    disagreements: tuple[Disagreement, ...] = ()


def computes_in_f32(run: RunRow) -> bool:
    """Whether weights, cache and attention were f32: levels that are, or a checkpoint widened in torch.

    On a CPU: GPUs round the factors of f32 products where a library lets them. A server that ran already
    was not told by us.
    """
    told = run.settings
    whole = run.quant in _F32_LEVELS or run.format is Format.SAFETENSORS
    wanted = {"flash_attn": "off", "type_k": "f32", "type_v": "f32"}
    left_to_it = {"dtype": "f32", "provider": "cpu", "n_gpu_layers": 0}
    return (
        whole and "server" not in told and {**left_to_it, **told}.items() >= {**left_to_it, **wanted}.items()
    )


def parity(store: Store, base: RunRow | None, new: RunRow | None) -> Parity:
    """How far `new` agrees with `base` on the questions both answered, and whether that is enough."""
    if base is None or new is None:
        return Parity(gate=Gate.UNKNOWN, reasons=("no accuracy run",))
    if base.config.get("template_sha256") != new.config.get("template_sha256"):
        return Parity(gate=Gate.UNKNOWN, reasons=("asked by another prompt template",))
    theirs = {(answer.question_id, answer.repeat): answer for answer in answers(store, base)}
    pairs = [
        (theirs[key], answer)
        for answer in answers(store, new)
        if (key := (answer.question_id, answer.repeat)) in theirs
    ]
    if not pairs:
        return Parity(gate=Gate.UNKNOWN, reasons=("no shared answers",))
    return judge(pairs, in_f32=computes_in_f32(base) and computes_in_f32(new))


def judge(pairs: Sequence[tuple[Answer, Answer]], *, in_f32: bool) -> Parity:
    """The gate for answers to the same questions, at least one pair."""
    differences = [
        abs(a - b)
        for one, other in pairs
        if one.logprobs and other.logprobs
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    ]
    disagreements = tuple(
        Disagreement(question_id=one.question_id, rotation=one.repeat, gap_nats=_gap_nats(one, other))
        for one, other in pairs
        if one.choice_index != other.choice_index
    )
    found = Parity(
        gate=Gate.UNKNOWN,
        in_f32=in_f32,
        gap_limit_nats=F32_LIMIT_NATS if in_f32 else ROUNDED_GAP_LIMIT_NATS,
        logprob_limit_nats=F32_LIMIT_NATS if in_f32 else None,
        agree=wilson(len(pairs) - len(disagreements), len(pairs)),
        largest_nats=max(differences, default=None),
        median_nats=median(differences) if differences else None,
        n_other_prompts=sum(one.n_prompt != other.n_prompt for one, other in pairs),
        disagreements=disagreements,
    )
    return _with_gate(found)


def _with_gate(found: Parity) -> Parity:
    if failures := tuple(_failures(found)):
        return replace(found, gate=Gate.FAIL, reasons=failures)
    if found.largest_nats is None:
        return replace(found, reasons=("no log-probs: ask by letter or cloze",))
    return replace(found, gate=Gate.PASS)


def _failures(found: Parity) -> list[str]:
    told = []
    if found.agree and found.agree.value < LEAST_AGREE_SHARE:
        told.append(f"{100 * found.agree.value:.1f} % agree (limit {100 * LEAST_AGREE_SHARE:g} %)")
    limit = found.gap_limit_nats or 0.0
    gaps = [one.gap_nats for one in found.disagreements if one.gap_nats is not None]
    if wide := [gap for gap in gaps if gap >= limit]:
        told.append(f"{len(wide)} disagree by up to {max(wide):.2g} nat (limit {limit:g})")
    limit_nats = found.logprob_limit_nats
    if limit_nats is not None and found.largest_nats is not None and found.largest_nats > limit_nats:
        told.append(f"log-probs differ by up to {found.largest_nats:.2g} nat (limit {limit_nats:g})")
    if found.n_other_prompts:
        told.append(f"{found.n_other_prompts} prompts of another length")
    return told


def _gap_nats(one: Answer, other: Answer) -> float | None:
    gaps = []
    for answer in (one, other):
        if answer.logprobs is None:
            return None
        best, second, *_ = sorted(answer.logprobs, reverse=True)
        gaps.append(best - second)
    return max(gaps)
