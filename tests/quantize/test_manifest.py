import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.core.errors import ModelError
from edgebench.core.hashing import sha256_file
from edgebench.core.types import Artifact, Format, QuantSpec
from edgebench.quantize import manifest
from edgebench.quantize.manifest import artifact_from, describe, manifest_of, model_name

WriteGguf = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("own_cache")


def stored(cache: Path) -> list[Path]:
    return list((cache / "manifests").glob("*"))


def test_artifact_is_known_by_its_bytes(tiny: Path) -> None:
    artifact = describe(tiny, license="MIT", source="here")
    assert artifact.sha256 == sha256_file(tiny)
    assert artifact.size_bytes == tiny.stat().st_size
    assert (artifact.model, artifact.label, artifact.family) == ("tiny", "q2_k", "llama")
    assert artifact.quant.n_fallback == 1
    assert (artifact.parent_sha256, artifact.license, artifact.source) == (None, "MIT", "here")


def test_file_is_inspected_once_wherever_it_lies(
    tiny: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = describe(tiny)
    (path,) = stored(own_cache)
    assert path.name == f"{first.sha256}.json"
    assert str(tiny.parent) not in path.read_text()  # paths stay out of it
    moved = tiny.rename(tiny.parent / "Tiny-Q2_K.gguf")
    monkeypatch.delattr(manifest, "inspect_gguf")
    again = describe(moved)
    assert again.path == moved
    assert (again.sha256, again.quant, again.model) == (first.sha256, first.quant, first.model)


def test_changed_file_is_another_artifact(tiny: Path, own_cache: Path) -> None:
    first = describe(tiny)
    data = bytearray(tiny.read_bytes())
    data[-1] ^= 1
    tiny.write_bytes(data)
    assert describe(tiny).sha256 != first.sha256
    assert len(stored(own_cache)) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99}', "null"])
def test_manifest_that_cannot_be_used_is_written_anew(tiny: Path, own_cache: Path, text: str) -> None:
    first = describe(tiny)
    (path,) = stored(own_cache)
    path.write_text(text)
    assert describe(tiny) == first
    assert json.loads(path.read_text())["schema"] == manifest.SCHEMA


def test_damaged_file_leaves_no_manifest(tiny: Path, own_cache: Path) -> None:
    tiny.write_bytes(tiny.read_bytes()[:-1])
    with pytest.raises(ModelError):
        describe(tiny)
    assert stored(own_cache) == []


def test_child_names_its_parent_and_keeps_it(write_gguf: WriteGguf) -> None:
    parent = describe(write_gguf("Q4_1", "tiny-q4_1.gguf"))
    path = write_gguf("Q2_K", "tiny-q2_k.gguf")
    child = describe(path, model="tiny", parent=parent, tool="llama_model_quantize", tool_version="1")
    assert child.label == "q2_k (from q4_1)"
    assert child.parent_sha256 == parent.sha256
    assert describe(path) == child  # the lineage is not forgotten when the file is named by its path
    assert manifest_of(child)["derived_from"] == {"sha256": parent.sha256, "level": "q4_1"}


def test_copy_under_another_name_keeps_what_is_known_of_its_bytes(write_gguf: WriteGguf) -> None:
    parent = describe(write_gguf("Q4_1", "tiny-q4_1.gguf"))
    path = write_gguf("Q2_K", "tiny-q2_k.gguf")
    child = describe(path, model="tiny", parent=parent)
    copy = describe(path.rename(path.with_name("other.gguf")))
    assert (copy.model, copy.label, copy.sha256) == ("other", child.label, child.sha256)


def test_narrowest_level_on_the_way_is_remembered(write_gguf: WriteGguf) -> None:
    first = describe(write_gguf("Q4_1", "tiny-q4_1.gguf"))
    wide = describe(write_gguf("F16", "tiny-f16.gguf"), parent=first)
    assert wide.label == "f16 (from q4_1)"
    assert describe(write_gguf("Q8_0", "tiny-q8_0.gguf"), parent=wide).label == "q8_0 (from q4_1)"


@pytest.mark.parametrize(
    ("parent_quant", "label"),
    [
        (None, "q8_0"),
        ("f32", "q8_0"),
        ("f16", "q8_0"),
        ("bf16", "q8_0"),
        ("q8_0", "q8_0 (from q8_0)"),
        ("q4_1", "q8_0 (from q4_1)"),
    ],
)
def test_label_tells_when_weights_had_been_quantized_before(parent_quant: str | None, label: str) -> None:
    artifact = Artifact(
        sha256="0",
        path=Path("x"),
        model="m",
        quant=QuantSpec(name="q8_0", format=Format.GGUF),
        size_bytes=1,
        parent_quant=parent_quant,
    )
    assert artifact.label == label


def test_manifest_makes_the_artifact_again(tiny: Path) -> None:
    artifact = describe(tiny)
    assert artifact_from(json.loads(json.dumps(manifest_of(artifact))), tiny) == artifact


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("smollm2-135m-q2_k.gguf", "smollm2-135m"),
        ("model_f16.gguf", "model"),
        ("Qwen2.5-0.5B-Q4_K_M.gguf", "qwen2.5-0.5b"),
        ("Qwen2.5-0.5B-Q4_K_S.gguf", "qwen2.5-0.5b"),
        ("a-iq3_xxs.gguf", "a"),
        ("no level.gguf", "no-level"),
        ("q4_0.gguf", "q4-0"),
        ("???.gguf", "model"),
    ],
)
def test_levels_of_a_model_share_its_name(name: str, model: str) -> None:
    assert model_name(Path(name)) == model
