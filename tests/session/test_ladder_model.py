"""The genuine ladder: real weights off every grid, rows that every block divides."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.types import Artifact
from edgebench.quantize.manifest import describe, manifest_of
from edgebench.results.damage import Damage, Verdict, damages
from edgebench.results.store import Store
from edgebench.session_check import check_ladder
from edgebench.session_check_scene import CheckRequest
from edgebench.session_quantize import make_ladder
from edgebench.session_request import QuantizeRequest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LEVELS = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
SMALL = ("q3_k_m", "q2_k")
# 256 predictions tell levels apart whose divergence differs by half; greedy text and answers don't.
REQUEST = CheckRequest(
    n_threads=1, n_chunks=2, n_ctx=256, n_prompts=1, n_greedy=4, n_questions=1, n_self_chunks=1
)


class Silent:
    """A watcher that nobody reads."""

    def say(self, line: str) -> None:
        print(line)

    def stage(self, title: str, n_steps: int) -> None:
        print(title)

    def step(self, note: str, n_steps: int = 1) -> None:
        return


@pytest.fixture(scope="module")
def model(smollm2: Path, export_tool: Any) -> dict[str, Path]:
    """The widened, dithered model: made once, kept in the cache."""
    script = Path(__file__).parents[2] / "benchmarks" / "ladder_model.py"
    spec = importlib.util.spec_from_file_location("ladder_model", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    paths: dict[str, Path] = module.ladder_model(print)
    return paths


def ladder(source: Path, out: Path, store: Store, levels: tuple[str, ...], **more: Any) -> list[Artifact]:
    request = QuantizeRequest(model=str(source), levels=levels, out=out, n_threads=1, **more)
    made = make_ladder(request, store, Silent())
    assert made.outcome.failures == []
    return made.artifacts


@pytest.fixture(scope="module")
def found(
    model: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Damage], dict[str, Damage], list[Artifact]]]:
    """Damage by level, without and with an importance matrix; and the artifacts."""
    folder = tmp_path_factory.mktemp("ladder_model")
    with Store.open(folder / "edgebench.sqlite") as store:
        plain = ladder(model["f32"], folder / "plain", store, LEVELS)
        helped = ladder(model["f32"], folder / "helped", store, SMALL, calibration="builtin")
        reference = describe(model["f32"])
        store.add_artifact(reference, manifest_of(reference))
        assert check_ladder(reference, [*plain, *helped], store, Silent(), REQUEST) == []
        every = {damage.artifact_id: damage for damage in damages(store, reference_id=reference.sha256)}
        yield (
            {a.quant.name: every[a.sha256] for a in plain},
            {a.quant.name: every[a.sha256] for a in helped},
            [*plain, *helped],
        )


def kld(damage: Damage) -> float:
    assert damage.kld_mean is not None
    return damage.kld_mean.value


def test_no_tensor_falls_back_and_every_level_is_what_it_says(found: Any) -> None:
    for artifact in found[2]:
        assert artifact.quant.n_fallback == 0
        assert "fallbacks" not in artifact.recipe
        assert manifest_of(artifact)["is_what_it_says"] is True


def test_damage_rises_in_order_and_f16_is_at_the_floor(found: Any) -> None:
    plain = found[0]
    klds = [kld(plain[level]) for level in LEVELS]
    print({level: round(value, 6) for level, value in zip(LEVELS, klds, strict=True)})
    assert klds == sorted(klds)
    assert plain["f16"].verdict is Verdict.FLOOR
    assert klds[0] < klds[1] / 100
    sizes = [plain[level].size_bytes for level in LEVELS]
    assert sizes == sorted(sizes, reverse=True)


def test_an_importance_matrix_helps_below_four_bits(found: Any) -> None:
    plain, helped, artifacts = found
    for level in SMALL:
        print(level, kld(plain[level]), "with importances", kld(helped[level]))
        assert kld(helped[level]) < 0.9 * kld(plain[level])
    assert all(a.calibration_sha256 for a in artifacts[len(LEVELS) :])
