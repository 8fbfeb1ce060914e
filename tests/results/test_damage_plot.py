"""The picture of a ladder is drawn from any mixture of damages, and never half-written."""

from pathlib import Path

import pytest

from edgebench.core.errors import UsageError
from edgebench.core.stats import Estimate
from edgebench.core.types import Evidence, Format
from edgebench.results.damage import Damage, Verdict
from edgebench.results.damage_plot import damage_picture, describe


def damage(label: str, size_bytes: int, kld: float | None, **more: object) -> Damage:
    fields: dict[str, object] = {
        "check_id": "c",
        "artifact_id": label,
        "reference_id": "f32",
        "model": "tiny",
        "quant": label,
        "label": label,
        "format": Format.GGUF,
        "evidence": Evidence.MEASURED,
        "runner": "llama_cpp",
        "size_bytes": size_bytes,
        "bits_per_weight": None,
        "verdict": Verdict.CLOSE,
        "reason": None,
        "ppl": None,
        "ppl_ratio": None,
        "kld_mean": kld if kld is None else Estimate(value=kld, ci_low=0.8 * kld, ci_high=1.2 * kld, n=9),
        "kld_p99_nats": None,
        "same_top_share": None,
        "max_logprob_diff_nats": None,
        "greedy_same": None,
        "greedy_whole_share": None,
        "n_greedy": 0,
        "n_questions": 0,
        "n_flips": None,
        "n_correctness_flips": None,
        "n_self_flips": None,
    }
    return Damage(**(fields | more))  # type: ignore[arg-type]


LADDER = [
    damage("f32", 540_000_000, 1e-9),
    damage("f16", 270_000_000, 3e-6),
    damage("q8_0", 144_000_000, 2e-3),
    damage("q4_0", 90_000_000, 0.2, verdict=Verdict.DEGRADED),
    damage("onnx-fp32", 541_000_000, 0.0, format=Format.ONNX),
    damage("onnx-int8", 165_000_000, 0.05, format=Format.ONNX),
    damage("iq1_s", 60_000_000, None, verdict=Verdict.FAILED),
]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_ladder_is_drawn(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"damage{suffix}"
    damage_picture(LADDER, out, "Damage of tiny")
    assert out.stat().st_size > 5000
    assert list(tmp_path.iterdir()) == [out]


def test_labels_and_formats_stand_in_the_picture(tmp_path: Path) -> None:
    out = tmp_path / "damage.svg"
    damage_picture(LADDER, out, "Damage of tiny")
    drawn = out.read_text(encoding="utf-8")
    for name in ("q4_0", "onnx-int8", "GGUF", "ONNX"):
        assert f"<!-- {name} -->" in drawn
    assert "<!-- iq1_s -->" not in drawn
    assert "hollow" in describe(LADDER)


def test_nothing_to_draw_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        damage_picture([LADDER[-1]], tmp_path / "damage.png", "Damage")
    with pytest.raises(UsageError, match="can't draw"):
        damage_picture(LADDER, tmp_path / "damage.gif", "Damage")
    assert list(tmp_path.iterdir()) == []
