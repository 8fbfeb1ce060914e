"""Checkpoints from a hub: a small one on loopback that serves a real checkpoint's files."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import EdgebenchError, UsageError
from edgebench.quantize.hub import is_hub_id, split_hub_id

TOKEN = "hf_of_a_test"
Download = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "name",
    ["org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b.c_d-1", "org/name@v1.0", "org/name@refs/pr/3"],
)
def test_a_name_of_the_hub_is_known_by_its_form(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "name", "org/", "/name", "org/name/more", "./name", "../name", "org/..", "~/name", "org/a--b"),
        *(
            "org/-name",
            "org/name-",
            "org/na me",
            "models/a.gguf",
            "org/name@",
            "org/name@-x",
            "org/name@a..b",
        ),
        *("org/name@a b", "org/näme", "org/" + "n" * 97, "org\\name", "org/name\n"),
    ],
)
def test_what_is_no_name_of_the_hub_is_told_from_it(name: str) -> None:
    assert not is_hub_id(name)
    with pytest.raises(UsageError):
        split_hub_id(name)


def test_revision_stands_behind_the_at_sign() -> None:
    assert split_hub_id("org/name@v1") == ("org/name", "v1")
    assert split_hub_id("org/name") == ("org/name", None)


@pytest.fixture(scope="module")
def checkpoint(
    smollm2_checkpoint: Path, run_python_in_tool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny checkpoint with all that repositories hold, also what nobody should fetch."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    run_python_in_tool(Path(__file__).with_name("make_adapter.py"), smollm2_checkpoint, folder, "tiny")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code of a repository was run')")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"another format")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA tiny one.\n")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub of this test alone; every child is pointed at it."""
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


@pytest.fixture
def download(tmp_path: Path, run_in_tool: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Download:
    def call(
        repo: str = "org/tiny", revision: str | None = None, *, offline: bool = False, accept: bool = True
    ) -> dict[str, Any]:
        folder = str(tmp_path / "cache")
        job = {"repo": repo, "revision": revision, "folder": folder, "offline": offline}
        job["accept_license"] = accept
        return run_in_tool("download", job)

    return call


@pytest.mark.engine
def test_weights_tokenizer_and_licence_come_and_nothing_that_could_run(
    hub: Any, checkpoint: Path, download: Download
) -> None:
    repo = hub.add("org/tiny", checkpoint, card={"license": "mit"})
    got = download()
    names = {path.relative_to(got["folder"]).as_posix() for path in Path(got["folder"]).rglob("*")}
    wanted = {path.name for path in checkpoint.iterdir() if path.is_file()}
    assert names == wanted - {"pytorch_model.bin", "modeling_tiny.py"}
    for name in names:
        assert (Path(got["folder"]) / name).read_bytes() == (checkpoint / name).read_bytes()
    assert got["revision"] == repo.commit("main")
    assert got["license"] == "mit"
    assert got["fetched_bytes"] == got["size_bytes"]
    assert not got["from_cache"]


@pytest.mark.engine
def test_the_cache_answers_when_the_hub_is_not_asked_or_does_not_answer(
    hub: Any, checkpoint: Path, download: Download
) -> None:
    hub.add("org/tiny", checkpoint)
    first = download()
    hub.requests.clear()
    assert download(offline=True) == {**first, "from_cache": True, "fetched_bytes": 0}
    assert download(revision=first["revision"])["folder"] == first["folder"]
    assert not hub.requests  # a commit never changes
    hub.status = 503
    assert download()["from_cache"]
    with pytest.raises(EdgebenchError, match="out of reach: it answers HTTP 503"):
        download("org/other")


@pytest.mark.engine
def test_offline_names_what_is_missing_and_how_to_get_it(
    hub: Any, checkpoint: Path, download: Download
) -> None:
    hub.add("org/tiny", checkpoint)
    with pytest.raises(EdgebenchError, match="org/tiny@v7 is not in the cache") as told:
        download(revision="v7", offline=True)
    assert told.value.hint == "with a network: edgebench cache prefetch org/tiny@v7"
    assert not hub.requests


@pytest.mark.engine
def test_a_revision_is_pinned_and_a_branch_follows_the_hub(
    hub: Any, checkpoint: Path, download: Download, tmp_path: Path
) -> None:
    newer = shutil.copytree(checkpoint, tmp_path / "newer")
    (newer / "config.json").write_text((checkpoint / "config.json").read_text() + "\n")
    repo = hub.add("org/tiny", checkpoint)
    repo.revisions["v1"] = checkpoint
    old = download(revision="v1")
    repo.revisions["main"] = newer
    new = download()
    assert (old["revision"], new["revision"]) == (repo.commit("v1"), repo.commit("main"))
    assert old["revision"] != new["revision"]
    assert new["folder"].endswith(new["revision"])
    assert hub.sent_bytes["model.safetensors"] == (checkpoint / "model.safetensors").stat().st_size
    assert download("org/tiny@v1")["revision"] == old["revision"]


@pytest.mark.engine
def test_a_transfer_that_broke_off_goes_on_where_it_stopped(
    hub: Any, checkpoint: Path, download: Download
) -> None:
    size_bytes = (checkpoint / "model.safetensors").stat().st_size
    hub.add("org/tiny", checkpoint)
    hub.cut["model.safetensors"] = 11_000_000  # the library keeps whole pieces of 10 MiB
    assert size_bytes > 11_000_000
    got = download()
    assert (Path(got["folder"]) / "model.safetensors").read_bytes() == (
        checkpoint / "model.safetensors"
    ).read_bytes()
    assert hub.requests["GET /org/tiny/resolve/" + got["revision"] + "/model.safetensors"] == 2
    assert size_bytes < hub.sent_bytes["model.safetensors"] < size_bytes + 1_000_000


@pytest.mark.engine
def test_half_a_snapshot_is_no_snapshot(hub: Any, checkpoint: Path, download: Download) -> None:
    hub.add("org/tiny", checkpoint)
    got = download()
    (Path(got["folder"]) / "model.safetensors").unlink()
    with pytest.raises(EdgebenchError, match="is not in the cache"):
        download(offline=True)
    assert download()["folder"] == got["folder"]


@pytest.mark.engine
def test_a_token_opens_a_private_and_a_gated_repository(
    hub: Any, checkpoint: Path, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/private", checkpoint, needs_token=TOKEN)
    hub.add("org/gated", checkpoint, needs_token=TOKEN, gated=True)
    with pytest.raises(EdgebenchError, match="knows no org/private, or it is private") as told:
        download("org/private")
    assert "HF_TOKEN" in (told.value.hint or "")
    with pytest.raises(EdgebenchError, match="org/gated is gated") as told:
        download("org/gated")
    assert "accept its terms" in (told.value.hint or "")
    assert not hub.tokens
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert not download("org/private")["from_cache"]
    assert not download("org/gated")["from_cache"]


@pytest.mark.engine
def test_what_the_hub_does_not_have_is_told_in_one_line(
    hub: Any, checkpoint: Path, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", checkpoint)
    with pytest.raises(EdgebenchError, match="the hub knows no org/absent"):
        download("org/absent")
    with pytest.raises(EdgebenchError, match="org/tiny has no revision 'v9'"):
        download(revision="v9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(
        EdgebenchError, match=r"hub http://127\.0\.0\.1:9 is out of reach: Connection refused"
    ) as told:
        download()
    assert "HF_ENDPOINT" in (told.value.hint or "")
    assert "\n" not in told.value.message


@pytest.mark.engine
def test_pickled_weights_are_refused_before_anything_is_fetched(
    hub: Any, checkpoint: Path, download: Download, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    hub.add("org/pickled", folder)
    with pytest.raises(EdgebenchError, match=r"pickled weights only \(pytorch_model\.bin\)") as told:
        download("org/pickled")
    assert "save_pretrained" in (told.value.hint or "")
    assert not hub.sent_bytes


@pytest.mark.engine
def test_bytes_that_are_not_the_announced_ones_are_not_kept(
    hub: Any, checkpoint: Path, download: Download, tmp_path: Path
) -> None:
    repo = hub.add("org/tiny", checkpoint)
    repo.announced["model.safetensors"] = "0" * 64
    with pytest.raises(EdgebenchError, match=r"model\.safetensors came damaged"):
        download()
    with pytest.raises(EdgebenchError, match="is not in the cache"):
        download(offline=True)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    repo.announced.clear()
    assert json.loads((Path(download()["folder"]) / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"license": "gemma"}, "comes under 'gemma', which is not an open licence"),
        ({"license": "other", "license_name": "house-terms"}, "comes under 'house-terms'"),
        ({}, "states no licence"),
    ],
)
def test_terms_that_are_not_open_are_accepted_first(
    hub: Any, checkpoint: Path, download: Download, card: dict[str, str], told: str
) -> None:
    hub.add("org/tiny", checkpoint, card=card)
    with pytest.raises(EdgebenchError, match=told) as caught:
        download(accept=False)
    assert "--accept-licence" in (caught.value.hint or "")
    assert not hub.sent_bytes.get("model.safetensors")
    assert download()["revision"]
