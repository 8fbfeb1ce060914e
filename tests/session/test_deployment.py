"""A model as an archive for phones: what is in it, and that what was changed afterwards is noticed."""

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgebench import session_bundle
from edgebench.core.errors import DeviceError, EdgebenchError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.runners.native_target import LEVELS, abi_of, find_level
from edgebench.session_deploy import check_deployment, write_deployment

pytestmark = pytest.mark.engine
Files = dict[str, bytes]
Manifest = dict[str, Any]


def write_gguf(path: Path) -> Path:
    """A file that looks like a model, and is none that could speak."""
    np = pytest.importorskip("numpy")
    writer = pytest.importorskip("gguf", reason="gguf is not installed").GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_license("apache-2.0")
    writer.add_tensor("token_embd.weight", np.zeros((100, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Quiet:
    """A watcher that is told nothing it would say."""

    def say(self, line: str) -> None: ...

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None: ...

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None: ...


@pytest.fixture
def one_level(native_program: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The target of this computer; of its levels only the one that is built here is made."""
    target: str = native_program.target
    level = find_level(target, native_program.level)
    monkeypatch.setattr(session_bundle, "LEVELS", {**LEVELS, abi_of(target): (level,)})
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, native_program: Any) -> Path:
    """An archive that is whole; not to be changed."""
    folder = tmp_path_factory.mktemp("deployment")
    target = native_program.target
    model = write_gguf(folder / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        level = find_level(target, native_program.level)
        patch.setattr(session_bundle, "LEVELS", {**LEVELS, abi_of(target): (level,)})
        write_deployment(str(model), None, target, folder / "tiny.zip", Quiet(), n_threads=3)
    return folder / "tiny.zip"


@pytest.fixture
def small(tmp_path: Path) -> tuple[Manifest, Files]:
    """What an archive is made of, much smaller."""
    files = {"chat.sh": b"echo hi\n", "model/tiny.gguf": b"GGUF" + bytes(100)}
    for name, content in files.items():
        (tmp_path / Path(name).name).write_bytes(content)
    told = {
        name: {"sha256": sha256_file(tmp_path / Path(name).name), "size_bytes": len(content)}
        for name, content in files.items()
    }
    return {"format": "edgebench-deployment 1", "files": told}, files


def pack(path: Path, manifest: object, files: Mapping[str, bytes], *, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("manifest.json", manifest if isinstance(manifest, str) else json.dumps(manifest))
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def refused(file: Path) -> str:
    """Why an archive is none; in one line that names it."""
    with pytest.raises(DeviceError) as caught:
        check_deployment(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


# What is in it


def test_an_archive_holds_model_program_script_and_licences(made: Path, native_program: Any) -> None:
    manifest = check_deployment(made)
    level = native_program.level
    program = f"bin/{level}/edgebench-native"
    expected = {"chat.sh", "pick.sh", "chat.txt", "levels.txt", "LICENCES.txt", program, "model/tiny.gguf"}
    assert set(manifest["files"]) == expected
    assert manifest["target"] == native_program.target
    assert manifest["files"][program]["sha256"] == native_program.sha256
    with zipfile.ZipFile(made) as archive:
        assert archive.read("model/tiny.gguf") == (made.parent / "tiny.gguf").read_bytes()
        assert archive.read("chat.txt").decode().splitlines() == ["model model/tiny.gguf", "threads 3"]
        assert "llama.cpp (MIT)" in archive.read("LICENCES.txt").decode()
        for name, facts in manifest["files"].items():
            assert archive.getinfo(name).file_size == facts["size_bytes"]
        assert str(made.parent) not in archive.read("manifest.json").decode()  # no path of this computer


def test_what_unpacks_it_finds_a_program_that_may_be_started(made: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    (program,) = (name for name in modes if name.startswith("bin/"))
    assert modes[program] & 0o111


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "deploy goes to a phone or into an archive"),
        (("--device", "pixel8", "--bundle", "x.zip"), 2, "deploy goes to a phone or into an archive"),
        (("--bundle", "x.zip", "--target", "android-arm65"), 2, "unknown target 'android-arm65'"),
        (("--bundle", "there.zip"), 2, "there.zip is there already"),
        (("--bundle", "x.zip", "--quant", "q4_9"), 2, "unknown level 'q4_9'"),
    ],
)
def test_what_can_not_be_made_is_told_in_a_line(
    made: Path, tmp_path: Path, edgebench: Any, args: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "there.zip").write_bytes(b"mine")
    done = edgebench("deploy", made.parent / "tiny.gguf", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr.splitlines()[0]
    assert [path.name for path in tmp_path.glob("*.zip")] == ["there.zip"]
    assert (tmp_path / "there.zip").read_bytes() == b"mine"


def test_only_what_the_program_can_open_is_deployed(toy: Any, tmp_path: Path, edgebench: Any) -> None:
    done = edgebench("deploy", toy(), "--bundle", "x.zip")
    assert done.returncode == 1
    assert "is not a GGUF file" in done.stderr
    assert not (tmp_path / "x.zip").exists()


def test_a_name_that_no_list_can_hold_is_refused(one_level: str, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "two\nlines.gguf")
    with pytest.raises(EdgebenchError, match="can't be a file's name on a phone"):
        write_deployment(str(model), None, one_level, tmp_path / "x.zip", Quiet())
    assert not list(tmp_path.glob("*.zip"))


def test_a_file_that_is_there_stays(one_level: str, made: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        write_deployment(str(made.parent / "tiny.gguf"), None, one_level, made, Quiet())
    assert made.read_bytes() == before


# What was changed


def test_one_flipped_byte_is_noticed(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        info = archive.getinfo("model/tiny.gguf")
    content = bytearray(made.read_bytes())
    name_length, extra_length = struct.unpack_from("<HH", content, info.header_offset + 26)
    content[info.header_offset + 30 + name_length + extra_length + info.file_size // 2] ^= 1
    (tmp_path / "x.zip").write_bytes(content)
    assert "is no deployment" in refused(tmp_path / "x.zip")  # zip's own sum, too


def test_an_archive_that_is_whole_is_believed(small: tuple[Manifest, Files], tmp_path: Path) -> None:
    assert check_deployment(pack(tmp_path / "x.zip", *small)) == small[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, f: f.update({"chat.sh": b"rm -rf /\n"}), "chat.sh is not as its manifest says"),
        (lambda m, f: f.update(extra=b""), "its files are not those of its manifest"),
        (lambda m, f: f.pop("chat.sh"), "its files are not those of its manifest"),
        (lambda m, f: m["files"].pop("chat.sh"), "its files are not those of its manifest"),
        (lambda m, f: m.update(format="edgebench-deployment 2"), "is a deployment of another version"),
        (lambda m, f: m.pop("format"), "is no deployment"),
        (lambda m, f: m.update(files=list(m["files"])), "is no deployment"),
        (lambda m, f: m.update(files=dict.fromkeys(m["files"], "x")), "is no deployment"),
        (lambda m, f: m["files"]["chat.sh"].pop("sha256"), "is no deployment"),
    ],
)
def test_what_is_not_as_its_manifest_says_is_refused(
    small: tuple[Manifest, Files], tmp_path: Path, change: Callable[[Manifest, Files], object], said: str
) -> None:
    manifest, files = small
    change(manifest, files)
    assert said in refused(pack(tmp_path / "x.zip", manifest, files))


@pytest.mark.parametrize("name", ["../chat.sh", "model/../../chat.sh", "/chat.sh"])
def test_a_file_that_would_leave_the_folder_is_refused_whatever_the_manifest_says(
    small: tuple[Manifest, Files], tmp_path: Path, name: str
) -> None:
    manifest, files = small
    manifest["files"][name], files[name] = manifest["files"].pop("chat.sh"), files.pop("chat.sh")
    assert "would lie outside of its folder" in refused(pack(tmp_path / "x.zip", manifest, files))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(small: tuple[Manifest, Files], tmp_path: Path) -> None:
    file = pack(tmp_path / "x.zip", *small)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("chat.sh", small[1]["chat.sh"])
    assert "its files are not those of its manifest" in refused(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000])
def test_a_manifest_that_is_none_is_refused(small: tuple[Manifest, Files], tmp_path: Path, text: str) -> None:
    assert "is no deployment" in refused(pack(tmp_path / "x.zip", text, small[1]))


def test_what_is_no_archive_is_refused(small: tuple[Manifest, Files], tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    assert "is no deployment" in refused(file)
    whole = pack(file, *small).read_bytes()
    for content in (b"", b"PK", whole[:-30], bytes(1000)):
        file.write_bytes(content)
        assert "is no deployment" in refused(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("chat.sh", "echo hi")
    assert "is no deployment" in refused(file)


def test_what_was_packed_in_another_way_and_damaged_is_refused(
    small: tuple[Manifest, Files], tmp_path: Path
) -> None:
    file = pack(tmp_path / "x.zip", *small, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("model/tiny.gguf")
    content = bytearray(file.read_bytes())
    at = info.header_offset + 30 + len(info.filename)
    content[at : at + info.compress_size] = b"\xff" * info.compress_size
    file.write_bytes(content)
    assert "is no deployment" in refused(file)
    locked = bytearray(pack(file, *small).read_bytes())
    central = locked.rindex(b"PK\x01\x02")
    locked[central + 8] |= 1  # encrypted, it says
    file.write_bytes(locked)
    assert "is no deployment" in refused(file)
