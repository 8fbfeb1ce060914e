"""What levels can be made of: a hub's repository, a checkpoint, a GGUF; each recorded as what it is."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import ModelError
from edgebench.core.types import Format
from edgebench.quantize.manifest import sidecar
from edgebench.session_sources import check_tokenizer, checkpoint_of, gguf_base, open_source, reference_gguf

pytestmark = [pytest.mark.engine]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    path = Path(__file__).parents[1] / "quantize" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serving() as hub:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def test_a_hubs_repository_becomes_a_level_that_names_its_commit(
    hub: Any, tiny_checkpoint: Path, tmp_path: Path, edgebench: Any
) -> None:
    repo = hub.add("some-org/Tiny-Model", tiny_checkpoint, card={"license": "apache-2.0"})
    surroundings = {"HF_ENDPOINT": hub.url, "EDGEBENCH_CACHE": str(tmp_path / "cache")}
    # The environments are the developer's own: only what the hub serves goes to a fresh cache.
    from edgebench.core.paths import cache_dir

    (tmp_path / "cache").mkdir()
    for part in ("environments", "source", "sdists"):
        (tmp_path / "cache" / part).symlink_to(cache_dir() / part)
    command = ("quantize", "some-org/Tiny-Model", "--to", "q8_0", "--out", "out", "--no-check")
    done = edgebench(*command, env=surroundings, timeout=300)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(sidecar(tmp_path / "out" / "tiny-model-q8_0.gguf").read_text())
    assert manifest["source"] == "hub:some-org/Tiny-Model"
    assert manifest["revision"] == repo.commit("main")
    assert manifest["license"] == "apache-2.0"
    hub.status = 503  # from here on the hub is dead, and the cache is enough
    again = edgebench(*command, env=surroundings, timeout=300)
    assert again.returncode == 0, again.stderr
    lost = edgebench("quantize", "some-org/other", "--to", "q8_0", env=surroundings, timeout=300)
    assert lost.returncode == 1
    assert "some-org/other@main is not in the cache" in lost.stderr


def test_a_gguf_goes_by_way_of_a_checkpoint_whose_tokenizer_is_checked(smollm2: Path) -> None:
    source = open_source("smollm2-135m", print)
    folder = checkpoint_of(source, print)
    assert (folder / "model.safetensors").is_file()
    check_tokenizer(folder, smollm2, print)
    reference = reference_gguf(source, print, n_threads=1)
    assert (reference.quant.name, reference.label) == ("f32", "f32 (from q4_1)")
    assert gguf_base(source, print).sha256 == source.sha256


def test_a_checkpoint_is_converted_to_f32_and_keeps_its_lineage(tiny_checkpoint: Path) -> None:
    source = open_source(str(tiny_checkpoint), print)
    assert source.quant.format is Format.SAFETENSORS
    base = gguf_base(source, print)
    assert (base.quant.name, base.label, base.parent_sha256) == ("f32", "f32", source.sha256)
    assert base.n_params == source.n_params


def test_a_tokenizer_that_differs_is_seen(tiny_checkpoint: Path, smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="the GGUF's tokenizer is not the checkpoint's"):
        check_tokenizer(folder, smollm2, print)
