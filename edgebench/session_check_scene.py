"""What is checked, with what, and on what: the parts of a check before the first prediction."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil

from edgebench.core import registry
from edgebench.core.engine import Runner
from edgebench.core.errors import EdgebenchError, MissingDependency, ModelError, StoreError
from edgebench.core.hashing import sha256_json, sha256_text
from edgebench.core.paths import cache_part, free_bytes
from edgebench.core.tool_env import Tool, ensure_tool
from edgebench.core.types import Artifact, Question, Scorer, Settings
from edgebench.session_cell import Watcher
from edgebench.session_child import Child
from edgebench.session_job import as_job
from edgebench.session_questions import N_CELLS
from edgebench.suites.groups import limited, ordered_groups
from edgebench.suites.loader import load_suite
from edgebench.suites.prompts import build_prompt, suite_template
from edgebench.suites.scoring import grade

SUITE = "everyday"
PROMPTS = (
    "The train was late again, so",
    "To make a simple tomato soup, first",
    "The three most important rules of working in a laboratory are",
    "Dear neighbour,\n\nThank you for",
    "When water freezes, it",
    "She opened the old wooden box and found",
    "A patient with a fever and a stiff neck should",
    "def mean(values):\n",
    "The difference between weather and climate is",
    "1, 2, 4, 8, 16,",
    "Q: Why is the sky blue?\nA:",
    "The heart pumps blood through",
    "In the year the bridge was built, the town",
    "My favourite way to spend a rainy afternoon is",
    "If you want to learn to swim, you should",
    "The report compares two kinds of batteries:",
)
"""What the greedy continuations begin with."""

_STALE = ".check-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """How much is checked. The engine's settings are the parity rule's: f32 cache, no flash attention."""

    n_threads: int
    text: str | None = None
    """None: the held-out text that edgebench brings along."""
    n_chunks: int | None = None
    """Of `n_ctx` tokens each; None: as many as the text has."""
    n_ctx: int = 512
    n_prompts: int = len(PROMPTS)
    n_greedy: int = 64
    n_questions: int = 48
    n_self_chunks: int = 4
    """Chunks of the reference that are evaluated again in another batch shape."""


@dataclass(slots=True, kw_only=True)
class Subject:
    """One check to do: an artifact, or the reference itself in another batch shape."""

    artifact: Artifact
    runner: Runner
    settings: Settings
    n_chunks: int | None
    config: dict[str, Any]
    key_sha256: str
    check_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What all checks of a ladder share."""

    tokens: Mapping[str, Any]
    chunks: Sequence[Sequence[int]]
    groups: Sequence[Sequence[Question]]
    group_jobs: Sequence[Sequence[Mapping[str, Any]]]
    base: Path
    request: CheckRequest


class ReferenceFailed(Exception):
    """The reference's own process failed: nothing can be compared. Never leaves `session_check`."""

    def __init__(self, cause: EdgebenchError) -> None:
        super().__init__(cause.message)
        self.message, self.hint = cause.message, cause.hint


@contextmanager
def reference_told() -> Iterator[None]:
    """Turn what the reference's own process can't do into ReferenceFailed."""
    try:
        yield
    except StoreError:
        raise
    except EdgebenchError as error:
        raise ReferenceFailed(error) from error


def heldout_text() -> str:
    """The built-in text that artifacts are checked on; no calibration text shares a sentence with it."""
    return files("edgebench.quantize").joinpath("data/heldout.txt").read_text(encoding="utf-8")


def runner_for(artifact: Artifact) -> Runner:
    """The engine that opens an artifact's format; MissingDependency when none can here."""
    reasons = []
    for name in registry.names("runners"):
        runner: Runner = registry.load("runners", name)
        if artifact.quant.format in runner.formats:
            # What works in a tool environment can be had: the environment is made on the way.
            if (why := None if runner.tool else runner.available()) is None:
                return runner
            reasons.append((f"runner {name}: {why}", runner.install))
    if reasons:
        raise MissingDependency(*reasons[0])
    raise MissingDependency(
        f"no runner opens {artifact.quant.format} files: {artifact.label} can't be checked"
    )


def subject_of(
    reference: Artifact, artifact: Artifact, text: str, request: CheckRequest, *, alone: bool = False
) -> Subject:
    """An artifact with all that decides its check; `alone`: the reference, in another batch shape."""
    runner, reference_runner = runner_for(artifact), runner_for(reference)
    settings = Settings(
        n_threads=request.n_threads,
        n_batch=request.n_ctx,
        n_ubatch=request.n_ctx,
        flash_attn="off",
        type_k="f32",
        type_v="f32",
    )
    n_chunks = request.n_chunks
    if alone:
        # Smaller steps: another batch shape, in which a perfect engine would compute the same.
        settings = replace(settings, n_batch=request.n_ctx // 8, n_ubatch=request.n_ctx // 8)
        n_chunks = min(request.n_self_chunks, request.n_chunks or request.n_self_chunks)
    suite = load_suite(SUITE)
    groups = limited(ordered_groups(suite), request.n_questions)
    config = {
        "text_sha256": sha256_text(text),
        "n_ctx": request.n_ctx,
        "n_chunks": n_chunks,
        "prompts_sha256": sha256_json(PROMPTS[: request.n_prompts]),
        "n_greedy": request.n_greedy,
        "suite": suite.id,
        "suite_sha256": suite.sha256,
        "template_sha256": sha256_json(asdict(suite_template(suite, Scorer.CLOZE))),
        "groups_sha256": sha256_json([[question.id for question in group] for group in groups]),
        "n_cells": N_CELLS,
        "settings": settings.as_config(),
        "runner": runner.name,
        "runner_version": runner.version(),
        "reference_runner": reference_runner.name,
        "reference_runner_version": reference_runner.version(),
    }
    return Subject(
        artifact=artifact,
        runner=runner,
        settings=settings,
        n_chunks=n_chunks,
        config=config,
        key_sha256=sha256_json([config, artifact.sha256, reference.sha256]),
    )


def tool_of(runner: Runner, watcher: Watcher) -> Tool | None:
    """The environment a runner's process needs, made when it is not there."""
    return ensure_tool(runner.tool, watcher.say) if runner.tool else None


def engine(subject: Subject) -> dict[str, Any]:
    """What a measuring process must know to open the artifact."""
    return {
        "kind": "check",
        "runner": subject.runner.name,
        "path": str(subject.artifact.path.absolute()),
        "settings": subject.settings.as_config(),
    }


@contextmanager
def staged(
    reference: Subject, text: str, tools: Mapping[str, Tool | None], request: CheckRequest
) -> Iterator[Scene]:
    """Tokens from the reference's own tokenizer, questions, and a place for its log-probabilities."""
    prompts = PROMPTS[: request.n_prompts]
    tokens: Mapping[str, Any] = {}
    with (
        reference_told(),
        Child(
            {**engine(reference), "text": text, "prompt_texts": prompts}, tools[reference.runner.name]
        ) as child,
    ):
        for message in child.messages():
            tokens = message if message["type"] == "checked" else tokens
    chunks = _chunks(tokens["text"], tokens["bos"], request)
    suite = load_suite(SUITE)
    groups = limited(ordered_groups(suite), request.n_questions)
    asked = [[build_prompt(suite, question, Scorer.CLOZE) for question in group] for group in groups]
    with _base(len(chunks) * (request.n_ctx - 1 - request.n_ctx // 2) * tokens["n_vocab"] * 4) as base:
        yield Scene(
            tokens=tokens,
            chunks=chunks,
            groups=groups,
            group_jobs=[[as_job(prompt) for prompt in group] for group in asked],
            base=base,
            request=request,
        )


def _chunks(tokens: Sequence[int], bos: int | None, request: CheckRequest) -> list[list[int]]:
    """llama-perplexity's chunks: of equal length, what is left over is dropped, BOS in the first place."""
    n_ctx = request.n_ctx
    n_chunks = min(len(tokens) // n_ctx, request.n_chunks or len(tokens))
    if n_chunks < 1:
        raise ModelError(
            f"the text to check on has {len(tokens)} tokens, one chunk takes {n_ctx}", "use a longer text"
        )
    chunks = [list(tokens[i * n_ctx : (i + 1) * n_ctx]) for i in range(n_chunks)]
    for chunk in chunks:
        chunk[0] = chunk[0] if bos is None else bos
    return chunks


@contextmanager
def _base(n_bytes: int) -> Iterator[Path]:
    """A file of that size in a temporary folder of the cache; free disk is checked first."""
    parent = cache_part("work")
    for stale in parent.glob(f"{_STALE}*"):  # of a process that was killed
        pid = stale.name.removeprefix(_STALE).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(stale, ignore_errors=True)
    if free_bytes(parent) < n_bytes * 1.05:
        raise ModelError(
            f"{parent} has no room for the reference's log-probabilities ({n_bytes / 1e6:.0f} MB)",
            "free some disk, point EDGEBENCH_CACHE at another one, or leave the check out (--no-check)",
        )
    with tempfile.TemporaryDirectory(dir=parent, prefix=f"{_STALE}{os.getpid()}-") as folder:
        path = Path(folder) / "base.f32"
        with path.open("wb") as file:
            file.truncate(n_bytes)
        yield path


def text_job(scene: Scene, n_chunks: int | None) -> dict[str, Any]:
    """The chunks to predict, and where the reference's log-probabilities stand."""
    return {
        "chunks": scene.chunks[:n_chunks],
        "n_base_chunks": len(scene.chunks),
        "n_vocab": scene.tokens["n_vocab"],
        "base": str(scene.base),
    }


def answers_job(scene: Scene) -> dict[str, Any]:
    """The questions to answer, in both shapes."""
    return {"groups": scene.group_jobs, "n_cells": N_CELLS}


def graded_rows(message: Mapping[str, Any], scene: Scene) -> list[dict[str, object]]:
    """A scoring group's rows of `check_answer`; ModelError when a log-likelihood is not finite."""
    questions = {question.id: question for question in scene.groups[message["group"]]}
    rows: list[dict[str, object]] = []
    for answer in message["answers"]:
        try:
            graded = grade(questions[answer["question_id"]], answer["logprobs"], letters=False)
        except ValueError as error:
            raise ModelError(str(error), "the weights are damaged, or the engine overflowed") from error
        rows.append(
            {
                "shape": message["shape"],
                "question_id": answer["question_id"],
                "choice_index": graded.choice_index,
                "correct": int(bool(graded.correct)),
            }
        )
    return rows
