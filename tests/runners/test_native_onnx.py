"""The native ONNX program: it answers as the in-process engine does, with the libraries beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import MissingDependency, ModelError, UsageError
from edgebench.core.types import Evidence, Format, Settings, Workload
from edgebench.runners import native_onnx
from edgebench.runners.native_job import JobFile, read_lines
from edgebench.runners.native_onnx import ELF, LIBRARY, LOADERS, PROGRAM, SHARED, OnnxBuilt
from edgebench.runners.native_target import abi_of, target_here
from edgebench.runners.onnx_native import OnnxNative

PROBE = Path(__file__).with_name("probe_native_onnx.py")
LAYOUTS = ("onnx-fp32", "onnx-fp16", "genai-fp32")
every_layout = pytest.mark.parametrize("level", LAYOUTS)
Lines = list[dict[str, Any]]
Do = Callable[..., tuple[int, Lines]]


@pytest.fixture(scope="session")
def native() -> OnnxBuilt:
    """The program for this computer, made once into the developer's cache."""
    try:
        return native_onnx.build_here(lambda line: print(line, file=sys.stderr))
    except MissingDependency as error:
        pytest.skip(f"the native ONNX program can't be made here: {error.message}")


@pytest.fixture
def do(native: OnnxBuilt, tmp_path: Path) -> Do:
    """`do(text)`: the program's exit status for a job file, and its lines."""

    def call(text: str) -> tuple[int, Lines]:
        job, out = tmp_path / "job.txt", tmp_path / "out.jsonl"
        job.write_text(text, encoding="ascii")
        out.unlink(missing_ok=True)
        done = started(native, [str(job), str(out)], tmp_path)
        told = out.read_text(encoding="utf-8")
        assert done.stdout == told  # whoever watches sees what is written
        return done.returncode, list(read_lines(told.splitlines()))

    return call


def started(native: OnnxBuilt, arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """The program, with a home folder of its own."""
    return subprocess.run(
        [str(native.files[PROGRAM]), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folders(
    tiny_checkpoint: Path,
    genai_tool: object,
    run_in_tool: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Each layout's folder."""
    folder = tmp_path_factory.mktemp("layouts")
    for level in LAYOUTS:
        job = {"checkpoint": str(tiny_checkpoint), "target": str(folder / level), "level": level}
        run_in_tool(level.split("-")[0], {**job, "base": str(folder / "onnx-fp32")})
    return {level: folder / level for level in LAYOUTS}


@pytest.fixture(scope="module")
def probed(folders: dict[str, Path], run_python_in_tool: Callable[..., str]) -> dict[str, dict[str, Any]]:
    """What the in-process engine says of each layout."""
    return {
        level: json.loads(run_python_in_tool(PROBE, folder).splitlines()[-1])
        for level, folder in folders.items()
    }


def job_file(folder: Path | str, n_ubatch: int = 16) -> JobFile:
    """A job on one thread, of pieces shorter than its texts."""
    return JobFile(str(folder), Settings(n_threads=1, n_ubatch=n_ubatch))


def of_type(lines: Lines, kind: str) -> Lines:
    """The lines of a type."""
    return [line for line in lines if line["type"] == kind]


# What it answers.


@pytest.mark.engine
@every_layout
def test_scores_are_those_of_the_in_process_engine(
    level: str, folders: dict[str, Path], probed: dict[str, dict[str, Any]], do: Do
) -> None:
    file, told = job_file(folders[level]), probed[level]
    file.context(128, 1)
    file.plain_group(3, told["items"])
    status, lines = do(file.text())
    assert status == 0
    assert [line["type"] for line in lines] == ["loaded", *["answer"] * len(told["items"]), "group", "done"]
    answers = of_type(lines, "answer")
    assert [(line["group"], line["item"]) for line in answers] == [(3, i) for i in range(len(answers))]
    for line, expected in zip(answers, told["logprobs"], strict=True):
        assert len(set(expected)) == len(expected) == 4
        assert line["logprobs"] == pytest.approx(expected, abs=1e-4)
        assert line["logprobs"].index(max(line["logprobs"])) == expected.index(max(expected))


@pytest.mark.engine
@every_layout
def test_facts_say_what_the_graph_is(level: str, folders: dict[str, Path], do: Do) -> None:
    status, lines = do(job_file(folders[level]).text())
    assert status == 0
    facts = lines[0]["facts"]
    assert facts["layout"] == level.split("-")[0].replace("onnx", "plain")
    assert facts["shared_buffer"] == (level == "genai-fp32")
    assert facts["cache_dtype"] == ("float16" if "fp16" in level else "float32")
    assert f"onnxruntime {facts['versions']['onnxruntime']}" == OnnxNative().version()
    assert facts["n_vocab"] == 49152


@pytest.mark.engine
@every_layout
def test_speed_is_told_repetition_by_repetition(level: str, folders: dict[str, Path], do: Do) -> None:
    file = job_file(folders[level])
    tests = [Workload(n_prompt=40), Workload(n_gen=5), Workload(n_prompt=7, n_gen=3, n_depth=20)]
    for workload in tests:
        file.test(workload, seed=1, first=2, n_rep=2, min_s=0.0)
    status, lines = do(file.text())
    assert status == 0
    trials = of_type(lines, "trial")
    told = [(trial["test"], trial["phase"], trial["repetition"]) for trial in trials]
    counted = [("warmup", 0), ("measured", 2), ("measured", 3)]
    assert told == [(workload.name, *one) for workload in tests for one in counted]
    for trial, workload in zip(trials, [one for one in tests for _ in range(3)], strict=True):
        n_ctx = workload.n_prompt + workload.n_gen + workload.n_depth
        assert trial["n_ctx"] == n_ctx
        assert (trial["prefill_s"] is None) == (not workload.n_prompt)
        assert (trial["decode_s"] is None) == (not workload.n_gen)
        assert trial["token_times_s"] == sorted(trial["token_times_s"])
        assert len(trial["token_times_s"]) == workload.n_gen
        assert 0 < trial["engine_s"] <= trial["total_s"] <= trial["end_s"] - trial["start_s"]
        in_place = 2 * 2 * 2 * 16 * 4 * n_ctx  # keys and values, layers, heads, width, bytes, tokens
        assert trial["kv_cache_bytes"] == (in_place if level == "genai-fp32" else None)
        assert trial["peak_rss_bytes"] >= trial["rss_anon_bytes"] > 0
    windows = of_type(lines, "window")
    assert [window["n_requests"] for window in windows] == [2, 2, 2]
    assert [window["n_prompt"] for window in windows] == [80, 0, 14]
    assert [window["n_gen"] for window in windows] == [0, 10, 6]


@pytest.mark.engine
def test_a_window_is_filled_with_repetitions(folders: dict[str, Path], do: Do) -> None:
    file = job_file(folders["onnx-fp32"])
    file.test(Workload(n_gen=1), seed=1, first=0, n_rep=1, min_s=0.5)
    _, lines = do(file.text())
    (window,) = of_type(lines, "window")
    assert window["end_s"] - window["start_s"] >= 0.5
    assert window["n_requests"] == len(of_type(lines, "trial")) - 1 > 1


@pytest.mark.engine
def test_minutes_of_writing_are_one_trial(folders: dict[str, Path], do: Do) -> None:
    file = job_file(folders["onnx-fp32"])
    file.sustained(Workload(n_gen=4, sustained_s=1), seed=-1)
    _, lines = do(file.text())
    measured = of_type(lines, "trial")[-1]
    assert measured["test"] == "sustained1"
    assert measured["total_s"] >= 1
    assert measured["n_gen"] == len(measured["token_times_s"]) > 4
    assert measured["n_gen"] % 4 == 0


@pytest.mark.engine
def test_a_request_in_tokens_has_a_first_token(
    folders: dict[str, Path], probed: dict[str, dict[str, Any]], do: Do
) -> None:
    tokens, enders = probed["onnx-fp32"]["items"][0][0], probed["onnx-fp32"]["enders"]
    words = ["ask", "chat6", 6, 0, 1, 0, len(enders), *enders, len(tokens), *tokens]
    text = job_file(folders["onnx-fp32"]).text() + " ".join(map(str, words)) + "\n"
    status, lines = do(text)
    assert status == 0
    trial = of_type(lines, "trial")[-1]
    assert (trial["test"], trial["n_prompt"], trial["n_gen"]) == ("chat6", len(tokens), 6)
    assert trial["prefill_s"] <= trial["ttft_s"] == trial["token_times_s"][0]
    assert trial["n_ctx"] == len(tokens) + 6


# What it refuses.


@pytest.mark.engine
@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("plain 0 2 5 49152 1 0 1 7", "has 49152 where a number from 0 on is due"),
        ("plain 0 2 5 6 1 0 2 7", "has 2 where a number from 0 on is due"),
        ("plain 0 2 5", "ends early"),
        ("plain 0 3 5 6 7 1 0 2 7", "scores before it opens a context"),
        ("context 2 1\nplain 0 3 5 6 7 1 0 2 7", "the context of 2 tokens is full (3 needed)"),
        ("context 9 1\nplain 0 1 5 1 0 0 7\nplain 1 1 5 1 0 0 7", "before the one before it is told"),
        ("context 9 1\nplain 0 1 5 1 1 0 7\nitem 0 2", "of which something was not read"),
        ("tree 1 1 0", "has an op tree"),
        ("chat chat4 4 0 1 0 41", "has an op chat"),
        ("test pp0 0 0 0 1 0 1 0", "opens a context"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_by_its_line(
    op: str, reason: str, folders: dict[str, Path], do: Do
) -> None:
    status, lines = do(job_file(folders["onnx-fp32"]).text() + op + "\n")
    assert status == 1
    assert lines[-1]["type"] == "error"
    assert reason in lines[-1]["message"]
    assert not of_type(lines, "answer")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "there is no graph"), (b"no graph at all", "onnxruntime: "), (b"", "onnxruntime: ")],
)
def test_what_is_no_graph_is_refused(content: bytes | None, reason: str, do: Do, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    for path in (tmp_path, tmp_path / "model.onnx"):
        if content is None and path == tmp_path:
            continue
        status, lines = do(job_file(path).text())
        assert status == 1
        assert [line["type"] for line in lines] == ["error"]
        assert reason in lines[0]["message"]


def test_another_version_of_the_job_format_is_refused(do: Do) -> None:
    status, lines = do("edgebench-job 0\n")
    assert (status, lines[-1]["message"]) == (1, "this is no job file of this version")


# What travels.


@pytest.mark.engine
def test_nothing_is_left_for_a_telemetry_to_send(folders: dict[str, Path], do: Do, tmp_path: Path) -> None:
    do(job_file(folders["onnx-fp32"]).text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.txt", "out.jsonl"]


def test_the_program_needs_nothing_but_what_lies_beside_it(native: OnnxBuilt) -> None:
    loader = native.files[Path(LOADERS[abi_of(native.target)]).name]
    for name in (ELF, LIBRARY):
        command = [str(loader), "--library-path", str(native.path), "--list", str(native.files[name])]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = [words[2] for line in told.splitlines() if (words := line.split())[1:2] == ["=>"]]
        assert found
        # The loader's own name is written into the libraries; it is the one that runs already.
        assert {Path(path).parent for path in found if Path(path).name != loader.name} == {native.path}


def test_the_program_starts_from_wherever_it_was_brought_to(native: OnnxBuilt, tmp_path: Path) -> None:
    folder = tmp_path / "bin" / "a folder"
    folder.mkdir(parents=True)
    for name, file in native.files.items():
        (folder / name).write_bytes(file.read_bytes())
        (folder / name).chmod(0o755)
    done = subprocess.run([folder / PROGRAM, "--version"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert f"onnxruntime {told['onnxruntime']}" == OnnxNative().version()


def test_a_build_is_found_again_and_named_by_its_contents(native: OnnxBuilt) -> None:
    again = native_onnx.built(native.target)
    assert again is not None
    assert (again.key, again.files) == (native.key, native.files)
    assert set(native.files) == {
        *(PROGRAM, ELF, LIBRARY, Path(LOADERS[abi_of(native.target)]).name),
        *SHARED,
    }
    assert native.path.name.endswith(native.key)


def test_the_same_program_of_another_source_is_found_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "some"
    file.write_text("content")
    first = native_onnx._keep({PROGRAM: file, ELF: file}, "linux-arm64")
    monkeypatch.setattr(native_onnx, "source_key", lambda: "another")
    assert native_onnx.built("linux-arm64") is None
    again = native_onnx._keep({PROGRAM: file, ELF: file}, "linux-arm64")
    assert again.key == first.key
    assert native_onnx.built("linux-arm64") == again


def test_what_the_programs_share_is_part_of_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = native_onnx.source_key()
    header = tmp_path / "edgebench_job.hpp"
    header.write_text(native_onnx.HEADER.read_text() + "\n")
    monkeypatch.setattr(native_onnx, "HEADER", header)
    assert native_onnx.source_key() != first


def test_phones_and_boards_have_a_shell_each(native: OnnxBuilt) -> None:
    phone = native_onnx.build(f"android-{abi_of(native.target)}")
    assert phone.files[PROGRAM].read_text().splitlines()[0] == "#!/system/bin/sh"
    assert native.files[PROGRAM].read_text().splitlines()[0] == "#!/bin/sh"
    assert phone.key != native.key
    assert phone.files[LIBRARY].read_bytes() == native.files[LIBRARY].read_bytes()


def test_libraries_that_are_not_all_there_are_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "aarch64-linux-gnu" / "lib"
    folder.mkdir(parents=True)
    for name in SHARED:
        (folder / name).touch()
    assert native_onnx._in_folders("arm64", tmp_path) == {}
    (folder / "ld-linux-aarch64.so.1").touch()
    found = native_onnx._in_folders("arm64", tmp_path)
    assert sorted(found) == sorted([*SHARED, "ld-linux-aarch64.so.1"])
    assert native_onnx._in_folders("x86_64", tmp_path) == {}


def test_without_glibc_the_command_that_brings_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get
    monkeypatch.setattr(native_onnx, "_in_folders", lambda _abi, _root: {})
    other = "x86_64" if (target_here() or "").endswith("arm64") else "arm64"
    with pytest.raises(MissingDependency, match=f"glibc for {other} is not here") as caught:
        native_onnx._glibc(other, tmp_path / LIBRARY, tmp_path, print)
    package = "libstdc++6-amd64-cross" if other == "x86_64" else "libstdc++6-arm64-cross"
    assert package in (caught.value.hint or "")


def test_the_ndk_is_refused_with_what_does_it() -> None:
    with pytest.raises(UsageError, match="no glibc"):
        native_onnx._compiled("arm64", "ndk", Path(), print)


def test_the_runner_says_what_it_is(tmp_path: Path) -> None:
    runner = OnnxNative()
    assert (runner.formats, runner.tool, runner.evidence) == ((Format.ONNX,), None, Evidence.MEASURED)
    assert runner.version().startswith("onnxruntime 1.")
    with pytest.raises(ModelError, match="whole jobs"):
        runner.load(tmp_path, Settings(n_threads=1))


def test_the_runner_is_there_once_it_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path))
    assert "not built" in (OnnxNative().available() or "")
    target = target_here()
    if target is None:
        pytest.skip("native programs are not built for this computer")
    file = tmp_path / "some"
    file.write_text("content")
    native_onnx._keep({PROGRAM: file, ELF: file}, target)
    assert OnnxNative().available() is None
