"""Runs on a phone that is not there: plans without an engine, and what its program would leave."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.hashing import sha256_text
from edgebench.core.types import (
    Artifact,
    DeviceProfile,
    Environment,
    Evidence,
    Format,
    Mode,
    QuantSpec,
    Scorer,
)
from edgebench.results.store import Store
from edgebench.session import cell_of
from edgebench.session_cell import Cell, Outcome
from edgebench.session_native_batch import Batch
from edgebench.session_native_jobs import NativeJob
from edgebench.session_plan import Plan, Request, Site, make_plan

BOOT_UNIX_S = 1_700_000_000.0


class Native:
    """A native runner, as far as plans ask it."""

    name = "llama_native"
    evidence = Evidence.MEASURED
    formats = (Format.GGUF,)
    install = ""
    tool = None

    def version(self) -> str:
        return "1"


class Ear:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None:
        """Nothing is shown."""

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None:
        """Nothing is shown."""


@dataclass
class Bare:
    """A database, and what a phone would be asked to do for it."""

    store: Store
    ear: Ear

    def plan(self, **asked: Any) -> Plan:
        """One test of each kind, three repetitions, once; unless told otherwise."""
        usual: dict[str, Any] = {"device": "pixel8", "models": ("tiny.gguf",), "mode": "performance"}
        usual |= {"n_prompt": (8,), "n_gen": (4,), "n_chat": 0, "repetitions": 3, "rounds": 1}
        site = Site(
            device=DeviceProfile(id="pixel8-a1b2c3", name="Pixel 8", kind="phone", transport="adb"),
            environment=Environment(id="android", os="Android 14"),
            runner=Native(),  # type: ignore[arg-type]
            n_threads=4,
            evidence=Evidence.MEASURED,
        )
        return make_plan(Request(**usual | asked), site)

    def cells(self, plan: Plan, level: str = "q4_0") -> list[Cell]:
        """The runs of a plan, of an invented file."""
        artifact = Artifact(
            sha256=sha256_text(level),
            path=Path(f"tiny-{level}.gguf"),
            model="tiny",
            quant=QuantSpec(name=level, format=Format.GGUF, bits_per_weight=4.5),
            size_bytes=1000,
            kv_bytes_per_token=64,
        )
        return [cell_of(plan, job, artifact, self.store) for job in plan.jobs]

    def speed_cell(self, **asked: Any) -> Cell:
        return self.cells(self.plan(**asked))[0]

    def accuracy_cell(self, **asked: Any) -> Cell:
        asked = {"mode": "accuracy", "suites": ("everyday",), "limit": 16, **asked}
        (cell,) = self.cells(self.plan(**asked))
        assert cell.job.mode is Mode.ACCURACY
        return cell

    def collect(self, job: NativeJob, files: Mapping[str, str]) -> Outcome:
        """Take what a job left, as if it had just been brought here."""
        outcome = Outcome()
        batch = Batch(name="b", jobs=(job,), boot_unix_s=BOOT_UNIX_S, synthetic=False)
        batch.collect(job.name, lambda _, file: files.get(file), self.store, self.ear, outcome)
        return outcome


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    with Store.open(tmp_path / "edgebench.sqlite", busy_timeout_s=0.05) as store:
        yield Bare(store, Ear())


def laid_out(cell: Cell, group: int, n_ctx: int = 256) -> dict[str, Any]:
    """A group as the process that holds the tokenizer tells it: invented tokens, no text."""
    prompts = cell.job.prompts(cell.job.groups[group])
    letters = cell.job.scorer is Scorer.LETTER
    ends = [[[10 + j] if letters else [10 + j, 20 + j] for j in range(len(p.continuations))] for p in prompts]
    return {
        "type": "laid",
        "group": group,
        "group_sha256": sha256_text(str(group)),
        "answers": [
            {
                "question_id": prompt.question_id,
                "rotation": prompt.rotation,
                "n_shots": prompt.n_shots,
                "n_prompt": 5,
                "n_cut": 0,
            }
            for prompt in prompts
        ],
        "items": [[[1, 2, 3, 4, 5 + i], end] for i, end in enumerate(ends)],
        "shared": [],
        "n_ctx": n_ctx,
        "n_seq_max": 40,
    }


@pytest.fixture
def laid() -> Any:
    """`laid(cell, group)`: see `laid_out`."""
    return laid_out


@pytest.fixture
def as_lines() -> Any:
    """`as_lines(dicts)`: the text of an out.jsonl."""
    return lambda told: "".join(json.dumps(one) + "\n" for one in told)
