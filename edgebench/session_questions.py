"""The questions a run asks, and how: suites, worked examples, groups, rotations, samples."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from edgebench.core.engine import Runner
from edgebench.core.errors import UsageError
from edgebench.core.hashing import sha256_json
from edgebench.core.types import Mode, Permutation, Question, Scorer, Settings, Shape, Suite
from edgebench.session_job import Job
from edgebench.suites.fewshot import Shots
from edgebench.suites.groups import first_groups, limited, ordered_groups
from edgebench.suites.loader import load_pool, load_suite
from edgebench.suites.prompts import suite_template

if TYPE_CHECKING:
    from edgebench.session_plan import Request

N_CELLS = 512
"""Tokens to a scoring batch: one physical batch, so that attention never looks past it."""
N_CELLS_WRITING = 2048
"""Tokens of the contexts that are written after in step."""


def accuracy_jobs(name: str, request: "Request", runner: Runner, settings: Settings) -> list[Job]:
    """The jobs a suite makes: one, and one more for the noise floor. UsageError or SuiteError."""
    suite = load_suite(name, request.data, key=request.key)
    scorer = request.scorer or suite.default_scorer
    template = suite_template(suite, scorer)
    if request.permutation is Permutation.CYCLIC and scorer is Scorer.CLOZE:
        raise UsageError(
            "--permute has nothing to permute: cloze does not show the options", "use --scorer letter"
        )
    if request.target_ci is not None and (request.limit_first or request.permutation is Permutation.CYCLIC):
        raise UsageError(
            "--target-ci draws questions at random, one answer each",
            "leave out --limit-first and --permute, or --target-ci",
        )
    shots = None
    if request.num_fewshot:
        shots = Shots(suite, load_pool(name, request.data), request.num_fewshot)
    groups, n_groups = _groups(suite, request)
    config = {
        "mode": "accuracy",
        "runner": runner.name,
        "runner_version": runner.version(),
        "settings": settings.as_config(),
        "suite": suite.id,
        "suite_sha256": suite.sha256,
        "scorer": scorer.value,
        "template_sha256": sha256_json(asdict(template)),
        "num_fewshot": request.num_fewshot,
        "permute": request.permutation.value,
        "apply_chat_template": request.apply_chat_template,
        "truncate": request.truncate,
        "sampling": "first" if request.limit_first else "stratified",
        "groups_sha256": sha256_json([[q.id for q in group] for group in groups]),
        "seed": suite.seed,
    }
    n_cells = N_CELLS_WRITING if scorer is Scorer.GENERATE else N_CELLS
    shapes = {Shape.GROUPED: n_cells, **({Shape.ALONE: 0} if request.noise_floor else {})}
    if scorer is Scorer.GENERATE:
        shapes.pop(Shape.ALONE, None)
    return [
        Job(
            mode=Mode.ACCURACY,
            suite=suite,
            scorer=scorer,
            shape=shape,
            permutation=request.permutation,
            shots=shots,
            groups=tuple(groups),
            n_groups=n_groups,
            config={**config, "shape": shape.value, "n_cells": n_cells},
        )
        for shape, n_cells in shapes.items()
    ]


def _groups(suite: Suite, request: "Request") -> tuple[list[tuple[Question, ...]], int]:
    """All groups a run may ask, and how many of them it is to ask."""
    if request.limit_first:
        groups = first_groups(suite, request.limit or len(suite.questions))
        return groups, len(groups)
    groups = ordered_groups(suite, by_subject=request.num_fewshot > 0)
    return groups, len(limited(groups, request.limit))
