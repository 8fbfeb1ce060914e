"""A job: one measurement of one artifact, whichever artifact, and how its questions are asked.

A job's `config` holds everything that decides its figures; the hash of it is the key by which stored
work is found again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgebench.core.hashing import sha256_json
from edgebench.core.types import Mode, Permutation, Prompt, Question, Scorer, Shape, Suite, Workload
from edgebench.suites.fewshot import Shots
from edgebench.suites.prompts import build_prompt

_SCHEME = (
    *("suite_sha256", "scorer", "template_sha256", "num_fewshot", "permute", "apply_chat_template"),
    *("shape", "n_cells", "groups_sha256", "seed"),
)
_SCHEME_SETTINGS = ("n_batch", "n_ubatch", "flash_attn", "type_k", "type_v")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run record will say it was."""

    mode: Mode
    config: dict[str, Any]
    workloads: tuple[Workload, ...] = ()
    n_rounds: int = 1
    """Visits of each level."""
    n_repetitions: int = 1
    """Of every test in a visit."""
    anchored: bool = False
    """The first level is visited between all others."""
    suite: Suite | None = None
    scorer: Scorer | None = None
    shape: Shape = Shape.GROUPED
    permutation: Permutation = Permutation.NONE
    shots: Shots | None = None
    groups: tuple[tuple[Question, ...], ...] = ()
    """All groups of the suite, in its seeded order."""
    n_groups: int = 0
    """How many of them are asked for."""

    @property
    def config_sha256(self) -> str:
        """The key of the plan: same hash, same measurement."""
        return sha256_json(self.config)

    @property
    def scheme_sha256(self) -> str | None:
        """What decides how questions are scored, the engine's build left out."""
        if self.suite is None:
            return None
        # Written token by token, so that with a long cache threads have a say.
        keys = (*_SCHEME_SETTINGS, *(("n_threads",) if self.scorer is Scorer.GENERATE else ()))
        settings = {k: self.config["settings"][k] for k in keys}
        return sha256_json({**{k: self.config[k] for k in _SCHEME}, **settings})

    @property
    def is_sustained(self) -> bool:
        """Whether its repetitions take minutes: their progress is told while they last."""
        return any(workload.sustained_s for workload in self.workloads)

    @property
    def title(self) -> str:
        """What the job is, for people."""
        if self.suite is None:
            return " ".join(w.name for w in self.workloads)
        told = [self.suite.name, str(self.scorer)]
        told += [f"{self.config['num_fewshot']}-shot"] if self.config["num_fewshot"] else []
        told += ["all rotations"] if self.permutation is Permutation.CYCLIC else []
        told += ["noise floor"] if self.shape is Shape.ALONE else []
        return " ".join(told)

    def prompts(self, group: tuple[Question, ...]) -> list[Prompt]:
        """The prompts of a group; the rotations of a question stand together."""
        if self.suite is None or self.scorer is None:
            return []
        return [
            build_prompt(
                self.suite,
                question,
                self.scorer,
                shots=self.shots.of(question) if self.shots else (),
                rotation=rotation,
                chat=self.config["apply_chat_template"],
            )
            for question in group
            for rotation in range(self.n_rotations(question))
        ]

    def n_rotations(self, question: Question) -> int:
        """How many times a question is asked."""
        return len(question.choices) if self.permutation is Permutation.CYCLIC else 1

    def n_answers(self, group: tuple[Question, ...]) -> int:
        """How many answers a group gives."""
        return sum(self.n_rotations(question) for question in group)

    def deck(self, group: tuple[Question, ...]) -> str:
        """What the prompts of this group and others begin with: a subject; "" when they differ."""
        subjects = {question.subject for question in group}
        return subjects.pop() if len(subjects) == 1 else ""

    def as_work(self) -> dict[str, Any]:
        """What a measuring process must know of the questions, but for which groups it is to do."""
        template = self.suite.prompts[self.scorer] if self.suite and self.scorer else None
        writes = template is not None and self.scorer is Scorer.GENERATE
        return {
            "groups": [[as_job(prompt) for prompt in self.prompts(group)] for group in self.groups],
            "decks": [self.deck(group) for group in self.groups],
            "shape": self.shape.value,
            "n_cells": self.config["n_cells"],
            "chat": self.config["apply_chat_template"],
            "truncate": self.config["truncate"],
            "n_gen": template.n_gen if template and writes else 0,
            "stop": list(template.stop) if template and writes else [],
        }


def as_job(prompt: Prompt) -> Mapping[str, Any]:
    """A prompt as a measuring process gets it."""
    return {
        "id": prompt.question_id,
        "context": prompt.context,
        "continuations": prompt.continuations,
        "rotation": prompt.rotation,
        "n_shots": prompt.n_shots,
    }
