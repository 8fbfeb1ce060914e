import importlib.util
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.paths import cache_dir
from edgebench.core.pip import pip_reason
from edgebench.runners import llama_source
from edgebench.runners.llama_source import first_error, sdist, source_tree, tool, unpack

VERSION = "0.0.1"
ROOT = f"llama_cpp_python-{VERSION}"
INSIDE = f"{ROOT}/vendor/llama.cpp"
USERS_CACHE = cache_dir()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder that looks like one with llama-cpp-python 0.0.1 in it."""
    site = tmp_path / "site"
    for folder in ("include", "lib", "llama_cpp"):
        (site / folder).mkdir(parents=True)
    (site / "include" / "llama.h").write_text("// the one\n")
    for library in ("libllama.so", "libggml-cpu.so", "libllama.dylib", "libggml-cpu.dylib"):
        (site / "lib" / library).write_bytes(b"library")
    monkeypatch.setattr(llama_source, "_site", lambda: site)
    monkeypatch.setattr(llama_source, "installed_version", lambda: VERSION)
    return site


def make_archive(file: Path, members: dict[str, str]) -> None:
    """A sdist with these members; a text that begins with "->" makes a symbolic link."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            if text.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, text[2:]
                tar.addfile(info)
            else:
                info.size = len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())


def test_unpack_takes_the_engine_and_leaves_everything_unsafe_out(tmp_path: Path) -> None:
    archive, outside = tmp_path / "a.tar.gz", tmp_path / "outside"
    outside.mkdir()
    members = {
        f"{INSIDE}/include/llama.h": "header",
        f"{INSIDE}/../../../../outside/up": "climbs",
        f"{outside}/absolute": "elsewhere",
        f"{INSIDE}/link": f"->{outside}",
        f"{INSIDE}/link/through": "would follow the link",
        f"{ROOT}/setup.py": "not llama.cpp",
        f"{ROOT}/vendor/llama.cpp-else/file": "only begins the same",
        f"other/{INSIDE}/file": "not at the root",
    }
    make_archive(archive, members)
    unpack(archive, INSIDE, tmp_path / "tree")
    assert files_in(tmp_path / "tree") == ["include/llama.h", "link/through"]
    assert not (tmp_path / "tree" / "link").is_symlink()
    assert files_in(outside) == []


def test_damaged_archive_is_named_and_leaves_no_tree(wheel: Path, cache: Path) -> None:
    archive = cache / "sdists" / f"{ROOT}.tar.gz"
    make_archive(archive, {f"{INSIDE}/include/llama.h": "x" * 100_000})
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(MissingDependency, match="damaged"):
        source_tree()
    assert files_in(cache / "source") == [f".{ROOT}.lock"]


def test_archive_without_the_engine_is_refused(tmp_path: Path) -> None:
    make_archive(tmp_path / "a.tar.gz", {f"{ROOT}/setup.py": ""})
    with pytest.raises(MissingDependency, match=r"has no .*vendor/llama\.cpp"):
        unpack(tmp_path / "a.tar.gz", INSIDE, tmp_path / "tree")


def test_source_is_unpacked_once_and_checked_against_the_installed_header(wheel: Path, cache: Path) -> None:
    archive = cache / "sdists" / f"{ROOT}.tar.gz"
    make_archive(archive, {f"{INSIDE}/include/llama.h": "// the one\n"})
    said: list[str] = []
    tree = source_tree(said.append)
    assert files_in(tree) == ["include/llama.h"]
    archive.unlink()
    assert source_tree(said.append) == tree
    assert len(said) == 1


def test_source_of_another_engine_is_refused(wheel: Path, cache: Path) -> None:
    make_archive(cache / "sdists" / f"{ROOT}.tar.gz", {f"{INSIDE}/include/llama.h": "// another\n"})
    with pytest.raises(MissingDependency, match="does not match the installed"):
        source_tree()
    (wheel / "include" / "llama.h").unlink()
    with pytest.raises(MissingDependency, match=r"has no .*llama\.h"):
        source_tree()


def test_known_version_must_have_the_known_hash(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(llama_source.SDIST_SHA256, VERSION, "0" * 64)
    make_archive(cache / "sdists" / f"{ROOT}.tar.gz", {f"{INSIDE}/include/llama.h": "// the one\n"})
    with pytest.raises(MissingDependency, match="its sha256 is not 000000000000"):
        source_tree()


def test_index_without_the_source_gives_a_clear_error(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        MissingDependency, match=r"source of llama-cpp-python 0\.0\.1 can't be fetched"
    ) as caught:
        sdist()
    assert f"{ROOT}.tar.gz" in (caught.value.hint or "")
    assert files_in(cache / "sdists") == [f".{ROOT}.tar.gz.lock"]


def test_pip_is_told_in_one_line() -> None:
    unreachable = "WARNING: Retrying … after connection broken by 'NewConnectionError'\nERROR: No matching"
    assert pip_reason(unreachable) == "the package index can't be reached (no network?)"
    assert pip_reason("Looking\nERROR: first\nERROR: second\n") == "first"
    assert pip_reason("") == "pip gave no reason"


def test_unknown_tool_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        tool("llama-quantise")
    assert "llama-quantize" in (caught.value.hint or "")


def test_without_a_compiler_the_message_names_what_is_lost(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        MissingDependency, match=r"without a C\+\+ compiler llama-bench can't be built"
    ) as caught:
        tool("llama-bench")
    assert caught.value.hint in {"apt install g++", "xcode-select --install"}


def test_failed_compile_tells_the_first_error_and_keeps_the_log(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(cache / "sdists" / f"{ROOT}.tar.gz", {f"{INSIDE}/include/llama.h": "// the one\n"})
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\necho "In file a.h:" >&2\necho "a.h:3: error: no such thing" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(
        MissingDependency, match=r"llama-bench did not compile: a\.h:3: error: no such"
    ) as caught:
        tool("llama-bench")
    log = Path((caught.value.hint or "").removeprefix("the whole log: "))
    assert "In file a.h:" in log.read_text()
    assert files_in(log.parent) == [".llama-bench.lock", "llama-bench.log"]


def test_tools_of_other_libraries_are_not_reused(wheel: Path) -> None:
    before = llama_source._tools_key()
    assert llama_source._tools_key() == before
    for library in (wheel / "lib").iterdir():
        library.write_bytes(b"rebuilt")
    assert llama_source._tools_key() != before


def test_first_error_of_a_silent_compiler() -> None:
    assert first_error("") == "it gave no reason"


@pytest.mark.slow
@pytest.mark.engine
def test_a_tool_compiles_and_runs_against_the_installed_wheel(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: edgebench runners build llama_cpp")
    archive = USERS_CACHE / "sdists" / f"llama_cpp_python-{llama_source.installed_version()}.tar.gz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there: it comes with building the engine")
    (cache / "sdists").mkdir(parents=True)
    (cache / "sdists" / archive.name).symlink_to(archive)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    program = tool("llama-quantize")
    shown = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert "Q4_K_M" in shown.stdout + shown.stderr
    first = program.stat().st_mtime_ns
    assert tool("llama-quantize").stat().st_mtime_ns == first
