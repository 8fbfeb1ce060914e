"""What a folder must be to count as a checkpoint, and how everything else is refused."""

import json
import os
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import EdgebenchError
from edgebench.core.hashing import sha256_text
from edgebench.quantize.checkpoint import FAMILIES, read_checkpoint

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}
TENSORS = {
    "model.embed_tokens.weight": ("BF16", (8, 4)),
    "model.layers.0.mlp.up_proj.weight": ("BF16", (6, 4)),
    "model.layers.1.mlp.up_proj.weight": ("BF16", (6, 4)),
    "model.norm.weight": ("F32", (4,)),
    "lm_head.weight": ("BF16", (8, 4)),
}
BYTES = {"BF16": 2, "F32": 4, "I8": 1}

Write = Callable[..., Path]


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        n = BYTES[dtype]
        for length in shape:
            n *= length
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    raw = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(config changes, tensors=…)`: a folder that looks like a checkpoint."""

    def folder(tensors: Mapping[str, Any] = TENSORS, n_shards: int = 1, **config: Any) -> Path:
        made = tmp_path / "made"
        made.mkdir()
        (made / "config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
        (made / "tokenizer.json").write_text("{}", encoding="utf-8")
        if n_shards == 1:
            write_safetensors(made / "model.safetensors", tensors)
            return made
        places: dict[str, str] = {}
        for k in range(n_shards):
            name = f"model-{k + 1:05}-of-{n_shards:05}.safetensors"
            part = {t: tensors[t] for t in list(tensors)[k::n_shards]}
            write_safetensors(made / name, part)
            places |= dict.fromkeys(part, name)
        (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        return made

    return folder


def refused(folder: Path) -> str:
    """What the user reads: one line, and a hint of one line or none."""
    with pytest.raises(EdgebenchError) as caught:
        read_checkpoint(folder)
    told = f"{caught.value.message} -> {caught.value.hint}"
    assert "\n" not in told
    return told


def test_checkpoint_tells_what_it_is(write: Write) -> None:
    found = read_checkpoint(write())
    assert (found.family, found.architecture, found.dtype) == ("llama", "LlamaForCausalLM", "bf16")
    assert found.n_params == 32 + 24 + 24 + 4 + 32
    assert found.size_bytes == (found.folder / "model.safetensors").stat().st_size
    assert found.chat_template_sha256 is None
    assert found.license is None


def test_tied_head_that_was_stored_anyway_is_not_counted_twice(write: Write) -> None:
    assert read_checkpoint(write(tie_word_embeddings=True)).n_params == 32 + 24 + 24 + 4


def test_shards_are_one_checkpoint(write: Write) -> None:
    found = read_checkpoint(write(n_shards=2))
    assert found.n_params == 32 + 24 + 24 + 4 + 32
    assert [path.name for path in found.files[:2]] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_sha256_follows_the_files_that_matter_and_no_others(write: Write, tmp_path: Path) -> None:
    folder = write()
    before = read_checkpoint(folder).sha256
    (folder / "README.md").write_text("hello")
    (folder / "modeling.py").write_text("raise SystemExit")
    moved = folder.rename(tmp_path / "elsewhere")
    assert read_checkpoint(moved).sha256 == before
    for name in ("tokenizer.json", "config.json", "generation_config.json", "chat_template.jinja"):
        file = moved / name
        file.write_text((file.read_text() if file.exists() else "{}") + " ")
        after = read_checkpoint(moved).sha256
        assert after != before
        before = after


def test_links_of_a_hubs_cache_are_followed(write: Write, tmp_path: Path) -> None:
    folder = write()
    blob = (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(blob)
    assert read_checkpoint(folder).n_params


@pytest.mark.parametrize("where", ["file", "config", "list"])
def test_chat_template_is_known_by_its_text(write: Write, where: str) -> None:
    folder, text = write(), "{{ messages }}"
    if where == "file":
        (folder / "chat_template.jinja").write_text(text)
        told: object = "another, which the file outranks"
    else:
        told = (
            text
            if where == "config"
            else [{"name": "tools", "template": ""}, {"name": "default", "template": text}]
        )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": told}))
    assert read_checkpoint(folder).chat_template_sha256 == sha256_text(text)


@pytest.mark.parametrize(
    ("name", "text", "license_name"),
    [
        ("README.md", "---\ntags: [a]\nlicense: apache-2.0\n---\nlicense: mit\n", "apache-2.0"),
        ("README.md", "---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("README.md", "license: mit\n", None),
        ("LICENSE", "                     Apache License\n    Version 2.0", "apache-2.0"),
        ("LICENSE.txt", "MIT License\n\nCopyright", "mit"),
        ("LICENSE", "all mine", None),
    ],
)
def test_licence_comes_from_the_card_or_the_licence_file(
    write: Write, name: str, text: str, license_name: str | None
) -> None:
    folder = write()
    (folder / name).write_text(text)
    assert read_checkpoint(folder).license == license_name


# Refusals ---------------------------------------------------------------------------------------


def test_folder_that_is_no_checkpoint_is_told_what_is_missing(write: Write, tmp_path: Path) -> None:
    assert "is not a folder" in refused(tmp_path / "nothing")
    assert "no config.json (it is empty)" in refused(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "--adapter" in refused(tmp_path)
    folder = write()
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor" in refused(folder)


def test_missing_shards_are_listed(write: Write) -> None:
    folder = write(n_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "lacks 1 of 3 shards: model-00002-of-00003.safetensors" in refused(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a/b.safetensors", "..", "x.bin", 7, ""]
)
def test_index_can_not_point_out_of_its_folder(write: Write, name: object) -> None:
    folder = write(n_shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "no name of a safetensors file" in refused(folder)


def test_index_that_names_absent_tensors_is_refused(write: Write) -> None:
    folder = write(n_shards=2)
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"]["model.more"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(told))
    assert "lacks 1 tensors" in refused(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_and_never_opened(write: Write, name: str) -> None:
    folder = write()
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / name)  # opening it would wait for ever
    told = refused(folder)
    assert f"pickled weights only ({name})" in told
    assert "save_pretrained" in told


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantized_checkpoint_is_refused(write: Write, key: str) -> None:
    assert "quantized already (quant_method gptq)" in refused(write(**{key: {"quant_method": "gptq"}}))


def test_quantized_tensors_are_refused_without_a_word_in_the_config(write: Write) -> None:
    assert "is I8" in refused(write({**TENSORS, "model.layers.1.mlp.up_proj.weight": ("I8", (6, 4))}))


def test_unknown_family_is_told_the_known_ones(write: Write) -> None:
    told = refused(write(model_type="qwen4"))
    assert "unknown model family 'qwen4'" in told
    assert "did you mean qwen" in told
    assert all(family in told for family in FAMILIES)


def test_model_that_writes_no_text_is_refused(write: Write) -> None:
    assert "LlamaForSequenceClassification" in refused(
        write(architectures=["LlamaForSequenceClassification"])
    )


@pytest.mark.parametrize("n_layers", [1, 3, None, True, -1])
def test_layers_must_be_as_many_as_the_config_counts(write: Write, n_layers: object) -> None:
    assert "tensors of 2 layers" in refused(write(num_hidden_layers=n_layers))


def test_checkpoint_without_tokenizer_is_refused(write: Write) -> None:
    folder = write()
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_is_refused(write: Write, name: str, text: str) -> None:
    folder = write(n_shards=2)
    (folder / name).write_text(text)
    assert "is damaged" in refused(folder)


def test_weights_cut_short_anywhere_are_refused(write: Write) -> None:
    file = write() / "model.safetensors"
    data = file.read_bytes()
    for end in range(len(data)):
        file.write_bytes(data[:end])
        assert "damaged or cut short" in refused(file.parent)
    file.write_bytes(data + b"\x00")
    assert "damaged" in refused(file.parent)


def test_flipped_bytes_of_the_head_are_refused_or_harmless(write: Write) -> None:
    rng, file = random.Random(4), write() / "model.safetensors"
    data = file.read_bytes()
    messages: list[str] = []
    for at in range(8 + int.from_bytes(data[:8], "little")):
        file.write_bytes(data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :])
        try:
            read_checkpoint(file.parent)
        except EdgebenchError as error:
            messages.append(error.message)
    assert len(messages) > 300
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("n", [2**63, 2**64 - 1, 2**40, 10**8 + 1])
def test_absurd_head_is_refused_at_once(write: Write, n: int) -> None:
    file = write() / "model.safetensors"
    file.write_bytes(struct.pack("<Q", n) + file.read_bytes()[8:])
    assert "ends before its head" in refused(file.parent)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"dtype": "F7", "shape": [1], "data_offsets": [0, 1]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]},
        {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
    ],
)
def test_impossible_tensor_is_refused(write: Write, entry: object) -> None:
    file = write() / "model.safetensors"
    raw = json.dumps({"x": entry}).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    assert "damaged" in refused(file.parent)
