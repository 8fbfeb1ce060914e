"""Figures of checks from invented rows whose answers are known, and migration of an older database."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.core.errors import StoreError
from edgebench.core.types import Evidence, Status
from edgebench.results import schema
from edgebench.results.damage import Damage, Verdict, damages
from edgebench.results.store import Store

N_CHUNKS, N = 8, 4
"""Chunks, and predictions in each."""


class Checks:
    """Puts invented checks into a lab's store."""

    def __init__(self, lab: Any) -> None:
        self.lab, self.store = lab, lab.store
        self.reference = lab.artifact("f32", 32.0)

    def add(
        self,
        artifact: str,
        *,
        kld: Sequence[float] = (0.0,) * N_CHUNKS,
        nll: float = 2.0,
        same: float = 1.0,
        diff: float = 1e-4,
        choices: Sequence[int] = (0, 0, 0, 0),
        alone: Sequence[int] = (0, 0, 0, 0),
        greedy: Sequence[int] = (64, 64),
        key: str = "",
        status: Status = Status.COMPLETE,
        reason: str | None = None,
    ) -> str:
        check_id = self.store.begin_check(
            artifact_id=artifact,
            reference_id=self.reference,
            key_sha256=key or artifact,
            evidence=Evidence.MEASURED,
            runner="llama_cpp",
            runner_version="1",
            config={"n_ctx": 10},
            text_sha256="text",
            n_chunks=len(kld),
        )
        for chunk, value in enumerate(kld):
            columns = {
                "nll_nats": [nll] * N,
                "nll_parent_nats": [2.0] * N,
                "kld_nats": [value] * N,
                "same_top": [int(i < round(same * N)) for i in range(N)],
                "max_logprob_diff_nats": [diff] * N,
            }
            self.store.add_check_tokens(check_id, chunk, columns)
        for i, n_same in enumerate(greedy):
            self.store.add_check_greedy(check_id, i, n_same=n_same, n_tokens=64)
        for shape, picked in (("grouped", choices), ("alone", alone)):
            self.store.add_check_answers(
                check_id,
                [
                    {"shape": shape, "question_id": f"q{i}", "choice_index": c, "correct": int(c == 0)}
                    for i, c in enumerate(picked)
                ],
            )
        self.store.end_check(check_id, status, reason)
        return check_id

    def level(self, quant: str, **more: Any) -> Damage:
        """The damage of a fresh level beside a faultless reference."""
        self.add(self.reference)
        artifact = self.lab.artifact(quant, 8.0)
        self.add(artifact, **more)
        return next(d for d in damages(self.store) if d.artifact_id == artifact)


@pytest.fixture
def checks(lab: Any) -> Checks:
    return Checks(lab)


def test_figures_follow_from_the_rows(checks: Checks) -> None:
    kld = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    found = checks.level(
        "q4_0",
        kld=kld,
        nll=2.2,
        same=0.75,
        diff=3.0,
        choices=(1, 0, 2, 0),
        alone=(1, 0, 1, 3),
        greedy=(64, 10),
    )
    assert found.ppl == pytest.approx(np.exp(2.2))
    assert found.ppl_ratio is not None
    assert found.ppl_ratio.value == pytest.approx(np.exp(0.2))
    assert found.kld_mean is not None
    assert found.kld_mean.value == pytest.approx(0.45)
    assert found.kld_p99_nats == pytest.approx(0.8)
    assert found.same_top_share == 0.75
    assert found.max_logprob_diff_nats == 3.0
    assert (found.greedy_same, found.greedy_whole_share, found.n_greedy) == (37.0, 0.5, 64)
    assert (found.n_questions, found.n_flips, found.n_correctness_flips, found.n_self_flips) == (4, 2, 2, 2)
    assert found.label == "q4_0"


def test_interval_resamples_chunks_and_repeats_to_the_bit(checks: Checks) -> None:
    kld = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    first = checks.level("q4_0", kld=kld).kld_mean
    assert first is not None
    assert first.ci_low is not None
    assert first.ci_high is not None
    # The bootstrap's spread is that of a mean of 8 chunks: 0.229 / sqrt(8), not of 32 tokens.
    assert first.ci_high - first.ci_low == pytest.approx(2 * 1.96 * np.std(kld) / np.sqrt(8), rel=0.1)
    again = next(d for d in damages(checks.store) if d.quant == "q4_0").kld_mean
    assert again == first


def test_few_chunks_carry_no_interval(checks: Checks) -> None:
    kld = checks.level("q4_0", kld=[0.1, 0.2]).kld_mean
    assert kld is not None
    assert (kld.ci_low, kld.ci_high, kld.n) == (None, None, 2)


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({"kld": [0.01] * N_CHUNKS}, Verdict.CLOSE),
        ({"kld": [0.2] * N_CHUNKS, "nll": 2.15}, Verdict.DEGRADED),
        ({"kld": [0.2] * N_CHUNKS, "same": 0.75}, Verdict.DEGRADED),
        ({"kld": [2.0] * N_CHUNKS, "nll": 3.0}, Verdict.BROKEN),
        ({"kld": [2.0] * N_CHUNKS, "same": 0.25}, Verdict.BROKEN),
        ({"status": Status.FAILED, "reason": "killed"}, Verdict.FAILED),
    ],
)
def test_verdict_follows_from_the_figures(checks: Checks, more: dict[str, Any], verdict: Verdict) -> None:
    found = checks.level("q4_0", **more)
    assert found.verdict is verdict
    assert (found.reason is None) == (verdict is Verdict.CLOSE)


def test_a_whole_level_is_at_the_floor_unless_it_strays(checks: Checks) -> None:
    assert checks.level("f16", kld=[3e-6] * N_CHUNKS).verdict is Verdict.FLOOR


def test_an_f16_file_that_strays_does_not_raise_the_floor(checks: Checks) -> None:
    assert checks.level("f16", kld=[0.02] * N_CHUNKS).verdict is Verdict.CLOSE


@pytest.mark.parametrize(("diff", "verdict"), [(1.9e-3, Verdict.FLOOR), (2.1e-3, Verdict.PARITY_FAILED)])
def test_formats_in_single_precision_must_agree(checks: Checks, diff: float, verdict: Verdict) -> None:
    checks.add(checks.reference, kld=[1e-9] * N_CHUNKS)
    onnx = checks.lab.artifact("onnx-fp32", 32.0)
    checks.add(onnx, kld=[1e-9] * N_CHUNKS, diff=diff)
    found = next(d for d in damages(checks.store) if d.artifact_id == onnx)
    assert found.verdict is verdict


def test_the_newest_check_counts_and_a_running_one_does_not(checks: Checks) -> None:
    artifact = checks.lab.artifact("q4_0", 4.5)
    checks.add(artifact, kld=[0.5] * N_CHUNKS, key="old settings")
    newest = checks.add(artifact, kld=[0.1] * N_CHUNKS, key="new settings")
    checks.add(artifact, key="unfinished", status=Status.RUNNING)
    assert [d.check_id for d in damages(checks.store)] == [newest]


def test_a_check_begun_again_loses_its_old_rows(checks: Checks) -> None:
    artifact = checks.lab.artifact("q4_0", 4.5)
    checks.add(artifact, status=Status.FAILED, reason="killed")
    again = checks.add(artifact)
    assert [row["check_id"] for row in checks.store.rows("SELECT DISTINCT check_id FROM check_token")] == [
        again
    ]
    assert checks.store.find_check(artifact) == again


def test_a_database_of_schema_1_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    for statement in schema.MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("INSERT INTO model (id, name, source) VALUES ('m', 'm', 'file')")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="older schema"):
        Store.open_readonly(path)
    with Store.open(path) as store:
        assert store.rows("SELECT id FROM model") == [{"id": "m"}]
        assert damages(store) == []
        assert store.rows("PRAGMA user_version") == [{"user_version": len(schema.MIGRATIONS)}]
