"""A real database in a temporary folder, and a short way to put runs into it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    Question,
    Scorer,
    Status,
    Suite,
)
from edgebench.results.store import Store
from edgebench.results.summary import summarise


class Lab:
    """Puts invented artifacts, runs, trials and answers into a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def device(self, name: str = "laptop") -> str:
        self.store.add_device(DeviceProfile(id=name, name=name, kind="laptop", facts={"cores": 8}))
        return name

    def environment(self) -> str:
        self.store.add_environment(Environment(id="env", os="Linux", on_battery=False, facts={"os": "Linux"}))
        return "env"

    def artifact(
        self,
        quant: str,
        bits: float | None,
        *,
        model: str = "tiny",
        kind: Format = Format.GGUF,
        **more: Any,
    ) -> str:
        spec = QuantSpec(name=quant, format=kind, bits_per_weight=bits)
        fields: dict[str, Any] = {
            "sha256": sha256_text(f"{model} {quant} {more}"),
            "path": Path("x.gguf"),
            "model": model,
            "quant": spec,
            "size_bytes": int((bits or 1) * 1_000_000),
        }
        artifact = Artifact(**(fields | more))
        self.store.add_artifact(artifact, {"made": "for a test"})
        return artifact.sha256

    def suite(self, name: str = "everyday", n: int = 4, *, medical: bool = False) -> str:
        questions = tuple(
            Question(id=f"q{i}", text=f"secret text {i}", choices=("yes", "no", "both"), answer_index=0)
            for i in range(n)
        )
        suite = Suite(
            name=name,
            version="1",
            title=name,
            sha256=sha256_text(name),
            questions=questions,
            default_scorer=Scorer.LETTER,
            prompts={},
            license="CC0-1.0",
            citation="",
            source="",
            medical=medical,
        )
        self.store.add_suite(suite)
        return suite.id

    def asked(
        self,
        name: str = "exam",
        *,
        n: int = 8,
        sizes: Sequence[int] = (4,),
        subjects: Sequence[str] = ("",),
        keyed: bool = True,
        **more: Any,
    ) -> Suite:
        """A suite whose questions differ: options, subjects and keys go round."""
        questions = tuple(
            Question(
                id=f"q{i:04}",
                text=f"secret text {i}",
                choices=tuple(f"option {j}" for j in range(sizes[i % len(sizes)])),
                answer_index=i % sizes[i % len(sizes)] if keyed else None,
                subject=subjects[i % len(subjects)],
            )
            for i in range(n)
        )
        fields: dict[str, Any] = {
            "version": "1",
            "title": name,
            "sha256": sha256_text(f"{name} {n}"),
            "default_scorer": Scorer.LETTER,
            "prompts": {},
            "license": "CC0-1.0",
            "citation": "",
            "source": "",
        }
        suite = Suite(name=name, questions=questions, **(fields | more))
        self.store.add_suite(suite)
        return suite

    def answered(
        self,
        artifact: str,
        suite: Suite,
        choose: Callable[[Question, int], int | None],
        *,
        permute: str = "none",
        config: Mapping[str, Any] | None = None,
        logprobs: Callable[[Question, int], Sequence[float]] | None = None,
        **more: Any,
    ) -> str:
        """A complete run: `choose` says which stored option a question gets in a rotation."""
        fields: dict[str, Any] = {"scorer": "letter", "scheme_sha256": "scheme"} | more
        shape = {"shape": "grouped", "num_fewshot": 0, "permute": permute, "apply_chat_template": False}
        run_id = self.run(artifact, Mode.ACCURACY, suite_id=suite.id, config=shape | (config or {}), **fields)
        rows: list[dict[str, object]] = []
        for question in suite.questions:
            for rotation in range(len(question.choices) if permute == "cyclic" else 1):
                choice = choose(question, rotation)
                right = None if question.answer_index is None else choice == question.answer_index
                rows.append(
                    {
                        "question_id": question.id,
                        "repeat": rotation,
                        "choice_index": choice,
                        "correct": right,
                        "logprobs_json": json.dumps(list(logprobs(question, rotation))) if logprobs else None,
                    }
                )
        self.store.add_answers(run_id, rows)
        return self.finish(run_id)

    def run(self, artifact: str, mode: Mode = Mode.PERFORMANCE, **more: Any) -> str:
        fields: dict[str, Any] = {
            "evidence": Evidence.MEASURED,
            "device_id": self.device(),
            "environment_id": self.environment(),
            "suite_id": None,
            "runner": "llama_cpp",
            "runner_version": "1",
            "config": {"n_threads": 4},
            "config_sha256": "plan",
            "seed": 0,
        }
        return self.store.create_run(mode=mode, artifact_id=artifact, **(fields | more))

    def finish(self, run_id: str, status: Status = Status.COMPLETE) -> str:
        self.store.set_status(run_id, status)
        summarise(self.store, run_id)
        return run_id

    def trial(self, run_id: str, **more: Any) -> None:
        times = more.pop("token_times_s", ())
        fields: dict[str, Any] = {
            "test": "pp512",
            "phase": "measured",
            "repetition": 0,
            "n_prompt": 512,
            "n_gen": 0,
            "started_s": 0.0,
            "total_s": 1.0,
        }
        self.store.add_trial(run_id, fields | more, times)

    def performance(
        self, artifact: str, prefill_s: Sequence[float], decode_s: Sequence[float] = (), **more: Any
    ) -> str:
        """A complete run: two processes take turns."""
        run_id = self.run(artifact, **more)
        for i, duration_s in enumerate(prefill_s):
            self.trial(run_id, repetition=i, process_index=i % 2, prefill_s=duration_s, load_s=0.5)
        for i, duration_s in enumerate(decode_s):
            self.trial(
                run_id,
                test="tg128",
                n_prompt=0,
                n_gen=128,
                repetition=i,
                process_index=i % 2,
                decode_s=duration_s,
                peak_rss_bytes=1000 + i,
            )
        return self.finish(run_id)

    def accuracy(
        self,
        artifact: str,
        choices: Mapping[str, int] | Sequence[int],
        *,
        shape: str = "grouped",
        suite: str | None = None,
        **more: Any,
    ) -> str:
        """A complete run; choice 0 is the right one."""
        suite = suite or self.suite()
        fields = {"scorer": "letter", "scheme_sha256": "scheme", "config": {"shape": shape}} | more
        run_id = self.run(artifact, Mode.ACCURACY, suite_id=suite, **fields)
        asked = choices if isinstance(choices, Mapping) else {f"q{i}": c for i, c in enumerate(choices)}
        self.store.add_answers(run_id, [answer(question, choice) for question, choice in asked.items()])
        return self.finish(run_id)


def answer(question: str, choice: int) -> dict[str, object]:
    return {
        "question_id": question,
        "choice_index": choice,
        "correct": choice == 0,
        "correct_norm": choice == 0,
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "edgebench.sqlite", busy_timeout_s=0.05) as opened:
        yield opened


@pytest.fixture
def lab(store: Store) -> Lab:
    return Lab(store)
